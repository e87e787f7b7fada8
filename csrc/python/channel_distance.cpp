#include "channel_distance.h"

#include "call.h"

namespace pe::python {
namespace {

using namespace pybind11::literals;

// Arguments that the forward and the backward pass share, checked. Factors are the weights of the squared
// form or the linear weights of the unit form: the other form has none.
struct Arguments {
    FeatureArray first, second;
    DistanceForm form;
    Selection selected;
    ChannelDistanceProblem problem;
    int threads;

    Arguments(const py::object& first_value, const py::object& second_value, const py::object& channels,
              const py::object& weights, const py::object& linear, const std::string& form_name,
              const py::object& threads_value)
        : first(feature_array(first_value, "first")),
          second(feature_array(second_value, "second")),
          form(choice<DistanceForm>(form_name, "form",
                                    {{"squared", DistanceForm::kSquared}, {"unit", DistanceForm::kUnit}})),
          selected((check_pair(first, second, "first", "second", true),
                    select(channels, weights, linear, form, first))),
          problem{.batch = first.batch,
                  .height = first.height,
                  .width = first.width,
                  .channels = selected.channels(),
                  .type = first.type,
                  .form = form,
                  .linear = nullptr},
          threads(thread_count(threads_value)) {
        if (form == DistanceForm::kUnit) std::swap(problem.channels.weights, problem.linear);
    }
    // The problem points into the selection.
    Arguments(const Arguments&) = delete;
    Arguments& operator=(const Arguments&) = delete;

    static Selection select(const py::object& channels, const py::object& weights, const py::object& linear,
                            DistanceForm form, const FeatureArray& features) {
        const bool unit = form == DistanceForm::kUnit;
        if (unit && !weights.is_none()) throw py::value_error("weights: the form 'unit' has linear instead");
        if (!unit && !linear.is_none())
            throw py::value_error("linear: the form 'squared' has weights instead");
        return selection(channels, unit ? linear : weights, unit ? "linear" : "weights", features);
    }

    std::vector<py::ssize_t> per_sample() const { return {first.batch}; }
    std::vector<py::ssize_t> per_position() const { return {first.batch, 1, first.height, first.width}; }
};

py::tuple forward(const py::object& first, const py::object& second, const py::object& channels,
                  const py::object& weights, const py::object& linear, const std::string& form,
                  const py::object& threads) {
    const Arguments arguments(first, second, channels, weights, linear, form, threads);
    const py::dtype real = arguments.first.result_dtype();
    py::array distance(real, arguments.per_sample()), map(real, arguments.per_position());
    void *const distance_data = distance.mutable_data(), *const map_data = map.mutable_data();
    const Features x = arguments.first.features(), y = arguments.second.features();
    call(
        arguments.threads,
        [&](int count) { return channel_distance_forward_workspace(arguments.problem, count); },
        [&](void* workspace, const Pool& pool) {
            channel_distance_forward(arguments.problem, x, y, distance_data, map_data, workspace, pool);
        });
    return py::make_tuple(distance, map);
}

py::tuple backward(const py::object& distance_gradient, const py::object& map_gradient,
                   const py::object& first, const py::object& second, const py::object& channels,
                   const py::object& weights, const py::object& linear, const std::string& form,
                   bool first_needed, bool second_needed, const py::object& threads) {
    const Arguments arguments(first, second, channels, weights, linear, form, threads);
    const py::dtype real = arguments.first.result_dtype();
    const auto upstream_distance =
        upstream(distance_gradient, "distance_gradient", real, arguments.per_sample());
    const auto upstream_map = upstream(map_gradient, "map_gradient", real, arguments.per_position());
    std::optional<FeatureArray> first_array, second_array;
    if (first_needed) first_array = gradient_array(arguments.first);
    if (second_needed) second_array = gradient_array(arguments.second);
    const Gradient first_gradient = gradient_of(first_array), second_gradient = gradient_of(second_array);
    const Features x = arguments.first.features(), y = arguments.second.features();
    const void* const distance_data = upstream_distance ? upstream_distance->data() : nullptr;
    const void* const map_data = upstream_map ? upstream_map->data() : nullptr;
    call(
        arguments.threads,
        [&](int count) { return channel_distance_backward_workspace(arguments.problem, count); },
        [&](void* workspace, const Pool& pool) {
            channel_distance_backward(arguments.problem, x, y, distance_data, map_data, first_gradient,
                                      second_gradient, workspace, pool);
        });
    return py::make_tuple(array_or_none(first_array), array_or_none(second_array));
}

}  // namespace

void bind_channel_distance(py::module_& module) {
    module.def("channel_distance", &forward, "first"_a, "second"_a, "channels"_a = py::none(),
               "weights"_a = py::none(), "linear"_a = py::none(), "form"_a = "squared", py::kw_only(),
               "threads"_a = py::none(), "Distance of each sample, and its map (B, 1, H, W).");
    module.def("channel_distance_backward", &backward, "distance_gradient"_a, "map_gradient"_a, "first"_a,
               "second"_a, "channels"_a = py::none(), "weights"_a = py::none(), "linear"_a = py::none(),
               "form"_a = "squared", py::kw_only(), "first_needed"_a = true, "second_needed"_a = true,
               "threads"_a = py::none(), "Gradients of both feature maps; None for one that is not needed.");
}

}  // namespace pe::python
