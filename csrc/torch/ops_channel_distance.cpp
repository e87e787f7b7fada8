// pe_runtime::channel_distance and its gradient, on the device of device.h. Schemas are in ops_library.cpp.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "adapter.h"

namespace pe::torch_adapter {
namespace {

// Settings and constants of a call, checked.
struct ChannelDistanceCall {
    ChannelDistanceCall(const Tensor& first, const Tensor& second, const std::optional<Tensor>& channels,
                        const std::optional<Tensor>& weights, const std::optional<Tensor>& linear_weights,
                        const std::string& form)
        : device(first, "first"),
          constants((check_pair(device, first, second, "first", "second", true), channels), weights,
                    first.size(1)) {
        problem.batch = first.size(0);
        problem.height = first.size(2);
        problem.width = first.size(3);
        problem.channels = constants.get();
        problem.type = type_of(first);
        problem.form = DistanceForm(choose(form, "form", {"squared", "unit"}));
        const bool unit = problem.form == DistanceForm::kUnit;
        check(!(unit && weights), "weights: expected none with form 'unit', which has linear");
        check(unit || !linear_weights, "linear: expected none with form 'squared', which has weights");
        if (linear_weights) {
            linear = factors(*linear_weights, "linear", problem.channels.count);
            problem.linear = linear.data();
        }
    }

    Device device;
    ChannelConstants constants;
    std::vector<double> linear;
    ChannelDistanceProblem problem{};
};

std::tuple<Tensor, Tensor> channel_distance(const Tensor& first, const Tensor& second,
                                            std::optional<Tensor> channels, std::optional<Tensor> weights,
                                            std::optional<Tensor> linear, std::string form) {
    const ChannelDistanceCall call(first, second, channels, weights, linear, form);
    const ChannelDistanceProblem& problem = call.problem;
    const ScalarType type = result_type(first);
    const Tensor distance = torch::stable::new_empty(first, {problem.batch}, type);
    const Tensor map =
        torch::stable::new_empty(first, {problem.batch, 1, problem.height, problem.width}, type);
    const FeatureMap first_map(first), second_map(second);
    call.device.run("channel_distance", Kernels::channel_distance_forward,
                    Kernels::channel_distance_forward_workspace(problem, call.device), problem,
                    first_map.get(), second_map.get(), distance.mutable_data_ptr(), map.mutable_data_ptr());
    return {distance, map};
}

std::tuple<Tensor, Tensor> channel_distance_backward(std::optional<Tensor> distance_gradient,
                                                     std::optional<Tensor> map_gradient, const Tensor& first,
                                                     const Tensor& second, std::optional<Tensor> channels,
                                                     std::optional<Tensor> weights,
                                                     std::optional<Tensor> linear, std::string form,
                                                     bool first_needed, bool second_needed) {
    const ChannelDistanceCall call(first, second, channels, weights, linear, form);
    const ChannelDistanceProblem& problem = call.problem;
    const ScalarType type = result_type(first);
    if (distance_gradient) {
        distance_gradient =
            checked(call.device, *distance_gradient, "distance_gradient", {problem.batch}, type);
    }
    if (map_gradient) {
        map_gradient = checked(call.device, *map_gradient, "map_gradient",
                               {problem.batch, 1, problem.height, problem.width}, type);
    }
    const FeatureMap first_map(first), second_map(second);
    const bool zeroed = !call.constants.all();
    GradientMap first_gradient(first, first_needed, zeroed), second_gradient(second, second_needed, zeroed);
    if (first_needed || second_needed) {
        call.device.run("channel_distance_backward", Kernels::channel_distance_backward,
                        Kernels::channel_distance_backward_workspace(problem, call.device), problem,
                        first_map.get(), second_map.get(),
                        distance_gradient ? distance_gradient->const_data_ptr() : nullptr,
                        map_gradient ? map_gradient->const_data_ptr() : nullptr, first_gradient.get(),
                        second_gradient.get());
    }
    return {first_gradient.finish(), second_gradient.finish()};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pe_runtime, PE_DISPATCH_KEY, library) {
    library.impl("channel_distance", TORCH_BOX(&channel_distance));
    library.impl("channel_distance_backward", TORCH_BOX(&channel_distance_backward));
}

}  // namespace pe::torch_adapter
