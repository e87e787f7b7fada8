#include "session.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"
#include "session_options.h"

namespace pe::capi {
namespace {

constexpr const char* kInputs[] = {"reference", "distorted"};
constexpr const char* kOutputs[] = {"score", "map"};
constexpr int64_t kFree = -1;
constexpr auto kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
constexpr auto kBool = ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;

std::string element_name(ONNXTensorElementDataType element) {
    switch (element) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
            return "float32";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
            return "uint8";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
            return "float64";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
            return "float16";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
            return "int64";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
            return "bool";
        default:
            return "element type " + std::to_string(element);
    }
}

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text;
    for (const int64_t size : shape) {
        text += (text.empty() ? "" : ", ") + (size < 0 ? std::string("?") : std::to_string(size));
    }
    return "(" + text + (shape.size() == 1 ? ",)" : ")");
}

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text.empty() ? "none" : text;
}

struct TensorType {
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::vector<int64_t> shape;
};

TensorType read_type(const Runtime& runtime, const OrtTensorTypeAndShapeInfo* info, pe_status on_error) {
    const OrtApi& api = runtime.api();
    TensorType type;
    std::size_t dimensions = 0;
    runtime.check(api.GetTensorElementType(info, &type.element), on_error, "metric: ");
    runtime.check(api.GetDimensionsCount(info, &dimensions), on_error, "metric: ");
    type.shape.resize(dimensions);
    runtime.check(api.GetDimensions(info, type.shape.data(), dimensions), on_error, "metric: ");
    return type;
}

TensorType type_of(const Runtime& runtime, const OrtValue* value) {
    const OrtApi& api = runtime.api();
    int is_tensor = 0;
    runtime.check(api.IsTensor(value, &is_tensor), PE_RUN_FAILED, "metric: ");
    if (is_tensor == 0) throw Error(PE_RUN_FAILED, "metric: expected tensors as its outputs");
    OrtTensorTypeAndShapeInfo* info = nullptr;
    runtime.check(api.GetTensorTypeAndShape(value, &info), PE_RUN_FAILED, "metric: ");
    const OrtPointer<OrtTensorTypeAndShapeInfo> owned(info, api.ReleaseTensorTypeAndShapeInfo);
    return read_type(runtime, info, PE_RUN_FAILED);
}

float score_of(const Runtime& runtime, OrtValue* value) {
    const TensorType type = type_of(runtime, value);
    if (type.element != kFloat32 || type.shape != std::vector<int64_t>{1}) {
        throw Error(PE_RUN_FAILED, "metric: expected one float32 score, got " + element_name(type.element) +
                                       " of shape " + shape_text(type.shape));
    }
    void* data = nullptr;
    runtime.check(runtime.api().GetTensorMutableData(value, &data), PE_RUN_FAILED, "metric: ");
    return *static_cast<const float*>(data);
}

Map map_of(const Runtime& runtime, OrtValue* value) {
    const TensorType type = type_of(runtime, value);
    const std::vector<int64_t>& shape = type.shape;
    if (type.element != kFloat32 || shape.size() != 4 || shape[0] != 1 || shape[1] != 1 || shape[2] < 1 ||
        shape[3] < 1) {
        throw Error(PE_RUN_FAILED, "metric: expected a float32 map of shape (1, 1, h, w), got " +
                                       element_name(type.element) + " of shape " + shape_text(shape));
    }
    void* data = nullptr;
    runtime.check(runtime.api().GetTensorMutableData(value, &data), PE_RUN_FAILED, "metric: ");
    const auto* values = static_cast<const float*>(data);
    Map map{shape[3], shape[2], std::vector<float>(values, values + shape[2] * shape[3])};
    if (!std::all_of(map.values.begin(), map.values.end(), [](float v) { return std::isfinite(v); })) {
        throw Error(PE_RUN_FAILED, "metric: expected a finite map, got NaN or infinity in it");
    }
    return map;
}

using NameOf = OrtStatusPtr(ORT_API_CALL*)(const OrtSession*, size_t, OrtAllocator*, char**);

std::vector<std::string> names(const Runtime& runtime, const OrtSession* session, std::size_t count,
                               NameOf name_of) {
    const OrtApi& api = runtime.api();
    OrtAllocator* allocator = nullptr;
    runtime.check(api.GetAllocatorWithDefaultOptions(&allocator), PE_INVALID_METRIC, "metric: ");
    std::vector<std::string> found;
    for (std::size_t i = 0; i < count; ++i) {
        char* name = nullptr;
        runtime.check(name_of(session, i, allocator, &name), PE_INVALID_METRIC, "metric: ");
        found.emplace_back(name);
        runtime.check(api.AllocatorFree(allocator, name), PE_INVALID_METRIC, "metric: ");
    }
    return found;
}

}  // namespace

Session::Session(const void* data, std::size_t bytes, bool has_operators, const Metadata& metadata,
                 const pe_metric_options& options)
    : runtime_(Runtime::open(options.onnxruntime)), input_(metadata.input) {
    const OrtApi& api = runtime_->api();
    const OrtPointer<OrtSessionOptions> settings = session_options(*runtime_, options, has_operators);
    OrtSession* session = nullptr;
    runtime_->check(
        api.CreateSessionFromArray(runtime_->environment(), data, bytes, settings.get(), &session),
        PE_INVALID_METRIC, "expected a graph that ONNX Runtime loads: ");
    session_ = {session, api.ReleaseSession};
    check_contract();
    OrtMemoryInfo* memory = nullptr;
    runtime_->check(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), PE_NO_RUNTIME,
                    "onnxruntime: ");
    memory_ = {memory, api.ReleaseMemoryInfo};
}

void Session::check_contract() {
    const OrtApi& api = runtime_->api();
    const auto check = [&](OrtStatus* status) { runtime_->check(status, PE_INVALID_METRIC, "metric: "); };
    std::size_t input_count = 0, output_count = 0;
    check(api.SessionGetInputCount(session_.get(), &input_count));
    check(api.SessionGetOutputCount(session_.get(), &output_count));
    const auto inputs = names(*runtime_, session_.get(), input_count, api.SessionGetInputName);
    const auto outputs = names(*runtime_, session_.get(), output_count, api.SessionGetOutputName);
    const auto holds = [](const std::vector<std::string>& all, const char* name) {
        return std::find(all.begin(), all.end(), name) != all.end();
    };
    if (inputs.size() != 2 || !holds(inputs, kInputs[0]) || !holds(inputs, kInputs[1])) {
        throw Error(PE_INVALID_METRIC, "expected inputs reference and distorted, got " + joined(inputs));
    }
    if (!holds(outputs, kOutputs[0])) {
        throw Error(PE_INVALID_METRIC, "expected an output score, got " + joined(outputs));
    }
    const bool planar = input_ == PE_INPUT_FLOAT32;
    const std::vector<int64_t> image =
        planar ? std::vector<int64_t>{kFree, 3, kFree, kFree} : std::vector<int64_t>{kFree, kFree, kFree, 3};
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        OrtTypeInfo* type = nullptr;
        check(api.SessionGetInputTypeInfo(session_.get(), i, &type));
        const OrtPointer<OrtTypeInfo> owned(type, api.ReleaseTypeInfo);
        check_value(inputs[i].c_str(), type, planar ? kFloat32 : kUint8, image);
    }
    const struct {
        const char* name;
        ONNXTensorElementDataType element;
        std::vector<int64_t> layout;
    } known[] = {{"score", kFloat32, {kFree}},
                 {"map", kFloat32, {kFree, 1, kFree, kFree}},
                 {"verdict", kBool, {kFree}}};
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        for (const auto& output : known) {
            if (outputs[i] != output.name) continue;
            OrtTypeInfo* type = nullptr;
            check(api.SessionGetOutputTypeInfo(session_.get(), i, &type));
            const OrtPointer<OrtTypeInfo> owned(type, api.ReleaseTypeInfo);
            check_value(output.name, type, output.element, output.layout);
        }
    }
    has_map_ = holds(outputs, kOutputs[1]);
}

void Session::check_value(const char* name, const OrtTypeInfo* type, ONNXTensorElementDataType element,
                          const std::vector<int64_t>& layout) const {
    const OrtApi& api = runtime_->api();
    const OrtTensorTypeAndShapeInfo* info = nullptr;
    runtime_->check(api.CastTypeInfoToTensorInfo(type, &info), PE_INVALID_METRIC, "metric: ");
    const std::string expected =
        std::string(name) + ": expected " + element_name(element) + " of shape " + shape_text(layout);
    if (info == nullptr) throw Error(PE_INVALID_METRIC, expected + ", got what is no tensor");
    const TensorType got = read_type(*runtime_, info, PE_INVALID_METRIC);
    bool fits = got.element == element && got.shape.size() == layout.size();
    for (std::size_t i = 0; fits && i < layout.size(); ++i) {
        // Sizes that a graph fixes are left to the runtime, which refuses images of any other.
        fits = layout[i] == kFree || got.shape[i] < 0 || got.shape[i] == layout[i];
    }
    if (!fits) {
        throw Error(PE_INVALID_METRIC,
                    expected + ", got " + element_name(got.element) + " of shape " + shape_text(got.shape));
    }
}

OrtPointer<OrtValue> Session::tensor(void* samples, int64_t width, int64_t height) const {
    const OrtApi& api = runtime_->api();
    const bool planar = input_ == PE_INPUT_FLOAT32;
    const int64_t planar_shape[] = {1, 3, height, width}, interleaved_shape[] = {1, height, width, 3};
    const std::size_t bytes = std::size_t(width) * std::size_t(height) * 3 * (planar ? sizeof(float) : 1);
    OrtValue* value = nullptr;
    runtime_->check(api.CreateTensorWithDataAsOrtValue(memory_.get(), samples, bytes,
                                                       planar ? planar_shape : interleaved_shape, 4,
                                                       planar ? kFloat32 : kUint8, &value),
                    PE_RUN_FAILED, "metric: ");
    return {value, api.ReleaseValue};
}

Outcome Session::run(void* reference, void* distorted, int64_t width, int64_t height, bool with_map) const {
    const OrtApi& api = runtime_->api();
    const OrtPointer<OrtValue> first = tensor(reference, width, height),
                               second = tensor(distorted, width, height);
    const OrtValue* inputs[] = {first.get(), second.get()};
    OrtValue* outputs[] = {nullptr, nullptr};
    OrtStatus* status =
        api.Run(session_.get(), nullptr, kInputs, inputs, 2, kOutputs, with_map ? 2 : 1, outputs);
    const OrtPointer<OrtValue> score(outputs[0], api.ReleaseValue), map(outputs[1], api.ReleaseValue);
    runtime_->check(status, PE_RUN_FAILED, "metric: expected to run on this pair, but: ");
    Outcome outcome{score_of(*runtime_, score.get()), std::nullopt};
    if (with_map) outcome.map = map_of(*runtime_, map.get());
    return outcome;
}

}  // namespace pe::capi
