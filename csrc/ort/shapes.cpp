#include "shapes.h"

#include <cstdio>
#include <memory>

namespace pe::ort_adapter {

Known ShapeInference::input(size_t index) const {
    Known known{};
    size_t rank = 0;
    OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's
    check_status(api_, api_.ShapeInferContext_GetInputTypeShape(context_, index, &info));
    check_status(api_, api_.GetTensorElementType(info, &known.type));
    check_status(api_, api_.GetDimensionsCount(info, &rank));
    std::vector<int64_t> numbers(rank);
    std::vector<const char*> names(rank);
    check_status(api_, api_.GetDimensions(info, numbers.data(), rank));
    check_status(api_, api_.GetSymbolicDimensions(info, names.data(), rank));
    for (size_t axis = 0; axis < rank; ++axis) {
        known.sizes.push_back(
            {numbers[axis], numbers[axis] < 0 && names[axis] != nullptr ? names[axis] : ""});
    }
    return known;
}

void ShapeInference::set_output(size_t index, const Known& known) const {
    std::vector<int64_t> numbers;
    std::vector<const char*> names;
    for (const Size& size : known.sizes) {
        // It would be taken for a size of -1.
        if (!size.known()) return;
        numbers.push_back(size.number);
        names.push_back(size.name.c_str());
    }
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check_status(api_, api_.CreateTensorTypeAndShapeInfo(&info));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owner(
        info, api_.ReleaseTensorTypeAndShapeInfo);
    check_status(api_, api_.SetTensorElementType(info, known.type));
    check_status(api_, api_.SetDimensions(info, numbers.data(), numbers.size()));
    check_status(api_, api_.SetSymbolicDimensions(info, names.data(), names.size()));
    check_status(api_, api_.ShapeInferContext_SetOutputTypeShape(context_, index, info));
}

bool infers_shapes_safely(const char* version) {
    int major = 0, minor = 0;
    return std::sscanf(version, "%d.%d", &major, &minor) == 2 && (major > 1 || minor >= 24);
}

void infer_batch(const ShapeInference& inference) {
    for (size_t index : {0, 1}) {
        const Known features = inference.input(index);
        if (features.sizes.size() != 4 || !features.sizes[0].known()) continue;
        const bool wide = features.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
        inference.set_output(
            0, {wide ? ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                {features.sizes[0]}});
        return;
    }
}

}  // namespace pe::ort_adapter
