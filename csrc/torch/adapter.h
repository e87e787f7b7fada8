// What the PyTorch operators share: checks, layouts and constants, in terms of the kernels.
//
// The stable interface of torch only: see docs/native.md.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "device.h"

namespace pe::torch_adapter {

using torch::headeronly::ScalarType;

Shape shape_of(const Tensor& tensor);

// Type of the elements of features; the caller has checked them.
Type type_of(const Tensor& features);

// What losses and statistics of such features are: float64 for float64, else float32.
ScalarType result_type(const Tensor& features);

// Refuses anything but two feature maps on the device, of one type that the kernels read, whose shapes fit:
// see check_pair() of shapes. torch turns errors into a RuntimeError (C++: whatever the caller of the
// operator catches).
void check_pair(const Device& device, const Tensor& first, const Tensor& second, const char* first_name,
                const char* second_name, bool same_size);

// Refuses anything but a tensor of the shape and type on the device, and gives it contiguous.
Tensor checked(const Device& device, const Tensor& tensor, const char* name,
               std::initializer_list<int64_t> shape, ScalarType type);

// Features as the kernels read them: as they are where rows and columns are one walk of equal steps, else a
// copy.
class FeatureMap {
  public:
    explicit FeatureMap(const Tensor& tensor);
    Features get() const { return {tensor_.const_data_ptr(), layout_}; }

  private:
    Tensor tensor_;
    Layout layout_;
};

// A gradient in the memory format of its features, or, if it is not needed, an empty tensor.
class GradientMap {
  public:
    // zeroed: where the kernel does not write every element.
    GradientMap(const Tensor& features, bool needed, bool zeroed);
    Gradient get() const { return {needed_ ? written_.mutable_data_ptr() : nullptr, layout_}; }
    // After the kernel.
    Tensor finish();

  private:
    bool needed_;
    Tensor result_, written_;
    Layout layout_{};
};

// Selected channels with their weights, which lie on the CPU whatever the features lie on.
class ChannelConstants {
  public:
    // available: channels of the features.
    ChannelConstants(const std::optional<Tensor>& channels, const std::optional<Tensor>& weights,
                     int64_t available);
    Channels get() const;
    bool all() const { return !indices_; }

  private:
    int64_t count_;
    std::optional<Tensor> indices_;
    std::optional<std::vector<double>> weights_;
};

// One floating-point number for each channel, as double.
std::vector<double> factors(const Tensor& values, const char* name, int64_t count);

}  // namespace pe::torch_adapter
