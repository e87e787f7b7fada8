// Forward of the contextual loss on CUDA: three passes over all pairs, for the row minima, the row sums and
// the column maxima, and small kernels over positions between them.
#include "contextual_cuda.h"
#include "contextual_cuda_passes.h"
#include "contextual_cuda_reduce.h"

namespace pe {
namespace cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct Outputs {
    T* loss;
    T* similarity;
    int32_t* similarity_arg;
    T* row_min;
    int32_t* row_min_arg;
    T* row_log_sum;
};

template <typename T>
struct Partials {
    T* value;  // [splits][batch][positions]
    int32_t* arg;
    double* sum;
    int32_t* not_finite;  // [batch]: samples that no pass is taken over
    int32_t splits;
};

// Row minima, and what the next pass needs of each row. Grid: rows / kThreads, samples.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    finish_minima(Partials<T> partials, Refining<T> refining, bool refines, int32_t batch, int32_t rows,
                  Outputs<T> out, RowConstants<T>* constants, int32_t* most_refined) {
    const int i = int(blockIdx.x) * kThreads + int(threadIdx.x), b = int(blockIdx.y);
    if (i >= rows || partials.not_finite[b] != 0) return;
    const int64_t place = int64_t(b) * rows + i;
    T least = partials.value[place];
    int32_t arg = partials.arg[place];
    for (int split = 1; split < partials.splits; ++split) {
        const int64_t at = (int64_t(split) * batch + b) * rows + i;
        // Columns rise with the splits: ties stay with the first.
        if (partials.value[at] < least) {
            least = partials.value[at];
            arg = partials.arg[at];
        }
    }
    out.row_min[place] = least;
    out.row_min_arg[place] = arg;
    // Where all distances of a row overflow, the definition has 0 / 0.
    if (least - least != 0) atomicOr(&partials.not_finite[b], 1);
    RowConstants<T> row{};
    row.scale = exponent_scale<T>(1 / (refining.bandwidth * (double(least) + refining.eps)));
    row.shift = T(-double(row.scale) * double(least));
    row.threshold = refines ? refining.threshold(double(least)) : T(0);
    row.nearest = arg;
    constants[place] = row;
    if (row.threshold > 0) atomicMax(&most_refined[b], int32_t(__float_as_uint(float(row.threshold))));
}

// Row sums, and what the column maxima need of each row. Grid: rows / kThreads, samples.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    finish_sums(Partials<T> partials, int32_t batch, int32_t rows, double log2_columns, Outputs<T> out,
                RowConstants<T>* constants) {
    const int i = int(blockIdx.x) * kThreads + int(threadIdx.x), b = int(blockIdx.y);
    if (i >= rows || partials.not_finite[b] != 0) return;
    double sum = 0;
    for (int split = 0; split < partials.splits; ++split) {
        sum += partials.sum[(int64_t(split) * batch + b) * rows + i];
    }
    const int64_t place = int64_t(b) * rows + i;
    RowConstants<T>& row = constants[place];
    // The rounding of `shift`, which all exponentials of a row have in them.
    const double at_least = double(row.scale) * double(out.row_min[place]);
    const double log_sum = log1p(sum * exp2(-(at_least + double(row.shift))));
    out.row_log_sum[place] = T(log_sum);
    row.at_nearest = T(log2_columns - log_sum * kLog2E);
    row.shift = T(log2_columns - log_sum * kLog2E - at_least);
}

// Similarities and the loss. One block for each sample.
template <typename T>
__global__ void __launch_bounds__(kReduceThreads)
    finish_loss(Partials<T> partials, int32_t batch, int32_t rows, int32_t columns, Form form, double eps_log,
                Outputs<T> out) {
    const int b = int(blockIdx.x);
    const int64_t first_row = int64_t(b) * rows, first_column = int64_t(b) * columns;
    const double log_columns = log(double(columns));
    double excess = 0;  // of exp(v_j) over 1
    bool finite = partials.not_finite[b] == 0;
    for (int j = int(threadIdx.x); finite && j < columns; j += int(blockDim.x)) {
        T best = partials.value[first_column + j];
        int32_t arg = partials.arg[first_column + j];
        for (int split = 1; split < partials.splits; ++split) {
            const int64_t at = (int64_t(split) * batch + b) * columns + j;
            if (partials.value[at] > best) {
                best = partials.value[at];
                arg = partials.arg[at];
            }
        }
        finite = finite && best == best;  // -inf where all distances of a column overflow: a similarity of 0
        // At the nearest column the exponent is -log Z alone, which keeps its digits where it is tiny.
        const double v = out.row_min_arg[first_row + arg] == j ? -double(out.row_log_sum[first_row + arg])
                                                               : double(best) * kLn2 - log_columns;
        const T similarity = T(v < 0 ? v : 0);
        out.similarity[first_column + j] = similarity;
        out.similarity_arg[first_column + j] = arg;
        excess += expm1(double(similarity));
    }
    excess = block_sum(excess) / double(columns);
    finite = __syncthreads_or(int(!finite)) == 0;
    if (threadIdx.x == 0) {
        out.loss[b] = !finite ? T(kNaN) : form == Form::kLog ? T(0 - log1p(excess + eps_log)) : T(0 - excess);
    }
    if (finite) return;
    for (int j = int(threadIdx.x); j < columns; j += int(blockDim.x)) {
        out.similarity[first_column + j] = T(kNaN);
        out.similarity_arg[first_column + j] = 0;
    }
    for (int i = int(threadIdx.x); i < rows; i += int(blockDim.x)) {
        out.row_min[first_row + i] = out.row_log_sum[first_row + i] = T(kNaN);
        out.row_min_arg[first_row + i] = 0;
    }
}

// With a null workspace it only counts.
template <typename S, typename SourceTiles, typename TargetTiles>
size_t forward(Launcher& launcher, const ContextualProblem& problem, const Features& source,
               const Features& target, void* loss, const ContextualStatistics& statistics, void* workspace) {
    using T = Arithmetic<S>;
    Arena arena(workspace);
    const Sample<T> sample(problem, arena, false);
    const int64_t nx = sample.source.count, ny = sample.target.count, batch = sample.batch;
    const Chunks chunks = SourceTiles::chunks(sample);
    const Shape by_rows = Shape::of<SourceTiles, NoSums>(launcher, chunks, nx, ny, batch);
    const Shape by_columns = Shape::of<TargetTiles, NoSums>(launcher, chunks, ny, nx, batch);
    const int64_t of_rows = by_rows.splits * batch * nx, of_columns = by_columns.splits * batch * ny;
    // One after another in the same place.
    const int64_t partial = of_rows > of_columns ? of_rows : of_columns;
    Partials<T> partials{arena.take<T>(partial), arena.take<int32_t>(partial), arena.take<double>(of_rows),
                         sample.not_finite, 0};
    auto* constants = arena.take<RowConstants<T>>(batch * nx);
    auto* most_refined = arena.take<float>(batch);
    if (workspace == nullptr) return arena.used();

    const Outputs<T> out{static_cast<T*>(loss),         static_cast<T*>(statistics.log_similarity),
                         statistics.log_similarity_arg, static_cast<T*>(statistics.row_min),
                         statistics.row_min_arg,        static_cast<T*>(statistics.row_log_sum)};
    const Refining<T> refining(problem);
    const DeviceChannels channels = stage_channels(launcher, problem.channels, sample.channel_memory);
    prepare<S>(launcher, sample, problem, source, target, channels);

    const Stream<SourceTiles, false, false> rows(sample, sample.source, sample.target, sample.not_finite);
    const Stream<TargetTiles, false, false> columns(sample, sample.target, sample.source, sample.not_finite);
    const dim3 row_grid(unsigned(ceil_div(nx, kThreads)), unsigned(batch));

    partials.splits = by_rows.splits;
    RowMinima<T> minima{partials.value, partials.arg, refining.cutoff(),         refining.margin(),
                        int32_t(batch), int32_t(nx),  problem.spatial_weight > 0};
    launch_stream<NoSums>(launcher, by_rows, rows, nx, batch, minima);
    launcher.zero(most_refined, size_t(batch) * sizeof(float));
    launcher.launch(finish_minima<T>, row_grid, kThreads, 0, partials, refining, SourceTiles::kRefines,
                    int32_t(batch), int32_t(nx), out, constants, reinterpret_cast<int32_t*>(most_refined));
    RowSums<T> sums{constants, partials.sum, int32_t(batch), int32_t(nx)};
    launch_stream<NoSums>(launcher, by_rows, rows, nx, batch, sums);
    launcher.launch(finish_sums<T>, row_grid, kThreads, 0, partials, int32_t(batch), int32_t(nx),
                    __builtin_log2(double(ny)), out, constants);
    partials.splits = by_columns.splits;
    ColumnMaxima<T> best{constants,      most_refined, partials.value, partials.arg,
                         int32_t(batch), int32_t(ny),  int32_t(nx)};
    launch_stream<NoSums>(launcher, by_columns, columns, ny, batch, best);
    launcher.launch(finish_loss<T>, dim3(unsigned(batch)), kReduceThreads, kReduceShared, partials,
                    int32_t(batch), int32_t(nx), int32_t(ny), problem.form, problem.eps_log, out);
    return 0;
}

template <typename S>
size_t forward_of(Launcher& launcher, const ContextualProblem& problem, const Features& source,
                  const Features& target, void* loss, const ContextualStatistics& statistics,
                  void* workspace) {
    using T = Arithmetic<S>;
    const auto with = [&](auto rows, auto columns) {
        return forward<S, decltype(rows), decltype(columns)>(launcher, problem, source, target, loss,
                                                             statistics, workspace);
    };
    if constexpr (sizeof(T) == 4) {
        if (problem.distance == Distance::kCosine) {
            if (problem.precision == MatmulPrecision::kHigh) {
                return with(TensorTiles<false, false>{}, TensorTiles<false, true>{});
            }
            return with(TensorTiles<true, false>{}, TensorTiles<true, true>{});
        }
    }
    return with(DifferenceTiles<T>{}, DifferenceTiles<T>{});
}

size_t dispatch(Launcher& launcher, const ContextualProblem& problem, const Features& source,
                const Features& target, void* loss, const ContextualStatistics& statistics, void* workspace) {
    const auto with = [&](auto storage) {
        return forward_of<decltype(storage)>(launcher, problem, source, target, loss, statistics, workspace);
    };
    switch (problem.type) {
        case Type::kFloat64:
            return with(double{});
        case Type::kFloat16:
            return with(Half{});
        case Type::kBFloat16:
            return with(BFloat16{});
        default:
            return with(float{});
    }
}

}  // namespace
}  // namespace cuda

size_t contextual_forward_cuda_workspace(const ContextualProblem& problem) {
    cuda::Launcher launcher(nullptr);
    return cuda::dispatch(launcher, problem, {}, {}, nullptr, {}, nullptr);
}

const char* contextual_forward_cuda(const ContextualProblem& problem, const Features& source,
                                    const Features& target, void* loss,
                                    const ContextualStatistics& statistics, void* workspace, void* stream) {
    if (statistics.row_sums != nullptr) return "row_sums: expected none, as backward takes them";
    cuda::Launcher launcher(stream);
    cuda::dispatch(launcher, problem, source, target, loss, statistics, workspace);
    return launcher.error();
}

}  // namespace pe
