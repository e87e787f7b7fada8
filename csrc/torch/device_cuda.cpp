#include "device_cuda.h"

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace pe::torch_adapter {
namespace {

// torch's current stream. The function is in libtorch_cuda, which a torch without CUDA does not have: linked
// to it, this library would not load there. torch opens it where it has it, but not for others to find.
void* current_stream(int32_t device) {
    using Function = AOTITorchError(int32_t, void**);
    static Function* const function = [] {
        void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
        return reinterpret_cast<Function*>(
            dlsym(library == nullptr ? RTLD_DEFAULT : library, "aoti_torch_get_current_cuda_stream"));
    }();
    check(function != nullptr, "torch: expected a build with CUDA");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(function(device, &stream));
    return stream;
}

}  // namespace

Device::Device(const Tensor& features, const char* name) : features_(features) {
    check(features.is_cuda(), name, ": expected features on a CUDA device, got ", device_text(features));
    guard_.emplace(features.get_device_index());
    stream_ = current_stream(features.get_device_index());
}

std::string Device::name() const { return device_text(features_); }

bool Device::holds(const Tensor& tensor) const {
    return tensor.is_cuda() && tensor.get_device_index() == features_.get_device_index();
}

}  // namespace pe::torch_adapter
