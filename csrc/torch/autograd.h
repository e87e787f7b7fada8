// The operators of pe_runtime with their gradients, for C++ programs on libtorch.
//
// In Python gradients are registered by the package (pe_runtime/ops.py): torch's stable interface, which the
// library of operators keeps to, has none. This header is on torch's ordinary C++ interface instead, and is
// compiled with the program and the torch it is built for. Link libpe_runtime_torch, and for CUDA
// libpe_runtime_torch_cuda too, and keep them linked although no symbol of them is used, or open them with
// dlopen().
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <string>
#include <tuple>

namespace pe_runtime {

struct ContextualOptions {
    double bandwidth = 0.5;
    std::string distance = "cosine";  // or "l2"
    std::string center = "sample";    // or "batch", "none"
    double spatial_weight = 0;
    std::string form = "log";  // or "one_minus"
    double eps = 1e-5;
    double eps_log = 0;
    std::string matmul_precision = "highest";  // or "high", on CUDA
};

namespace detail {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

inline OptionalTensor given(const Tensor& tensor) {
    return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

inline c10::OperatorHandle find(const char* name) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

struct Contextual : torch::autograd::Function<Contextual> {
    static variable_list forward(AutogradContext* context, const Tensor& source, const Tensor& target,
                                 const OptionalTensor& channels, const OptionalTensor& weights,
                                 const ContextualOptions& options, bool row_sums_wanted) {
        using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
        using Signature =
            Outputs(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, double,
                    c10::string_view, c10::string_view, double, c10::string_view, double, double, bool,
                    c10::string_view);
        static const auto operation = find("pe_runtime::contextual").typed<Signature>();
        at::AutoDispatchBelowADInplaceOrView below_autograd;
        auto [loss, log_similarity, log_similarity_arg, row_min, row_min_arg, row_log_sum, row_sums] =
            operation.call(source, target, channels, weights, options.bandwidth, options.distance,
                           options.center, options.spatial_weight, options.form, options.eps,
                           options.eps_log, row_sums_wanted, options.matmul_precision);
        context->save_for_backward({source, target, channels.value_or(Tensor()), weights.value_or(Tensor()),
                                    log_similarity, log_similarity_arg, row_min, row_min_arg, row_log_sum,
                                    row_sums});
        context->saved_data["numbers"] =
            std::vector<double>{options.bandwidth, options.spatial_weight, options.eps, options.eps_log};
        context->saved_data["distance"] = options.distance;
        context->saved_data["center"] = options.center;
        context->saved_data["form"] = options.form;
        context->saved_data["matmul_precision"] = options.matmul_precision;
        context->set_materialize_grads(false);
        return {loss, log_similarity};
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        using Signature = std::tuple<Tensor, Tensor>(
            const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&, const OptionalTensor&,
            const OptionalTensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
            const Tensor&, double, c10::string_view, c10::string_view, double, c10::string_view, double,
            double, c10::string_view, bool, bool);
        static const auto operation = find("pe_runtime::contextual_backward").typed<Signature>();
        const variable_list saved = context->get_saved_variables();
        const std::vector<double> numbers = context->saved_data["numbers"].toDoubleVector();
        const bool source_needed = context->needs_input_grad(0), target_needed = context->needs_input_grad(1);
        at::AutoDispatchBelowADInplaceOrView below_autograd;
        auto [source, target] = operation.call(
            given(gradients[0]), given(gradients[1]), saved[0], saved[1], given(saved[2]), given(saved[3]),
            saved[4], saved[5], saved[6], saved[7], saved[8], saved[9], numbers[0],
            context->saved_data["distance"].toStringRef(), context->saved_data["center"].toStringRef(),
            numbers[1], context->saved_data["form"].toStringRef(), numbers[2], numbers[3],
            context->saved_data["matmul_precision"].toStringRef(), source_needed, target_needed);
        return {source_needed ? source : Tensor(), target_needed ? target : Tensor(), Tensor(), Tensor(),
                Tensor(), Tensor()};
    }
};

struct ChannelDistance : torch::autograd::Function<ChannelDistance> {
    static variable_list forward(AutogradContext* context, const Tensor& first, const Tensor& second,
                                 const OptionalTensor& channels, const OptionalTensor& weights,
                                 const OptionalTensor& linear, const std::string& form) {
        using Signature =
            std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const OptionalTensor&,
                                       const OptionalTensor&, const OptionalTensor&, c10::string_view);
        static const auto operation = find("pe_runtime::channel_distance").typed<Signature>();
        at::AutoDispatchBelowADInplaceOrView below_autograd;
        auto [distance, map] = operation.call(first, second, channels, weights, linear, form);
        context->save_for_backward({first, second, channels.value_or(Tensor()), weights.value_or(Tensor()),
                                    linear.value_or(Tensor())});
        context->saved_data["form"] = form;
        context->set_materialize_grads(false);
        return {distance, map};
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        using Signature = std::tuple<Tensor, Tensor>(
            const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&, const OptionalTensor&,
            const OptionalTensor&, const OptionalTensor&, c10::string_view, bool, bool);
        static const auto operation = find("pe_runtime::channel_distance_backward").typed<Signature>();
        const variable_list saved = context->get_saved_variables();
        const bool first_needed = context->needs_input_grad(0), second_needed = context->needs_input_grad(1);
        at::AutoDispatchBelowADInplaceOrView below_autograd;
        auto [first, second] = operation.call(
            given(gradients[0]), given(gradients[1]), saved[0], saved[1], given(saved[2]), given(saved[3]),
            given(saved[4]), context->saved_data["form"].toStringRef(), first_needed, second_needed);
        return {first_needed ? first : Tensor(),
                second_needed ? second : Tensor(),
                Tensor(),
                Tensor(),
                Tensor(),
                Tensor()};
    }
};

}  // namespace detail

// Loss of each sample, (B,), and log max_i CX_ij, (B, 1, Hy, Wy), both differentiable. channels: int64 (K,);
// weights: floating point, one per channel; both constants.
inline std::tuple<at::Tensor, at::Tensor> contextual(const at::Tensor& source, const at::Tensor& target,
                                                     const std::optional<at::Tensor>& channels = std::nullopt,
                                                     const std::optional<at::Tensor>& weights = std::nullopt,
                                                     const ContextualOptions& options = {}) {
    // Forward is cheaper without them, forward and backward together with them. Kernels for CUDA keep none.
    const bool row_sums = source.is_cpu() && at::GradMode::is_enabled() &&
                          (source.requires_grad() || target.requires_grad());
    const auto outputs = detail::Contextual::apply(source, target, channels, weights, options, row_sums);
    return {outputs[0], outputs[1]};
}

// Distance of each sample, (B,), and its map, (B, 1, H, W), both differentiable. form: "squared", with
// weights, or "unit", with linear.
inline std::tuple<at::Tensor, at::Tensor> channel_distance(
    const at::Tensor& first, const at::Tensor& second,
    const std::optional<at::Tensor>& channels = std::nullopt,
    const std::optional<at::Tensor>& weights = std::nullopt,
    const std::optional<at::Tensor>& linear = std::nullopt, const std::string& form = "squared") {
    const auto outputs = detail::ChannelDistance::apply(first, second, channels, weights, linear, form);
    return {outputs[0], outputs[1]};
}

}  // namespace pe_runtime
