// pe_runtime::contextual and its gradient, on the device of device.h. Schemas are in ops_library.cpp.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "adapter.h"

namespace pe::torch_adapter {
namespace {

// Settings and constants of a call, checked.
struct ContextualCall {
    ContextualCall(const Tensor& source, const Tensor& target, const std::optional<Tensor>& channels,
                   const std::optional<Tensor>& weights, double bandwidth, const std::string& distance,
                   const std::string& center, double spatial_weight, const std::string& form, double eps,
                   double eps_log, const std::string& matmul_precision)
        : device(source, "source"),
          constants((check_pair(device, source, target, "source", "target", false), channels), weights,
                    source.size(1)) {
        problem.batch = source.size(0);
        problem.source_height = source.size(2);
        problem.source_width = source.size(3);
        problem.target_height = target.size(2);
        problem.target_width = target.size(3);
        problem.channels = constants.get();
        problem.type = type_of(source);
        problem.distance = Distance(choose(distance, "distance", {"cosine", "l2"}));
        problem.center = Center(choose(center, "center", {"sample", "batch", "none"}));
        problem.form = Form(choose(form, "form", {"log", "one_minus"}));
        problem.precision =
            MatmulPrecision(choose(matmul_precision, "matmul_precision", {"highest", "high"}));
        problem.bandwidth = bandwidth;
        problem.eps = eps;
        problem.eps_log = eps_log;
        problem.spatial_weight = spatial_weight;
        check_numbers(problem);
        Kernels::check_grid(problem);
    }

    Device device;
    ChannelConstants constants;
    ContextualProblem problem{};
};

ContextualStatistics statistics_of(const Tensor& log_similarity, const Tensor& log_similarity_arg,
                                   const Tensor& row_min, const Tensor& row_min_arg,
                                   const Tensor& row_log_sum, const Tensor& row_sums) {
    return {log_similarity.data_ptr(), static_cast<int32_t*>(log_similarity_arg.data_ptr()),
            row_min.data_ptr(),        static_cast<int32_t*>(row_min_arg.data_ptr()),
            row_log_sum.data_ptr(),    row_sums.numel() > 0 ? row_sums.data_ptr() : nullptr};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> contextual(
    const Tensor& source, const Tensor& target, std::optional<Tensor> channels, std::optional<Tensor> weights,
    double bandwidth, std::string distance, std::string center, double spatial_weight, std::string form,
    double eps, double eps_log, bool keep_row_sums, std::string matmul_precision) {
    const ContextualCall call(source, target, channels, weights, bandwidth, distance, center, spatial_weight,
                              form, eps, eps_log, matmul_precision);
    const ContextualProblem& problem = call.problem;
    check(Kernels::kRowSums || !keep_row_sums, "row_sums: expected False on CUDA, where none are kept");
    const ScalarType type = result_type(source);
    const auto each = [&](const Tensor& features, ScalarType type) {
        return torch::stable::new_empty(features, {problem.batch, 1, features.size(2), features.size(3)},
                                        type);
    };
    const Tensor loss = torch::stable::new_empty(source, {problem.batch}, type);
    const Tensor log_similarity = each(target, type), log_similarity_arg = each(target, ScalarType::Int);
    const Tensor row_min = each(source, type), row_min_arg = each(source, ScalarType::Int);
    const Tensor row_log_sum = each(source, type);
    const std::vector<int64_t> sums_shape{problem.batch, problem.source_height, problem.source_width,
                                          problem.channels.count + 1};
    const Tensor row_sums =
        torch::stable::new_empty(source, keep_row_sums ? sums_shape : std::vector<int64_t>{0}, type);
    const FeatureMap source_map(source), target_map(target);
    call.device.run(
        "contextual", Kernels::contextual_forward,
        Kernels::contextual_forward_workspace(problem, call.device, keep_row_sums), problem, source_map.get(),
        target_map.get(), loss.mutable_data_ptr(),
        statistics_of(log_similarity, log_similarity_arg, row_min, row_min_arg, row_log_sum, row_sums));
    return {loss, log_similarity, log_similarity_arg, row_min, row_min_arg, row_log_sum, row_sums};
}

std::tuple<Tensor, Tensor> contextual_backward(
    std::optional<Tensor> loss_gradient, std::optional<Tensor> log_similarity_gradient, const Tensor& source,
    const Tensor& target, std::optional<Tensor> channels, std::optional<Tensor> weights,
    const Tensor& log_similarity, const Tensor& log_similarity_arg, const Tensor& row_min,
    const Tensor& row_min_arg, const Tensor& row_log_sum, const Tensor& row_sums, double bandwidth,
    std::string distance, std::string center, double spatial_weight, std::string form, double eps,
    double eps_log, std::string matmul_precision, bool source_needed, bool target_needed) {
    const ContextualCall call(source, target, channels, weights, bandwidth, distance, center, spatial_weight,
                              form, eps, eps_log, matmul_precision);
    const ContextualProblem& problem = call.problem;
    const ScalarType type = result_type(source);
    const auto each = [&](const Tensor& tensor, const char* name, const Tensor& features, ScalarType type) {
        return checked(call.device, tensor, name, {problem.batch, 1, features.size(2), features.size(3)},
                       type);
    };
    check(Kernels::kRowSums || row_sums.numel() == 0, "row_sums: expected none on CUDA, where none are kept");
    // Held here: a copy, if one is made, must outlive the kernel.
    const Tensor saved[] = {each(log_similarity, "log_similarity", target, type),
                            each(log_similarity_arg, "log_similarity_arg", target, ScalarType::Int),
                            each(row_min, "row_min", source, type),
                            each(row_min_arg, "row_min_arg", source, ScalarType::Int),
                            each(row_log_sum, "row_log_sum", source, type),
                            row_sums.numel() == 0
                                ? row_sums
                                : checked(call.device, row_sums, "row_sums",
                                          {problem.batch, problem.source_height, problem.source_width,
                                           problem.channels.count + 1},
                                          type)};
    const bool kept = saved[5].numel() > 0;
    if (loss_gradient) {
        loss_gradient = checked(call.device, *loss_gradient, "loss_gradient", {problem.batch}, type);
    }
    if (log_similarity_gradient) {
        log_similarity_gradient = each(*log_similarity_gradient, "log_similarity_gradient", target, type);
    }
    const FeatureMap source_map(source), target_map(target);
    GradientMap source_gradient(source, source_needed, true), target_gradient(target, target_needed, true);
    if (source_needed || target_needed) {
        call.device.run("contextual_backward", Kernels::contextual_backward,
                        Kernels::contextual_backward_workspace(problem, call.device, kept, target_needed),
                        problem, source_map.get(), target_map.get(),
                        statistics_of(saved[0], saved[1], saved[2], saved[3], saved[4], saved[5]),
                        loss_gradient ? loss_gradient->const_data_ptr() : nullptr,
                        log_similarity_gradient ? log_similarity_gradient->const_data_ptr() : nullptr,
                        source_gradient.get(), target_gradient.get());
    }
    return {source_gradient.finish(), target_gradient.finish()};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pe_runtime, PE_DISPATCH_KEY, library) {
    library.impl("contextual", TORCH_BOX(&contextual));
    library.impl("contextual_backward", TORCH_BOX(&contextual_backward));
}

}  // namespace pe::torch_adapter
