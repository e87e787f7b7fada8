// The contextual loss on CUDA: gradients of rows whose sums over columns cancel. Their features are so near
// to each other that only differences count, which the gradient multiplies by as much as 1 / (h eps): they
// are taken pair by pair, a warp for each row, or each column.
#pragma once

#include "contextual_cuda_winners.h"

namespace pe::cuda {

// Sums of differences below this part of what they are made of are taken again, as `cancels` of
// contextual_sums.h.
constexpr double kCancels = 0.1;

// d_ij, by a warp.
template <typename T>
__device__ double pair_distance(const Sample<T>& sample, int b, int i, int j) {
    double square = 0;
    for (int c = int(threadIdx.x) % 32; c < sample.channels; c += 32) {
        const double d = feature(sample.source, sample, b, i, c) - feature(sample.target, sample, b, j, c);
        square += d * d;
    }
    double distance = warp_sum(square) * (sample.differences ? 1 : 0.5);
    distance += double(sample.source.offset[int64_t(b) * sample.source.count + i]) +
                double(sample.target.offset[int64_t(b) * sample.target.count + j]);
    if (sample.source.place_y != nullptr) {
        const double y = double(sample.source.place_y[i]) - double(sample.target.place_y[j]);
        const double x = double(sample.source.place_x[i]) - double(sample.target.place_x[j]);
        distance += y * y + x * x;
    }
    return distance;
}

// out[c] += factor sum_n weight_n difference(n, c) over the lanes n of a warp, each of which has one weight.
template <typename T, typename Difference>
__device__ void add_pairs(double weight, double factor, int channels, T* out, const Difference& difference) {
    if (!__any_sync(kWholeWarp, int(weight != 0))) return;
    for (int first = 0; first < channels; first += 32) {
        const int c = first + int(threadIdx.x) % 32;
        double sum = 0;
        for (int n = 0; n < 32; ++n) {
            const double own = __shfl_sync(kWholeWarp, weight, n);
            if (own != 0 && c < channels) sum += own * difference(n, c);
        }
        if (c < channels) out[c] = T(double(out[c]) + factor * sum);
    }
}

// out = sum_j a_ij (Y_j - Y_q) of one row, by a warp.
template <typename T>
__device__ void close_source(const Sample<T>& sample, const Winners<T>& winners, const Inputs<T>& in, int b,
                             const Winner<T>& winner, T* out) {
    const int lane = int(threadIdx.x) % 32, columns = winners.columns;
    for (int c = lane; c < sample.channels; c += 32) out[c] = 0;
    for (int first = 0; first < columns; first += 32) {
        double distance = 0;
        for (int n = 0; n < 32 && first + n < columns; ++n) {
            const double of_pair = pair_distance(sample, b, winner.row, first + n);
            if (n == lane) distance = of_pair;
        }
        double weight = 0;
        if (first + lane < columns && first + lane != winner.nearest) {
            const int64_t column = int64_t(b) * columns + first + lane;
            const T e = fast_exp2(fma(T(distance), winner.scale, winner.shift));
            weight = -double(winner.sign) * winner.bound * double(e);
            if (in.similarity_arg[column] == winner.row) weight += winners.upstream[column];
        }
        add_pairs(weight, 1, sample.channels, out, [&](int n, int c) {
            return feature(sample.target, sample, b, first + n, c) -
                   feature(sample.target, sample, b, winner.nearest, c);
        });
    }
}

// Adds sum_i A_ij (X_i - Y_j) over the close rows to the gradient at one target feature, by a warp. What is
// along Y_j is projected out, but for a short Y_j, where it is sum_i A_ij X_i.
template <typename T>
__device__ void close_target(const Sample<T>& sample, const Winners<T>& winners, const Inputs<T>& in, int b,
                             int j, T* out) {
    const int lane = int(threadIdx.x) % 32, count = winners.counts[b];
    const int64_t column = int64_t(b) * winners.columns + j;
    const bool relative = sample.differences || sample.target.inverse[column] > 0;
    for (int first = 0; first < count; first += 32) {
        const Winner<T>& winner =
            winners.winner[int64_t(b) * winners.capacity + (first + lane < count ? first + lane : first)];
        const bool close = first + lane < count && winner.close != 0;
        const unsigned lanes = __ballot_sync(kWholeWarp, int(close));
        if (lanes == 0) continue;
        double distance = 0;
        for (int n = 0; n < 32; ++n) {
            const int row = __shfl_sync(kWholeWarp, winner.row, n);
            if ((lanes >> n & 1u) == 0) continue;
            const double of_pair = pair_distance(sample, b, row, j);
            if (n == lane) distance = of_pair;
        }
        double weight = 0;
        if (close && winner.nearest == j) {
            weight = double(winner.at_nearest);
        } else if (close) {
            const T e = fast_exp2(fma(T(distance), winner.scale, winner.column_shift));
            weight = -double(winner.sign) * double(e);
            if (in.similarity_arg[column] == winner.row)
                weight += double(winner.k) * winners.upstream[column];
        }
        add_pairs(weight, sample.differences ? 2 : 1, sample.channels, out, [&](int n, int c) {
            const int row = winners.winner[int64_t(b) * winners.capacity + first + n].row;
            const double own = relative ? feature(sample.target, sample, b, j, c) : 0;
            return feature(sample.source, sample, b, row, c) - own;
        });
    }
}

}  // namespace pe::cuda
