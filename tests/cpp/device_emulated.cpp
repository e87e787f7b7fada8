// csrc/torch/device_cuda.cpp for kernels that are emulated: memory is the CPU's, and there is no stream.
#include "device_cuda.h"

namespace pe::torch_adapter {

Device::Device(const Tensor& features, const char* name) : features_(features) {
    check(features.is_cpu(), name, ": expected features on the CPU, got ", device_text(features));
}

std::string Device::name() const { return "the CPU"; }

bool Device::holds(const Tensor& tensor) const { return tensor.is_cpu(); }

}  // namespace pe::torch_adapter
