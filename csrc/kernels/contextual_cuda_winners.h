// The contextual loss on CUDA: what backward knows before it passes over pairs. The gradient at each column,
// and the rows that win columns: no others have a gradient.
#pragma once

#include "contextual_cuda_passes.h"
#include "contextual_cuda_reduce.h"

namespace pe::cuda {

__device__ inline double warp_sum(double value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
    return value;
}

// A prepared feature, with all digits that were kept.
template <typename T>
__device__ double feature(const Side<T>& side, const Sample<T>& sample, int b, int position, int channel) {
    const int64_t at = int64_t(b) * side.count + position;
    if (side.halves == nullptr) return double(side.values[at * sample.value_chunks.depth() + channel]);
    const int width = sample.half_chunks.width;
    const uint16_t* halves =
        side.halves + (at * sample.half_chunks.count + channel / width) * kHalves * width + channel % width;
    double value = 0;
#pragma unroll
    for (int n = kHalves - 1; n >= 0; --n) {
        value = value / double(kResidueScale) + double(to_float(Half{halves[n * width]}));
    }
    return value;
}

// A lane's part of d_ij - m_i, whose nearest column is q.
template <typename T>
__device__ double excess_part(const Sample<T>& sample, int b, int i, int j, int q) {
    const int lane = int(threadIdx.x) % 32;
    double sum = 0;
    for (int c = lane; c < sample.channels; c += 32) {
        const double unit = feature(sample.source, sample, b, i, c);
        const double nearest = feature(sample.target, sample, b, q, c);
        const double difference = feature(sample.target, sample, b, j, c) - nearest;
        sum += difference * (sample.differences ? difference + 2 * (nearest - unit) : -unit);
    }
    const Side<T>&source = sample.source, &target = sample.target;
    if (lane > 0 || source.place_y == nullptr) return sum;
    const int columns[2] = {j, q};
    for (const int column : columns) {
        const double y = double(source.place_y[i]) - double(target.place_y[column]);
        const double x = double(source.place_x[i]) - double(target.place_x[column]);
        sum += column == j ? y * y + x * x : -(y * y + x * x);
    }
    return sum;
}

// Statistics and upstream gradients.
template <typename T>
struct Inputs {
    const T* similarity;
    const int32_t* similarity_arg;
    const T* row_min;
    const int32_t* row_min_arg;
    const T* row_log_sum;
    const T* loss_gradient;        // may be null
    const T* similarity_gradient;  // may be null
};

// A row that wins columns. Its gradient at -d_ij, over k_i, is for all columns j but the nearest, q,
//     a_ij = g_j [j in J_i] - G_i p_ij,  G_i the sum of g_j over the columns J_i that it wins,
// at most `bound` in magnitude, which is small where all but the nearest column is far: tensor cores get a /
// bound.
template <typename T>
struct alignas(16) Winner {
    T scale, shift;    // log2 of |G| p_ij / bound = scale d + shift
    T column_shift;    // the same with k |G| p_ij
    T threshold;       // below it, distances are taken exactly
    T least, sign, k;  // m_i, sign of G_i
    T at_nearest;      // gradient at -d of the nearest column; source_gradients finds it
    double bound;
    double nearest_share;  // of G_i (1 - p_iq) less the g_j of other columns: the nearest column's, over k
    int32_t row, nearest;
    int32_t close;  // its sums cancel: contextual_cuda_close.h has its gradients; source_gradients finds out
};

// Of every sample.
template <typename T>
struct Winners {
    double* upstream;              // [batch][columns]: g_j
    double* of_similarity;         // [batch]: the loss's gradient at the similarities exp(v_j)
    double* fixed_scale;           // [batch]: sums of g_j are taken in integers, times this
    int32_t* invalid;              // [batch]: not statistics, or of a sample that was not finite
    unsigned long long* all;       // [batch][rows]
    unsigned long long* others;    // [batch][rows]: without the nearest column
    unsigned long long* absolute;  // [batch][rows]: of magnitudes, without the nearest column
    int32_t* wins;                 // [batch][rows]
    int32_t* index;                // [batch][capacity]: rows that win columns, ascending
    int32_t* counts;               // [batch]
    Winner<T>* winner;             // [batch][capacity]
    int32_t rows, columns, capacity;

    Winners(Arena& arena, int64_t batch, int32_t rows_, int32_t columns_)
        : rows(rows_), columns(columns_), capacity(rows_ < columns_ ? rows_ : columns_) {
        upstream = arena.take<double>(batch * columns);
        of_similarity = arena.take<double>(batch);
        fixed_scale = arena.take<double>(batch);
        invalid = arena.take<int32_t>(batch);
        all = arena.take<unsigned long long>(batch * rows);
        others = arena.take<unsigned long long>(batch * rows);
        absolute = arena.take<unsigned long long>(batch * rows);
        wins = arena.take<int32_t>(batch * rows);
        index = arena.take<int32_t>(batch * capacity);
        counts = arena.take<int32_t>(batch);
        winner = arena.take<Winner<T>>(batch * capacity);
    }
};

namespace {

// Checks the statistics and finds the gradient at each v_j. One block for each sample.
template <typename T>
__global__ void __launch_bounds__(kReduceThreads)
    examine(Winners<T> winners, Inputs<T> in, Form form, double eps_log, const int32_t* not_finite) {
    const int b = int(blockIdx.x);
    const int64_t first_row = int64_t(b) * winners.rows, first_column = int64_t(b) * winners.columns;
    bool valid = not_finite[b] == 0;
    double excess = 0;
    for (int i = int(threadIdx.x); i < winners.rows; i += int(blockDim.x)) {
        const int64_t at = first_row + i;
        valid = valid && in.row_min[at] >= 0 && in.row_log_sum[at] >= 0 && in.row_min_arg[at] >= 0 &&
                in.row_min_arg[at] < winners.columns;
    }
    for (int j = int(threadIdx.x); j < winners.columns; j += int(blockDim.x)) {
        const int64_t at = first_column + j;
        valid = valid && in.similarity[at] <= 0 && in.similarity_arg[at] >= 0 &&
                in.similarity_arg[at] < winners.rows;
        excess += expm1(double(in.similarity[at]));
    }
    excess = block_sum(excess);
    double factor = in.loss_gradient == nullptr ? 0 : -double(in.loss_gradient[b]) / double(winners.columns);
    if (form == Form::kLog) factor /= 1 + excess / double(winners.columns) + eps_log;
    double most = 0;
    for (int j = int(threadIdx.x); j < winners.columns; j += int(blockDim.x)) {
        const int64_t at = first_column + j;
        const double from_map = in.similarity_gradient == nullptr ? 0 : double(in.similarity_gradient[at]);
        const double gradient = factor * exp(double(in.similarity[at])) + from_map;
        winners.upstream[at] = gradient;
        valid = valid && gradient - gradient == 0;
        most = fabs(gradient) > most ? fabs(gradient) : most;
    }
    valid = __syncthreads_or(int(!valid)) == 0;
    most = block_max(most);
    if (threadIdx.x > 0) return;
    winners.invalid[b] = !valid;
    winners.of_similarity[b] = factor;
    int exponent = 0, bits = 0;
    frexp(most, &exponent);
    while ((int64_t{1} << bits) < winners.columns) ++bits;
    const int shift = 61 - bits - exponent;
    winners.fixed_scale[b] = valid && most > 0 ? ldexp(1.0, shift < 1000 ? shift : 1000) : 0;
}

// The gradient at the v_j of columns that a row wins without being the nearest, from the features: v_j has
// lost digits in which columns as near as the nearest one must agree with it, or they would not cancel. By a
// warp for each column. Grid: columns / warps of a block, samples.
template <typename T>
__global__ void __launch_bounds__(kReduceThreads)
    sharpen(Sample<T> sample, Winners<T> winners, Inputs<T> in) {
    const int j = int(blockIdx.x) * (kReduceThreads / 32) + int(threadIdx.x) / 32, b = int(blockIdx.y);
    if (j >= winners.columns || winners.invalid[b] != 0) return;
    const int64_t column = int64_t(b) * winners.columns + j;
    const int i = in.similarity_arg[column];
    const int64_t row = int64_t(b) * winners.rows + i;
    const int q = in.row_min_arg[row];
    if (q == j) return;
    double excess = warp_sum(excess_part(sample, b, i, j, q));
    if (excess < 0) excess = 0;
    const double k = 1 / (sample.bandwidth * (double(in.row_min[row]) + sample.eps));
    const double from_map = in.similarity_gradient == nullptr ? 0 : double(in.similarity_gradient[column]);
    if (threadIdx.x % 32 > 0) return;
    winners.upstream[column] =
        winners.of_similarity[b] * exp(-k * excess - double(in.row_log_sum[row])) + from_map;
}

// Sums over the columns that a row wins: in integers, whose sum does not depend on the order of its terms.
// Grid: columns / kReduceThreads, samples.
template <typename T>
__global__ void __launch_bounds__(kReduceThreads) gather(Winners<T> winners, Inputs<T> in) {
    const int j = int(blockIdx.x) * kReduceThreads + int(threadIdx.x), b = int(blockIdx.y);
    if (j >= winners.columns || winners.invalid[b] != 0) return;
    const int64_t column = int64_t(b) * winners.columns + j;
    const int64_t row = int64_t(b) * winners.rows + in.similarity_arg[column];
    const double scaled = winners.upstream[column] * winners.fixed_scale[b];
    const auto fixed = static_cast<long long>(scaled);
    atomicAdd(&winners.all[row], static_cast<unsigned long long>(fixed));
    if (in.row_min_arg[row] != j) {
        atomicAdd(&winners.others[row], static_cast<unsigned long long>(fixed));
        atomicAdd(&winners.absolute[row], static_cast<unsigned long long>(fixed < 0 ? -fixed : fixed));
    }
    atomicAdd(&winners.wins[row], 1);
}

// The rows that win columns, in their order, and their constants. One block for each sample.
template <typename T>
__global__ void __launch_bounds__(kReduceThreads)
    compact(Winners<T> winners, Inputs<T> in, Refining<T> refining, bool refines) {
    const int b = int(blockIdx.x), lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    int* const found = reinterpret_cast<int*>(dynamic_shared());  // of each warp
    const bool valid = winners.invalid[b] == 0;
    int count = 0;
    for (int first = 0; valid && first < winners.rows; first += int(blockDim.x)) {
        const int i = first + int(threadIdx.x);
        const int64_t row = int64_t(b) * winners.rows + i;
        const bool wins = i < winners.rows && winners.wins[row] > 0;
        const unsigned ballot = __ballot_sync(kWholeWarp, int(wins));
        if (lane == 0) found[warp] = __popc(ballot);
        __syncthreads();
        int before = count + __popc(ballot & ((1u << lane) - 1));
        for (int other = 0; other < int(blockDim.x) / 32; ++other) {
            if (other < warp) before += found[other];
            count += found[other];
        }
        __syncthreads();
        if (!wins) continue;
        const double inverse_scale = winners.fixed_scale[b] > 0 ? 1 / winners.fixed_scale[b] : 0;
        const auto sum = [&](const unsigned long long* sums) {
            return double(static_cast<long long>(sums[row])) * inverse_scale;
        };
        const double m = double(in.row_min[row]), log_sum = double(in.row_log_sum[row]);
        const double k = 1 / (refining.bandwidth * (m + refining.eps));
        Winner<T> winner{};
        const double all = sum(winners.all);
        const double share = -expm1(-log_sum);  // of all columns but the nearest, in the row's sum
        winner.bound = sum(winners.absolute) + fabs(all) * share;
        // G (1 - p) must not come from subtracting: for a near-identical pair p is almost 1.
        winner.nearest_share = all * share - sum(winners.others);
        winner.scale = exponent_scale<T>(k);
        const double dense = log2(fabs(all)) - log_sum * kLog2E - double(winner.scale) * m;
        winner.shift = winner.bound > 0 ? T(dense - log2(winner.bound)) : -kInfinity<T>;
        winner.column_shift = T(dense + log2(k));
        winner.threshold = refines ? refining.threshold(m) : T(0);
        winner.least = T(m);
        winner.sign = all < 0 ? T(-1) : T(1);
        winner.k = T(k);
        winner.row = i;
        winner.nearest = in.row_min_arg[row];
        winners.index[int64_t(b) * winners.capacity + before] = i;
        winners.winner[int64_t(b) * winners.capacity + before] = winner;
    }
    if (threadIdx.x == 0) winners.counts[b] = count;
}

}  // namespace

template <typename T>
void find_winners(Launcher& launcher, const Sample<T>& sample, const Winners<T>& winners, const Inputs<T>& in,
                  const ContextualProblem& problem, bool refines) {
    const unsigned batch = unsigned(problem.batch);
    const size_t rows = size_t(batch) * size_t(winners.rows);
    launcher.launch(examine<T>, dim3(batch), kReduceThreads, kReduceShared, winners, in, problem.form,
                    problem.eps_log, sample.not_finite);
    launcher.launch(sharpen<T>, dim3(unsigned(ceil_div(winners.columns, kReduceThreads / 32)), batch),
                    kReduceThreads, 0, sample, winners, in);
    launcher.zero(winners.all, rows * sizeof(unsigned long long));
    launcher.zero(winners.others, rows * sizeof(unsigned long long));
    launcher.zero(winners.absolute, rows * sizeof(unsigned long long));
    launcher.zero(winners.wins, rows * sizeof(int32_t));
    launcher.launch(gather<T>, dim3(unsigned(ceil_div(winners.columns, kReduceThreads)), batch),
                    kReduceThreads, 0, winners, in);
    launcher.launch(compact<T>, dim3(batch), kReduceThreads, kReduceShared, winners, in, Refining<T>(problem),
                    refines);
}

}  // namespace pe::cuda
