#include "contextual.h"

#include "call.h"

namespace pe::python {
namespace {

using namespace pybind11::literals;

// Arguments that the forward and the backward pass share, checked.
struct Arguments {
    FeatureArray source, target;
    Selection selected;
    ContextualProblem problem;
    int threads;

    Arguments(const py::object& source_value, const py::object& target_value, const py::object& channels,
              const py::object& weights, double bandwidth, const std::string& distance,
              const std::string& center, double spatial_weight, const std::string& form, double eps,
              double eps_log, const py::object& threads_value)
        : source(feature_array(source_value, "source")),
          target(feature_array(target_value, "target")),
          selected((check_pair(source, target, "source", "target", false),
                    selection(channels, weights, "weights", source))),
          problem{.batch = source.batch,
                  .source_height = source.height,
                  .source_width = source.width,
                  .target_height = target.height,
                  .target_width = target.width,
                  .channels = selected.channels(),
                  .type = source.type,
                  .distance = choice<Distance>(distance, "distance",
                                               {{"cosine", Distance::kCosine}, {"l2", Distance::kL2}}),
                  .center = choice<Center>(
                      center, "center",
                      {{"sample", Center::kSample}, {"batch", Center::kBatch}, {"none", Center::kNone}}),
                  .form = choice<Form>(form, "form", {{"log", Form::kLog}, {"one_minus", Form::kOneMinus}}),
                  .bandwidth = finite(bandwidth, "bandwidth", 0, false),
                  .eps = finite(eps, "eps", 0, false),
                  .eps_log = finite(eps_log, "eps_log", 0, true),
                  .spatial_weight = finite(spatial_weight, "spatial_weight", 0, true)},
          threads(thread_count(threads_value)) {}
    // The problem points into the selection.
    Arguments(const Arguments&) = delete;
    Arguments& operator=(const Arguments&) = delete;

    std::vector<py::ssize_t> per_sample() const { return {source.batch}; }
    std::vector<py::ssize_t> per_source() const { return {source.batch, source.positions()}; }
    std::vector<py::ssize_t> per_target() const { return {source.batch, target.positions()}; }
    std::vector<py::ssize_t> sums() const {
        return {source.batch, source.positions(), py::ssize_t(problem.channels.count) + 1};
    }
};

py::tuple forward(const py::object& source, const py::object& target, const py::object& channels,
                  const py::object& weights, double bandwidth, const std::string& distance,
                  const std::string& center, double spatial_weight, const std::string& form, double eps,
                  double eps_log, bool keep_row_sums, const py::object& threads) {
    const Arguments arguments(source, target, channels, weights, bandwidth, distance, center, spatial_weight,
                              form, eps, eps_log, threads);
    const py::dtype real = arguments.source.result_dtype(), index = py::dtype::of<int32_t>();
    py::array loss(real, arguments.per_sample());
    py::array log_similarity(real, arguments.per_target()), log_similarity_arg(index, arguments.per_target());
    py::array row_min(real, arguments.per_source()), row_min_arg(index, arguments.per_source());
    py::array row_log_sum(real, arguments.per_source());
    py::array row_sums(real, keep_row_sums ? arguments.sums() : std::vector<py::ssize_t>{0});
    const ContextualStatistics statistics{
        log_similarity.mutable_data(), static_cast<int32_t*>(log_similarity_arg.mutable_data()),
        row_min.mutable_data(), static_cast<int32_t*>(row_min_arg.mutable_data()),
        row_log_sum.mutable_data(), keep_row_sums ? row_sums.mutable_data() : nullptr};
    const Features x = arguments.source.features(), y = arguments.target.features();
    void* const loss_data = loss.mutable_data();
    call(
        arguments.threads,
        [&](int count) { return contextual_forward_workspace(arguments.problem, count, keep_row_sums); },
        [&](void* workspace, const Pool& pool) {
            contextual_forward(arguments.problem, x, y, loss_data, statistics, workspace, pool);
        });
    return py::make_tuple(loss, py::make_tuple(log_similarity, log_similarity_arg, row_min, row_min_arg,
                                               row_log_sum, row_sums));
}

py::tuple backward(const py::object& loss_gradient, const py::object& log_similarity_gradient,
                   const py::object& source, const py::object& target, const py::tuple& saved,
                   const py::object& channels, const py::object& weights, double bandwidth,
                   const std::string& distance, const std::string& center, double spatial_weight,
                   const std::string& form, double eps, double eps_log, bool source_needed,
                   bool target_needed, const py::object& threads) {
    const Arguments arguments(source, target, channels, weights, bandwidth, distance, center, spatial_weight,
                              form, eps, eps_log, threads);
    if (saved.size() != 6) {
        throw py::value_error("statistics: expected the six arrays of contextual(), got " +
                              std::to_string(saved.size()));
    }
    const py::dtype real = arguments.source.result_dtype(), index = py::dtype::of<int32_t>();
    const auto upstream_loss = upstream(loss_gradient, "loss_gradient", real, arguments.per_sample());
    const auto upstream_map =
        upstream(log_similarity_gradient, "log_similarity_gradient", real, arguments.per_target());
    const py::array arrays[] = {exact_array(saved[0], "statistics[0]", real, arguments.per_target()),
                                exact_array(saved[1], "statistics[1]", index, arguments.per_target()),
                                exact_array(saved[2], "statistics[2]", real, arguments.per_source()),
                                exact_array(saved[3], "statistics[3]", index, arguments.per_source()),
                                exact_array(saved[4], "statistics[4]", real, arguments.per_source())};
    std::optional<py::array> row_sums;
    if (py::len(saved[5]) > 0) row_sums = exact_array(saved[5], "statistics[5]", real, arguments.sums());
    // The kernel only reads them here.
    const auto data = [&](int which) { return const_cast<void*>(arrays[which].data()); };
    const ContextualStatistics statistics{data(0), static_cast<int32_t*>(data(1)), data(2),
                                          static_cast<int32_t*>(data(3)), data(4),
                                          row_sums ? const_cast<void*>(row_sums->data()) : nullptr};
    std::optional<FeatureArray> source_array, target_array;
    if (source_needed) source_array = gradient_array(arguments.source);
    if (target_needed) target_array = gradient_array(arguments.target);
    const Gradient source_gradient = gradient_of(source_array), target_gradient = gradient_of(target_array);
    const Features x = arguments.source.features(), y = arguments.target.features();
    const void* const loss_data = upstream_loss ? upstream_loss->data() : nullptr;
    const void* const map_data = upstream_map ? upstream_map->data() : nullptr;
    call(
        arguments.threads,
        [&](int count) {
            return contextual_backward_workspace(arguments.problem, count, row_sums.has_value(),
                                                 target_needed);
        },
        [&](void* workspace, const Pool& pool) {
            contextual_backward(arguments.problem, x, y, statistics, loss_data, map_data, source_gradient,
                                target_gradient, workspace, pool);
        });
    return py::make_tuple(array_or_none(source_array), array_or_none(target_array));
}

}  // namespace

void bind_contextual(py::module_& module) {
    module.def("contextual", &forward, "source"_a, "target"_a, "channels"_a = py::none(),
               "weights"_a = py::none(), "bandwidth"_a = 0.5, py::kw_only(), "distance"_a = "cosine",
               "center"_a = "sample", "spatial_weight"_a = 0.0, "form"_a = "log", "eps"_a = 1e-5,
               "eps_log"_a = 0.0, "row_sums"_a = false, "threads"_a = py::none(),
               "Contextual loss of each sample, and the statistics that its gradient needs.");
    module.def("contextual_backward", &backward, "loss_gradient"_a, "log_similarity_gradient"_a, "source"_a,
               "target"_a, "statistics"_a, "channels"_a = py::none(), "weights"_a = py::none(),
               "bandwidth"_a = 0.5, py::kw_only(), "distance"_a = "cosine", "center"_a = "sample",
               "spatial_weight"_a = 0.0, "form"_a = "log", "eps"_a = 1e-5, "eps_log"_a = 0.0,
               "source_needed"_a = true, "target_needed"_a = true, "threads"_a = py::none(),
               "Gradients of the source and of the target; None for one that is not needed.");
}

}  // namespace pe::python
