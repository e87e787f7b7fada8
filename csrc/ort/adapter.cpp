#include "adapter.h"

#include <cmath>
#include <cstdint>
#include <memory>

namespace pe::ort_adapter {

double Node::number(const char* name, double absent) const {
    float value = 0;
    if (succeeded(api_, api_.KernelInfoGetAttribute_float(info_, name, &value))) return value;
    check_absent(name, "a floating-point number");
    return absent;
}

std::string Node::text(const char* name, const std::string& absent) const {
    size_t size = 0;  // with the final 0
    if (!succeeded(api_, api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size))) {
        check_absent(name, "a string");
        return absent;
    }
    std::string value(size, '\0');
    check_status(api_, api_.KernelInfoGetAttribute_string(info_, name, value.data(), &size));
    value.resize(size - 1);
    return value;
}

// ONNX Runtime's failure does not say whether there is no such attribute or one of another type.
void Node::check_absent(const char* name, const char* expected) const {
    int64_t integer = 0;
    float number = 0;
    size_t size = 0;
    const bool exists =
        succeeded(api_, api_.KernelInfoGetAttribute_int64(info_, name, &integer)) ||
        succeeded(api_, api_.KernelInfoGetAttribute_float(info_, name, &number)) ||
        succeeded(api_, api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size)) ||
        succeeded(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size)) ||
        succeeded(api_, api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &size));
    check(!exists, name, ": expected ", expected, ", got an attribute of another type");
}

OrtAllocator* Node::allocator() const {
    OrtAllocator* allocator = nullptr;
    check_status(api_, api_.KernelInfoGetAllocator(info_, OrtMemTypeDefault, &allocator));
    return allocator;
}

Resources::Resources(const Node& node, Device device_)
    : api(node.api()), device(device_), allocator(node.allocator()), threads(api) {}

Run::Run(const Resources& resources, OrtKernelContext* context) : resources_(resources), context_(context) {
    check_status(resources_.api, resources_.api.KernelContext_GetInputCount(context_, &inputs_));
    check_status(resources_.api, resources_.api.KernelContext_GetOutputCount(context_, &outputs_));
}

std::optional<Tensor> Run::input(size_t index) const {
    const OrtApi& api = resources_.api;
    const OrtValue* value = nullptr;
    if (index < inputs_) check_status(api, api.KernelContext_GetInput(context_, index, &value));
    if (value == nullptr) return std::nullopt;

    OrtTensorTypeAndShapeInfo* info = nullptr;
    check_status(api, api.GetTensorTypeAndShape(value, &info));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owner(
        info, api.ReleaseTensorTypeAndShapeInfo);
    Tensor tensor{};
    size_t rank = 0;
    check_status(api, api.GetTensorElementType(info, &tensor.type));
    check_status(api, api.GetDimensionsCount(info, &rank));
    tensor.shape.resize(rank);
    check_status(api, api.GetDimensions(info, tensor.shape.data(), rank));
    // The interface has no reading access.
    void* data = nullptr;
    check_status(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    tensor.data = data;
    return tensor;
}

Tensor Run::required(size_t index, const char* name) const {
    std::optional<Tensor> tensor = input(index);
    check(tensor.has_value(), name, ": expected an input, got none");
    return *std::move(tensor);
}

void* Run::stream() const {
    void* stream = nullptr;
    check_status(resources_.api, resources_.api.KernelContext_GetGPUComputeStream(context_, &stream));
    return stream;
}

void* Run::output(size_t index, const Shape& shape) const {
    const OrtApi& api = resources_.api;
    OrtValue* value = nullptr;
    if (index < outputs_) {
        check_status(api, api.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
    }
    void* data = nullptr;
    if (value != nullptr) check_status(api, api.GetTensorMutableData(value, &data));
    return data;
}

void Run::run_tasks(void* context, int tasks, void (*body)(void*, int), void* argument) {
    auto& call = *static_cast<Call*>(context);
    const Resources& resources = call.run.resources_;
    OrtStatus* const error = resources.threads.run(call.run.context_, tasks, body, argument);
    // Kernels pass no exceptions on.
    if (call.error == nullptr) {
        call.error = error;
    } else if (error != nullptr) {
        resources.api.ReleaseStatus(error);
    }
}

Workspace::Workspace(const Run& run, const std::vector<size_t>& bytes)
    : resources_(run.resources()), stream_(resources_.device == Device::kCuda ? run.stream() : nullptr) {
    const auto aligned = [](uintptr_t size) {
        return (size + kDeviceAlignment - 1) / kDeviceAlignment * kDeviceAlignment;
    };
    size_t total = kDeviceAlignment;
    for (size_t size : bytes) total += aligned(size);
    parts_.reserve(bytes.size());
    memory_ = resources_.device == Device::kCuda ? allocate_on_stream(total, stream_)
                                                 : resources_.allocator->Alloc(resources_.allocator, total);
    if (memory_ == nullptr) throw std::bad_alloc();
    uintptr_t next = aligned(reinterpret_cast<uintptr_t>(memory_));
    for (size_t size : bytes) {
        parts_.push_back(reinterpret_cast<void*>(next));
        next += aligned(size);
    }
}

Workspace::~Workspace() {
    if (resources_.device == Device::kCuda) {
        free_on_stream(memory_, stream_);
    } else {
        resources_.allocator->Free(resources_.allocator, memory_);
    }
}

ChannelConstants::ChannelConstants(const std::optional<Tensor>& channels,
                                   const std::optional<Tensor>& factors, const char* factors_name,
                                   int64_t available)
    : count_(available) {
    if (channels) {
        check(channels->shape.size() == 1 && channels->shape[0] > 0,
              "channels: expected shape (K,), K > 0, got ", shape_text(channels->shape));
        count_ = channels->shape[0];
        indices_ = static_cast<const int64_t*>(channels->data);
        check_channels(indices_, count_, available);
    }
    if (factors) {
        check(factors->shape == Shape{count_}, factors_name, ": expected one for each of ", count_,
              " channels, got shape ", shape_text(factors->shape));
        const float* data = static_cast<const float*>(factors->data);
        factors_.emplace(data, data + count_);
        for (double factor : *factors_) {
            check(std::isfinite(factor) && factor >= 0, factors_name, ": expected finite numbers >= 0, got ",
                  factor);
        }
    }
}

Features features_of(const Tensor& tensor) {
    const int64_t positions = tensor.shape[2] * tensor.shape[3];
    return {tensor.data, {tensor.shape[1] * positions, positions, 1}};
}

}  // namespace pe::ort_adapter
