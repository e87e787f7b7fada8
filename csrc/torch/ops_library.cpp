// Schemas of the operators. What they compute: contextual.h and channel_distance.h of the kernels, and
// docs/native.md. Gradients and shape functions are registered by pe_runtime/ops.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(pe_runtime, library) {
    library.def(
        "contextual(Tensor source, Tensor target, Tensor? channels=None, Tensor? weights=None, "
        "float bandwidth=0.5, str distance='cosine', str center='sample', float spatial_weight=0., "
        "str form='log', float eps=1e-5, float eps_log=0., bool row_sums=False, "
        "str matmul_precision='highest') -> "
        "(Tensor loss, Tensor log_similarity, Tensor log_similarity_arg, Tensor row_min, Tensor row_min_arg, "
        "Tensor row_log_sum, Tensor row_sums)");
    library.def(
        "contextual_backward(Tensor? loss_gradient, Tensor? log_similarity_gradient, Tensor source, "
        "Tensor target, Tensor? channels, Tensor? weights, Tensor log_similarity, Tensor log_similarity_arg, "
        "Tensor row_min, Tensor row_min_arg, Tensor row_log_sum, Tensor row_sums, float bandwidth, "
        "str distance, str center, float spatial_weight, str form, float eps, float eps_log, "
        "str matmul_precision, bool source_needed, bool target_needed) -> "
        "(Tensor source_gradient, Tensor target_gradient)");
    library.def(
        "channel_distance(Tensor first, Tensor second, Tensor? channels=None, Tensor? weights=None, "
        "Tensor? linear=None, str form='squared') -> (Tensor distance, Tensor map)");
    library.def(
        "channel_distance_backward(Tensor? distance_gradient, Tensor? map_gradient, Tensor first, "
        "Tensor second, Tensor? channels, Tensor? weights, Tensor? linear, str form, bool first_needed, "
        "bool second_needed) -> (Tensor first_gradient, Tensor second_gradient)");
}
