// A kernel class as the C structure that ONNX Runtime calls.
#pragma once

#include <memory>

#include "adapter.h"
#include "shapes.h"

namespace pe::ort_adapter {

constexpr ONNXTensorElementDataType kFeatures = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

struct Input {
    ONNXTensorElementDataType type;  // kFeatures: that of the features
    bool optional;
};

// float64 for float64 features, else float32.
struct Output {
    bool optional;
};

inline ONNXTensorElementDataType element_type(Type type) {
    switch (type) {
        case Type::kFloat64:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
        case Type::kFloat16:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        case Type::kBFloat16:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
        case Type::kFloat32:
            break;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

// An operator for one type of features on one device. Operators of one name are one to ONNX Runtime, which
// takes the one that the types of the inputs and the node's provider fit. Kernel has:
//
//     static constexpr const char* kName;
//     static constexpr Input kInputs[]; static constexpr Output kOutputs[];
//     Kernel(const Node& node, Type type);
//     void run(const Run& run) const;              from several threads at once
//     static void infer_shapes(const ShapeInference& inference);
template <typename Kernel>
class Operator : public OrtCustomOp {
  public:
    // infer: whether shapes are inferred. The operator must outlive the sessions that it is registered in.
    Operator(const OrtApi& api, Type type, Device device, bool infer)
        : OrtCustomOp{}, api_(api), type_(type), device_(device) {
        version = kApiVersion;
        OrtCustomOp::CreateKernelV2 = &create;
        OrtCustomOp::KernelComputeV2 = &compute;
        OrtCustomOp::KernelDestroy = [](void* instance) { delete static_cast<Instance*>(instance); };
        OrtCustomOp::GetName = [](const OrtCustomOp*) { return Kernel::kName; };
        OrtCustomOp::GetExecutionProviderType = [](const OrtCustomOp* op) {
            return provider(of(op).device_);
        };
        OrtCustomOp::GetInputTypeCount = [](const OrtCustomOp*) { return std::size(Kernel::kInputs); };
        OrtCustomOp::GetOutputTypeCount = [](const OrtCustomOp*) { return std::size(Kernel::kOutputs); };
        OrtCustomOp::GetInputType = [](const OrtCustomOp* op, size_t index) {
            const ONNXTensorElementDataType type = Kernel::kInputs[index].type;
            return type == kFeatures ? element_type(of(op).type_) : type;
        };
        OrtCustomOp::GetOutputType = [](const OrtCustomOp* op, size_t) {
            return element_type(of(op).type_ == Type::kFloat64 ? Type::kFloat64 : Type::kFloat32);
        };
        OrtCustomOp::GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
            return characteristic(Kernel::kInputs[index].optional);
        };
        OrtCustomOp::GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
            return characteristic(Kernel::kOutputs[index].optional);
        };
        // Channels and factors are constants, which kernels read on the CPU.
        OrtCustomOp::GetInputMemoryType = [](const OrtCustomOp*, size_t index) {
            return Kernel::kInputs[index].type == kFeatures ? OrtMemTypeDefault : OrtMemTypeCPUInput;
        };
        if (infer) OrtCustomOp::InferOutputShapeFn = &infer_shapes;
    }

  private:
    // A kernel with what its runs need.
    struct Instance {
        Instance(const Node& node, Type type, Device device) : resources(node, device), kernel(node, type) {}

        Resources resources;
        Kernel kernel;
    };

    static const Operator& of(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

    static OrtCustomOpInputOutputCharacteristic characteristic(bool optional) {
        return optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    }

    static OrtStatus* create(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
        const OrtApi& api = of(op).api_;
        return guarded(api, Kernel::kName,
                       [&] { *kernel = new Instance(Node(api, info), of(op).type_, of(op).device_); });
    }

    static OrtStatus* compute(void* instance, OrtKernelContext* context) {
        const Instance& self = *static_cast<const Instance*>(instance);
        return guarded(self.resources.api, Kernel::kName,
                       [&] { self.kernel.run(Run(self.resources, context)); });
    }

    static OrtStatus* infer_shapes(const OrtCustomOp* op, OrtShapeInferContext* context) {
        const OrtApi& api = of(op).api_;
        return guarded(api, Kernel::kName, [&] { Kernel::infer_shapes(ShapeInference(api, context)); });
    }

    const OrtApi& api_;
    const Type type_;
    const Device device_;
};

}  // namespace pe::ort_adapter
