// Tensors and memory of torch that devices need.
//
// The stable interface of torch only: see docs/native.md.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "arguments.h"

namespace pe::torch_adapter {

using torch::stable::Tensor;

// "cpu" or "cuda:1", as torch has it.
std::string device_text(const Tensor& tensor);

// Memory from torch's allocator, on the device of a tensor.
class Workspace {
  public:
    Workspace(size_t bytes, size_t alignment, const Tensor& like);
    void* get() const { return start_; }

  private:
    Tensor memory_;
    void* start_;
};

}  // namespace pe::torch_adapter
