// Backward of the contextual loss on CUDA, in closed form (contextual_backward_isa.cpp has the formulas): one
// attention-style pass over the rows that win columns, for the source; one more over all pairs of these and
// the target, where that needs a gradient; all else is O(N C).
#include "contextual_cuda.h"
#include "contextual_cuda_gradients.h"

namespace pe {
namespace cuda {
namespace {

// Parts of the sum over positions that the gradient of the mean is.
constexpr int kMeanParts = 64;

struct Call {
    const ContextualProblem& problem;
    Features source, target;
    ContextualStatistics statistics;
    const void *loss_gradient, *similarity_gradient;
    Gradient source_gradient, target_gradient;
};

constexpr unsigned warp_blocks(int64_t warps) { return unsigned(ceil_div(warps, kGradientThreads / 32)); }

// With a null workspace it only counts; what is wanted follows from which gradients are not null.
template <typename S, typename SourceTiles, typename SourceSums>
size_t backward(Launcher& launcher, const Call& call, void* workspace) {
    using T = Arithmetic<S>;
    using TargetTiles = DifferenceTiles<T>;
    const ContextualProblem& problem = call.problem;
    const bool target_wanted = call.target_gradient.data != nullptr;
    Arena arena(workspace);
    const Sample<T> sample(problem, arena, target_wanted);
    const int64_t nx = sample.source.count, ny = sample.target.count, batch = sample.batch;
    const int32_t k = sample.channels;
    const Winners<T> winners(arena, batch, int32_t(nx), int32_t(ny));
    const int64_t capacity = winners.capacity;
    const Shape by_rows =
        Shape::of<SourceTiles, SourceSums>(launcher, SourceTiles::chunks(sample), capacity, ny, batch);
    PairSums<T> of_source{arena.take<T>(by_rows.splits * batch * capacity * k),
                          arena.take<double>(by_rows.splits * batch * capacity),
                          by_rows.splits,
                          int32_t(batch),
                          int32_t(capacity),
                          k};
    const Shape by_columns =
        Shape::of<TargetTiles, PlainSums<T>>(launcher, sample.value_chunks, ny, capacity, batch);
    const int64_t target_sums = target_wanted ? by_columns.splits * batch * ny : 0;
    PairSums<T> of_target{arena.take<T>(target_sums * k),
                          arena.take<double>(target_sums),
                          by_columns.splits,
                          int32_t(batch),
                          int32_t(ny),
                          k};
    auto* parts = arena.take<double>(target_wanted ? batch * kMeanParts * k : 0);
    auto* centre = arena.take<double>(target_wanted ? batch * k : 0);
    if (workspace == nullptr) return arena.used();

    const auto* upstream = static_cast<const T*>(call.loss_gradient);
    const Inputs<T> in{
        static_cast<const T*>(call.statistics.log_similarity), call.statistics.log_similarity_arg,
        static_cast<const T*>(call.statistics.row_min),        call.statistics.row_min_arg,
        static_cast<const T*>(call.statistics.row_log_sum),    upstream,
        static_cast<const T*>(call.similarity_gradient)};
    const DeviceChannels channels = stage_channels(launcher, problem.channels, sample.channel_memory);
    prepare<S>(launcher, sample, problem, call.source, call.target, channels);
    find_winners(launcher, sample, winners, in, problem, SourceTiles::kRefines);

    const Stream<SourceTiles, true, false> rows(sample, sample.source, sample.target, winners.invalid,
                                                winners.index, winners.counts, winners.capacity);
    const SourceWeights<T> weights{winners.winner,    in.similarity_arg, winners.upstream,
                                   of_source.sums,    of_source.scalars, int32_t(batch),
                                   int32_t(capacity), int32_t(ny),       k};
    launch_stream<SourceSums>(launcher, by_rows, rows, capacity, batch, weights);
    launcher.launch(source_gradients<S, T>, dim3(warp_blocks(capacity), unsigned(batch)), kGradientThreads, 0,
                    sample, winners, in, of_source, call.source_gradient, channels);
    if (target_wanted) {
        const Stream<TargetTiles, false, true> all(sample, sample.target, sample.source, winners.invalid,
                                                   winners.index, winners.counts, winners.capacity);
        const TargetWeights<T> target_weights{winners.winner,    in.similarity_arg, winners.upstream,
                                              of_target.sums,    of_target.scalars, int32_t(batch),
                                              int32_t(capacity), int32_t(ny),       k};
        launch_stream<PlainSums<T>>(launcher, by_columns, all, ny, batch, target_weights);
        launcher.launch(target_gradients<S, T>, dim3(warp_blocks(ny), unsigned(batch)), kGradientThreads, 0,
                        sample, winners, in, of_target, call.target_gradient, channels);
        if (sample.centred) {
            launcher.launch(sum_gradients<T>, dim3(unsigned(ceil_div(k, 32)), kMeanParts, unsigned(batch)),
                            32 * kMeanRows, 32 * kMeanRows * sizeof(double), sample, winners, of_source,
                            of_target, parts);
            launcher.launch(finish_centre<T>, dim3(unsigned(ceil_div(k, kGradientThreads)), unsigned(batch)),
                            kGradientThreads, 0, sample, parts, kMeanParts, centre);
            launcher.launch(add_centre<S, T>,
                            dim3(unsigned(ceil_div(ny * k, 8 * kGradientThreads)), 1, unsigned(batch)),
                            kGradientThreads, 0, sample, centre, call.target_gradient, channels);
        }
    }
    for (const bool first : {true, false}) {
        const Gradient& gradient = first ? call.source_gradient : call.target_gradient;
        const int64_t positions = first ? nx : ny;
        if (gradient.data == nullptr) continue;
        launcher.launch(fill_with_nan<S, T>,
                        dim3(unsigned(ceil_div(positions * k, 8 * kGradientThreads)), 1, unsigned(batch)),
                        kGradientThreads, 0, winners, k, int(positions), gradient, channels);
    }
    return 0;
}

template <typename S>
size_t backward_of(Launcher& launcher, const Call& call, void* workspace) {
    using T = Arithmetic<S>;
    if constexpr (sizeof(T) == 4) {
        if (call.problem.distance == Distance::kCosine) {
            if (call.problem.precision == MatmulPrecision::kHigh) {
                return backward<S, TensorTiles<false, false>, TensorSums<false>>(launcher, call, workspace);
            }
            return backward<S, TensorTiles<true, false>, TensorSums<true>>(launcher, call, workspace);
        }
    }
    return backward<S, DifferenceTiles<T>, PlainSums<T>>(launcher, call, workspace);
}

size_t dispatch(Launcher& launcher, const Call& call, void* workspace) {
    switch (call.problem.type) {
        case Type::kFloat64:
            return backward_of<double>(launcher, call, workspace);
        case Type::kFloat16:
            return backward_of<Half>(launcher, call, workspace);
        case Type::kBFloat16:
            return backward_of<BFloat16>(launcher, call, workspace);
        default:
            return backward_of<float>(launcher, call, workspace);
    }
}

}  // namespace
}  // namespace cuda

size_t contextual_backward_cuda_workspace(const ContextualProblem& problem, bool target_gradient) {
    cuda::Launcher launcher(nullptr);
    // What it points to is not written to; that it is not null says that it is wanted.
    static int wanted = 0;
    return cuda::dispatch(
        launcher, {problem, {}, {}, {}, nullptr, nullptr, {}, {target_gradient ? &wanted : nullptr, {}}},
        nullptr);
}

const char* contextual_backward_cuda(const ContextualProblem& problem, const Features& source,
                                     const Features& target, const ContextualStatistics& statistics,
                                     const void* loss_gradient, const void* log_similarity_gradient,
                                     const Gradient& source_gradient, const Gradient& target_gradient,
                                     void* workspace, void* stream) {
    if (statistics.row_sums != nullptr) return "row_sums: expected none, as backward takes them";
    cuda::Launcher launcher(stream);
    cuda::dispatch(launcher,
                   {problem, source, target, statistics, loss_gradient, log_similarity_gradient,
                    source_gradient, target_gradient},
                   workspace);
    return launcher.error();
}

}  // namespace pe
