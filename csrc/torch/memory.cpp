#include "memory.h"

#include <torch/csrc/stable/ops.h>

namespace pe::torch_adapter {

using torch::headeronly::ScalarType;

std::string device_text(const Tensor& tensor) {
    if (tensor.is_cpu()) return "cpu";
    // Operators are called for no third device: their keys are those of these two.
    return "cuda:" + std::to_string(tensor.get_device_index());
}

Workspace::Workspace(size_t bytes, size_t alignment, const Tensor& like)
    : memory_(torch::stable::new_empty(like, {int64_t(bytes + alignment)}, ScalarType::Byte)) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.mutable_data_ptr());
    const uintptr_t mask = alignment - 1;
    start_ = reinterpret_cast<void*>((address + mask) & ~mask);
}

}  // namespace pe::torch_adapter
