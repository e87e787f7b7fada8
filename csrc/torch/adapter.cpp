#include "adapter.h"

#include <torch/csrc/stable/ops.h>

namespace pe::torch_adapter {
namespace {

// Positions, rows before columns, as one walk: its step, or nothing where the rows do not follow on each
// other.
std::optional<int64_t> position_stride(const Tensor& features) {
    const int64_t height = features.size(2), width = features.size(3);
    if (width == 1) return height == 1 ? 1 : features.stride(2);
    if (height == 1 || features.stride(2) == width * features.stride(3)) return features.stride(3);
    return std::nullopt;
}

Layout layout_of(const Tensor& features) {
    return {features.stride(0), features.stride(1), position_stride(features).value()};
}

const char* type_name(ScalarType type) { return torch::headeronly::toString(type); }

void check_storage(const Tensor& features, const char* name) {
    const ScalarType type = features.scalar_type();
    check(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
              type == ScalarType::BFloat16,
          name, ": expected features in float32, float64, float16 or bfloat16, got ", type_name(type));
}

}  // namespace

Shape shape_of(const Tensor& tensor) {
    const auto sizes = tensor.sizes();
    return Shape(sizes.begin(), sizes.end());
}

Type type_of(const Tensor& features) {
    switch (features.scalar_type()) {
        case ScalarType::Double:
            return Type::kFloat64;
        case ScalarType::Half:
            return Type::kFloat16;
        case ScalarType::BFloat16:
            return Type::kBFloat16;
        default:
            return Type::kFloat32;
    }
}

ScalarType result_type(const Tensor& features) {
    return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_pair(const Device& device, const Tensor& first, const Tensor& second, const char* first_name,
                const char* second_name, bool same_size) {
    check_storage(first, first_name);
    check_storage(second, second_name);
    check(device.holds(second), second_name, ": expected features on ", device.name(), " as ", first_name,
          ", got ", device_text(second));
    pe::check_pair(shape_of(first), shape_of(second), first_name, second_name, same_size);
    check(first.scalar_type() == second.scalar_type(), first_name, " and ", second_name,
          ": expected one type, got ", type_name(first.scalar_type()), " and ",
          type_name(second.scalar_type()));
}

Tensor checked(const Device& device, const Tensor& tensor, const char* name,
               std::initializer_list<int64_t> shape, ScalarType type) {
    const bool here = device.holds(tensor);
    bool fits = here && tensor.scalar_type() == type && tensor.dim() == int64_t(shape.size());
    int64_t dimension = 0;
    for (int64_t size : shape) fits = fits && tensor.size(dimension++) == size;
    std::string expected;
    for (int64_t size : shape) expected += (expected.empty() ? "" : ", ") + std::to_string(size);
    check(fits, name, ": expected ", type_name(type), " on ", device.name(), " in shape (", expected,
          "), got ", type_name(tensor.scalar_type()), here ? "" : " on " + device_text(tensor), " in shape ",
          shape_text(shape_of(tensor)));
    return torch::stable::contiguous(tensor);
}

FeatureMap::FeatureMap(const Tensor& tensor)
    : tensor_(position_stride(tensor) ? tensor : torch::stable::contiguous(tensor)),
      layout_(layout_of(tensor_)) {}

GradientMap::GradientMap(const Tensor& features, bool needed, bool zeroed)
    : needed_(needed),
      result_(needed ? torch::stable::empty_like(features) : torch::stable::new_empty(features, {0})),
      written_(result_) {
    if (!needed) return;
    if (!position_stride(result_)) written_ = torch::stable::new_empty(features, features.sizes());
    if (zeroed) torch::stable::zero_(written_);
    layout_ = layout_of(written_);
}

Tensor GradientMap::finish() {
    if (written_.get() != result_.get()) torch::stable::copy_(result_, written_);
    return result_;
}

ChannelConstants::ChannelConstants(const std::optional<Tensor>& channels,
                                   const std::optional<Tensor>& weights, int64_t available)
    : count_(available) {
    if (channels) {
        check(channels->is_cpu() && channels->scalar_type() == ScalarType::Long && channels->dim() == 1 &&
                  channels->numel() > 0,
              "channels: expected int64 on the CPU in shape (K,), K > 0, got ",
              type_name(channels->scalar_type()), " in shape ", shape_text(shape_of(*channels)));
        indices_ = torch::stable::contiguous(*channels);
        count_ = indices_->numel();
        check_channels(indices_->const_data_ptr<int64_t>(), count_, available);
    }
    if (weights) weights_ = factors(*weights, "weights", count_);
}

Channels ChannelConstants::get() const {
    return {count_, indices_ ? indices_->const_data_ptr<int64_t>() : nullptr,
            weights_ ? weights_->data() : nullptr};
}

std::vector<double> factors(const Tensor& values, const char* name, int64_t count) {
    check(values.is_cpu(), name, ": expected a tensor on the CPU");
    check(values.dim() == 1 && values.size(0) == count, name, ": expected one for each of ", count,
          " channels, got shape ", shape_text(shape_of(values)));
    const Tensor wide = torch::stable::contiguous(torch::stable::to(values, ScalarType::Double));
    const double* data = wide.const_data_ptr<double>();
    return {data, data + count};
}

}  // namespace pe::torch_adapter
