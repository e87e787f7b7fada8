// The contextual loss on CUDA: the passes of forward. Row minima, row sums of exponentials, column maxima.
#pragma once

#include <limits>

#include "contextual_cuda_stream.h"

namespace pe::cuda {

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <typename T>
constexpr T kSmallest = std::numeric_limits<T>::denorm_min();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// How far distances have to be refined, as Refinement of contextual_rows.h: a product errs by about
// `rounding`, which the exponent multiplies by k; where that matters, distances that are not yet negligible
// are taken again as differences. Of exponentials, each of which errs on its own, thousands make a loss.
template <typename T>
struct Refining {
    double bandwidth, eps, rounding;

    static constexpr double kTolerable = 5e-5;
    // Where the error is larger, how far the refinement reaches, in powers of e, grows faster than it: small
    // losses consist of small exponentials, and what tensor cores cut off errs to one side.
    static constexpr double kNegligible = 5e-6;

    Refining(const ContextualProblem& problem)
        : bandwidth(problem.bandwidth),
          eps(problem.eps),
          rounding(0x1p-23 * (1 + 0.25 * __builtin_sqrt(double(problem.channels.count)))) {}

    // Row minima up to this are taken exactly: every exponential of the row depends on it, and there is but
    // one.
    T cutoff() const { return T(rounding / (bandwidth * kNegligible) - eps); }
    // A distance this much above the least one known may still be the least.
    T margin() const { return T(8 * rounding); }
    // Distances of a row that are below this are taken exactly; 0: none.
    __device__ T threshold(double least) const {
        const double scale = bandwidth * (least + eps), error = rounding / scale;
        if (error < kTolerable) return T(0);
        const double steps = log(error / kNegligible), reach = 1 + (1.5 + 0.12 * steps) * steps;
        return T(least + 8 * rounding + reach * (scale + 4 * bandwidth * rounding));
    }
};

// -k log2(e) in T, but never 0: columns at infinity must have exponentials of 0 and not NaN.
template <typename T>
__device__ T exponent_scale(double k) {
    const T scale = T(k * kLog2E);
    return scale > 0 ? -scale : -kSmallest<T>;
}

// What later passes need of a row.
template <typename T>
struct alignas(16) RowConstants {
    T scale, shift;   // log2 exp(-k (d - m)) = scale d + shift; for column maxima less log2 Z, plus log2 Ny
    T threshold;      // below it, distances are taken exactly
    T at_nearest;     // log2(Ny CX) at the nearest column, whose distance is m
    int32_t nearest;  // q(i)
    int32_t padding[3];
};

__device__ __forceinline__ float fast_exp2(float x) { return exp2_fast(x); }
__device__ __forceinline__ double fast_exp2(double x) { return exp2(x); }

// The best value of the four lanes that share a row, in all of them; of equal ones the first position's.
template <typename T, typename Better>
__device__ void reduce_row(T& best, int32_t& arg, const Better& better) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
        const T other = __shfl_xor_sync(kWholeWarp, best, step);
        const int32_t other_arg = __shfl_xor_sync(kWholeWarp, arg, step);
        if (better(other, best) || (other == best && other_arg < arg)) {
            best = other;
            arg = other_arg;
        }
    }
}

// The least distance of each row, and its column.
template <typename T>
struct RowMinima {
    T* value;          // [splits][batch][rows]
    int32_t* arg;      // [splits][batch][rows]
    T cutoff, margin;  // of Refining
    int32_t batch, rows;
    bool spatial;

    // Of a lane, for its two rows.
    struct State {
        T best[2], limit[2];
        int32_t best_arg[2];
    };

    __device__ void begin(State& state, int, int, int, int half) const {
        state.best[half] = kInfinity<T>;
        state.best_arg[half] = 0;
    }
    // What may be the least distance is exact where it matters. With a spatial term, which is not in the tile
    // yet, all that is small enough to matter.
    __device__ void limits(State& state, const Tile<T>& tile) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            T least = state.best[half];
#pragma unroll
            for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    least = tile[n][2 * half + e] < least ? tile[n][2 * half + e] : least;
                }
            }
            state.limit[half] = spatial ? cutoff + margin : least <= cutoff ? least + margin : T(0);
        }
    }
    __device__ bool refines(const State& state) const { return state.limit[0] > 0 || state.limit[1] > 0; }
    __device__ T threshold(const State& state, int half, int, int, T) const { return state.limit[half]; }
    __device__ T visit(State& state, int half, int, int, int position, T distance) const {
        if (distance < state.best[half]) {
            state.best[half] = distance;
            state.best_arg[half] = position;
        }
        return 0;
    }
    __device__ void flush(State&) const {}
    __device__ void end(State& state, int sample, int split, int row, int size, int) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            reduce_row(state.best[half], state.best_arg[half], [](T a, T b) { return a < b; });
            if (threadIdx.x % 4 != 0 || row + 8 * half >= size) continue;
            const int64_t at = (int64_t(split) * batch + sample) * rows + row + 8 * half;
            value[at] = state.best[half];
            arg[at] = state.best_arg[half];
        }
    }
};

// sum_j exp(-k (d_ij - m)) without the nearest column.
template <typename T>
struct RowSums {
    const RowConstants<T>* constants;  // [batch][rows]
    double* sums;                      // [splits][batch][rows]
    int32_t batch, rows;

    // Of a lane, for its two rows.
    struct State {
        T scale[2], shift[2], limit[2], part[2];
        int32_t nearest[2];
        double sum[2];
    };

    __device__ void begin(State& state, int sample, int position, int, int half) const {
        const RowConstants<T>& row = constants[int64_t(sample) * rows + position];
        state.scale[half] = row.scale;
        state.shift[half] = row.shift;
        state.limit[half] = row.threshold;
        state.nearest[half] = row.nearest;
        state.part[half] = 0;
        state.sum[half] = 0;
    }
    __device__ void limits(State&, const Tile<T>&) const {}
    __device__ bool refines(const State& state) const { return state.limit[0] > 0 || state.limit[1] > 0; }
    __device__ T threshold(const State& state, int half, int, int, T) const { return state.limit[half]; }
    __device__ T visit(State& state, int half, int, int, int position, T distance) const {
        const T e = fast_exp2(fma(distance, state.scale[half], state.shift[half]));
        if (position != state.nearest[half]) state.part[half] += e;
        return 0;
    }
    // Rounding does not grow with the number of columns.
    __device__ void flush(State& state) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            state.sum[half] += double(state.part[half]);
            state.part[half] = 0;
        }
    }
    __device__ void end(State& state, int sample, int split, int row, int size, int) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            double all = state.sum[half];
            all += __shfl_xor_sync(kWholeWarp, all, 1);
            all += __shfl_xor_sync(kWholeWarp, all, 2);
            if (threadIdx.x % 4 != 0 || row + 8 * half >= size) continue;
            sums[(int64_t(split) * batch + sample) * rows + row + 8 * half] = all;
        }
    }
};

// The largest log2(Ny CX_ij) of each target position j, and the row i that attains it. Here the target has
// the rows of the pass, and the source its columns.
template <typename T>
struct ColumnMaxima {
    const RowConstants<T>* constants;  // [batch][columns]
    const float* most_refined;         // [batch]: the largest threshold
    T* value;                          // [splits][batch][rows]
    int32_t* arg;                      // [splits][batch][rows]
    int32_t batch, rows, columns;

    // Of a lane, for its two rows.
    struct State {
        T best[2], limit;
        int32_t best_arg[2], own[2];
    };

    __device__ void begin(State& state, int sample, int position, int, int half) const {
        state.best[half] = -kInfinity<T>;
        state.best_arg[half] = 0;
        state.own[half] = position;
        state.limit = T(most_refined[sample]);
    }
    __device__ void limits(State&, const Tile<T>&) const {}
    __device__ bool refines(const State& state) const { return state.limit > 0; }
    __device__ T threshold(const State& state, int, int sample, int column, T distance) const {
        return distance < state.limit ? constants[int64_t(sample) * columns + column].threshold : T(0);
    }
    __device__ T visit(State& state, int half, int sample, int, int position, T distance) const {
        const RowConstants<T>& row = constants[int64_t(sample) * columns + position];
        const T value = row.nearest == state.own[half] ? row.at_nearest : fma(distance, row.scale, row.shift);
        if (value > state.best[half]) {
            state.best[half] = value;
            state.best_arg[half] = position;
        }
        return 0;
    }
    __device__ void flush(State&) const {}
    __device__ void end(State& state, int sample, int split, int row, int size, int) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            reduce_row(state.best[half], state.best_arg[half], [](T a, T b) { return a > b; });
            if (threadIdx.x % 4 != 0 || row + 8 * half >= size) continue;
            const int64_t at = (int64_t(split) * batch + sample) * rows + row + 8 * half;
            value[at] = state.best[half];
            arg[at] = state.best_arg[half];
        }
    }
};

}  // namespace pe::cuda
