// The contextual loss on CUDA: the passes of backward, and from their sums to gradients of the features.
#pragma once

#include "contextual_cuda_close.h"

namespace pe::cuda {

// Weights a_ij / bound of the source's gradient: rows are the winning ones, columns the target.
template <typename T>
struct SourceWeights {
    const Winner<T>* winner;        // [batch][capacity]
    const int32_t* similarity_arg;  // [batch][columns]
    const double* upstream;         // [batch][columns]
    T* sums;                        // [splits][batch][capacity][channels]
    double* moments;                // [splits][batch][capacity]: sums of a_ij / bound times d_ij - m_i
    int32_t batch, capacity, columns, channels;

    // Of a lane, for its two rows.
    struct State {
        T scale[2], shift[2], limit[2], least[2], sign[2], part[2];
        int32_t row[2], nearest[2];
        double inverse_bound[2], moment[2];
    };

    __device__ void begin(State& state, int sample, int, int n, int half) const {
        const Winner<T>& own = winner[int64_t(sample) * capacity + n];
        state.scale[half] = own.scale;
        state.shift[half] = own.shift;
        state.limit[half] = own.threshold;
        state.least[half] = own.least;
        state.sign[half] = own.sign;
        state.row[half] = own.row;
        state.nearest[half] = own.nearest;
        state.inverse_bound[half] = own.bound > 0 ? 1 / own.bound : 0;
        state.part[half] = 0;
        state.moment[half] = 0;
    }
    __device__ void limits(State&, const Tile<T>&) const {}
    __device__ bool refines(const State& state) const { return state.limit[0] > 0 || state.limit[1] > 0; }
    __device__ T threshold(const State& state, int half, int, int, T) const { return state.limit[half]; }
    __device__ T visit(State& state, int half, int sample, int, int position, T distance) const {
        if (position == state.nearest[half]) return 0;
        T weight = -state.sign[half] * fast_exp2(fma(distance, state.scale[half], state.shift[half]));
        const int64_t column = int64_t(sample) * columns + position;
        if (similarity_arg[column] == state.row[half])
            weight += T(upstream[column] * state.inverse_bound[half]);
        // A distance may have overflowed.
        if (weight != 0) {
            state.part[half] = fma(weight, distance - state.least[half], state.part[half]);
        }
        return weight;
    }
    __device__ void flush(State& state) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            state.moment[half] += double(state.part[half]);
            state.part[half] = 0;
        }
    }
    __device__ void end(State& state, int sample, int split, int at, int size, int group) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            double all = state.moment[half];
            all += __shfl_xor_sync(kWholeWarp, all, 1);
            all += __shfl_xor_sync(kWholeWarp, all, 2);
            if (group > 0 || threadIdx.x % 4 != 0 || at + 8 * half >= size) continue;
            moments[(int64_t(split) * batch + sample) * capacity + at + 8 * half] = all;
        }
    }
    __device__ void write(int sample, int split, int at, int channel, T sum) const {
        if (channel >= channels) return;
        sums[((int64_t(split) * batch + sample) * capacity + at) * channels + channel] = sum;
    }
};

// The gradient at -d_ij for the target's gradient: rows are the target, columns the winning rows.
template <typename T>
struct TargetWeights {
    const Winner<T>* winner;        // [batch][capacity]
    const int32_t* similarity_arg;  // [batch][rows]
    const double* upstream;         // [batch][rows]
    T* sums;                        // [splits][batch][rows][channels]
    double* totals;                 // [splits][batch][rows]: sums of the weights
    int32_t batch, capacity, rows, channels;

    // Of a lane, for its two rows.
    struct State {
        T part[2];
        int32_t own[2], wins[2];
        double gradient[2], total[2];
    };

    __device__ void begin(State& state, int sample, int position, int, int half) const {
        state.own[half] = position;
        state.wins[half] = similarity_arg[int64_t(sample) * rows + position];
        state.gradient[half] = upstream[int64_t(sample) * rows + position];
        state.part[half] = 0;
        state.total[half] = 0;
    }
    __device__ void limits(State&, const Tile<T>&) const {}
    __device__ bool refines(const State&) const { return false; }
    __device__ T threshold(const State&, int, int, int, T) const { return 0; }
    __device__ T visit(State& state, int half, int sample, int column, int position, T distance) const {
        const Winner<T>& row = winner[int64_t(sample) * capacity + column];
        if (row.close != 0) return 0;
        T weight = row.at_nearest;
        if (row.nearest != state.own[half]) {
            weight = -row.sign * fast_exp2(fma(distance, row.scale, row.column_shift));
            if (state.wins[half] == position) weight += T(double(row.k) * state.gradient[half]);
        }
        state.part[half] += weight;
        return weight;
    }
    __device__ void flush(State& state) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            state.total[half] += double(state.part[half]);
            state.part[half] = 0;
        }
    }
    __device__ void end(State& state, int sample, int split, int at, int size, int group) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            double all = state.total[half];
            all += __shfl_xor_sync(kWholeWarp, all, 1);
            all += __shfl_xor_sync(kWholeWarp, all, 2);
            if (group > 0 || threadIdx.x % 4 != 0 || at + 8 * half >= size) continue;
            totals[(int64_t(split) * batch + sample) * rows + at + 8 * half] = all;
        }
    }
    __device__ void write(int sample, int split, int at, int channel, T sum) const {
        if (channel >= channels) return;
        sums[((int64_t(split) * batch + sample) * rows + at) * channels + channel] = sum;
    }
};

// Sums of a pass over pairs, one split after another: [splits][batch][positions][channels], and scalars.
// The first split becomes the gradient at the features before the weights, for the gradient of the mean.
template <typename T>
struct PairSums {
    T* sums;
    double* scalars;  // [splits][batch][positions]
    int32_t splits, batch, positions, channels;

    __device__ T* at(int split, int sample, int position) const {
        return sums + ((int64_t(split) * batch + sample) * positions + position) * channels;
    }
    __device__ double sum(int sample, int position, int channel) const {
        double sum = 0;
        for (int split = 0; split < splits; ++split) sum += double(at(split, sample, position)[channel]);
        return sum;
    }
    __device__ double scalar(int sample, int position) const {
        double sum = 0;
        for (int split = 0; split < splits; ++split) {
            sum += scalars[(int64_t(split) * batch + sample) * positions + position];
        }
        return sum;
    }
};

constexpr int kGradientThreads = 256;

// The gradient at normalised features, which the first split holds, through normalisation and weights into
// the features' gradient. By a warp, for one position.
template <typename S, typename T>
__device__ void write_gradient(const Sample<T>& sample, const Side<T>& side, const Gradient& gradient,
                               const DeviceChannels& channels, int b, int position, T* at_unit,
                               double along) {
    const int lane = int(threadIdx.x) % 32;
    const double inverse = side.inverse[int64_t(b) * side.count + position];
    along = warp_sum(along);
    if (inverse <= 0 || sample.differences) along = 0;
    S* out = static_cast<S*>(gradient.data);
    if (out != nullptr) out += b * gradient.layout.batch_stride + position * gradient.layout.position_stride;
    for (int c = lane; c < sample.channels; c += 32) {
        const double value =
            (double(at_unit[c]) - along * feature(side, sample, b, position, c)) * fabs(inverse);
        at_unit[c] = T(value);
        if (out == nullptr) continue;
        out[channels.indices[c] * gradient.layout.channel_stride] =
            from_arithmetic<S>(Arithmetic<S>(channels.weights[c] * value));
    }
}

namespace {

// One warp for each winning row. Grid: capacity / warps of a block, samples.
template <typename S, typename T>
__global__ void __launch_bounds__(kGradientThreads)
    source_gradients(Sample<T> sample, Winners<T> winners, Inputs<T> in, PairSums<T> sums, Gradient gradient,
                     DeviceChannels channels) {
    const int w = int(blockIdx.x) * (kGradientThreads / 32) + int(threadIdx.x) / 32, b = int(blockIdx.y);
    const int lane = int(threadIdx.x) % 32;
    if (w >= winners.counts[b]) return;
    Winner<T>& winner = winners.winner[int64_t(b) * winners.capacity + w];
    const double m = double(winner.least), k = 1 / (sample.bandwidth * (m + sample.eps));
    // D = - sum_j a_ij (d_ij - m_i); the nearest column's share of G (1 - p) is that of all others.
    const double rank_one = -sample.bandwidth * k * (k * (winner.bound * sums.scalar(b, w)));
    const double at_nearest = k * winner.nearest_share + rank_one;
    T* const at_unit = sums.at(0, b, w);
    // sum_j a_ij (Y_j - Y_q)
    double square = 0, nearest_square = 0;
    for (int c = lane; c < sample.channels; c += 32) {
        const double nearest = feature(sample.target, sample, b, winner.nearest, c);
        const double sum = winner.bound * sums.sum(b, w, c) + winner.nearest_share * nearest;
        at_unit[c] = T(sum);
        square += sum * sum;
        nearest_square += nearest * nearest;
    }
    square = warp_sum(square);
    nearest_square = warp_sum(nearest_square);
    if (square < kCancels * kCancels * winner.bound * winner.bound * nearest_square) {
        close_source(sample, winners, in, b, winner, at_unit);
        if (lane == 0) winner.close = 1;
    }
    // What is along X is projected out, but for a short X: without it, the rest keeps its digits.
    const bool relative =
        sample.differences || sample.source.inverse[int64_t(b) * sample.source.count + winner.row] > 0;
    double along = 0;
    for (int c = lane; c < sample.channels; c += 32) {
        const double unit = feature(sample.source, sample, b, winner.row, c);
        const double nearest = feature(sample.target, sample, b, winner.nearest, c);
        double value = k * double(at_unit[c]) + rank_one * (relative ? nearest - unit : nearest);
        if (sample.differences) value *= 2;
        at_unit[c] = T(value);
        along += unit * value;
    }
    if (lane == 0) winner.at_nearest = T(at_nearest);
    write_gradient<S>(sample, sample.source, gradient, channels, b, winner.row, at_unit, along);
}

// One warp for each target position. Grid: positions / warps of a block, samples.
template <typename S, typename T>
__global__ void __launch_bounds__(kGradientThreads)
    target_gradients(Sample<T> sample, Winners<T> winners, Inputs<T> in, PairSums<T> sums, Gradient gradient,
                     DeviceChannels channels) {
    const int j = int(blockIdx.x) * (kGradientThreads / 32) + int(threadIdx.x) / 32, b = int(blockIdx.y);
    if (j >= sample.target.count || winners.invalid[b] != 0) return;
    const int lane = int(threadIdx.x) % 32;
    const double total = sums.scalar(b, j);
    T* const at_unit = sums.at(0, b, j);
    for (int c = lane; c < sample.channels; c += 32) {
        double value = sums.sum(b, j, c);
        if (sample.differences) value = 2 * (value - total * feature(sample.target, sample, b, j, c));
        at_unit[c] = T(value);
    }
    close_target(sample, winners, in, b, j, at_unit);
    double along = 0;
    for (int c = lane; c < sample.channels; c += 32) {
        along += feature(sample.target, sample, b, j, c) * double(at_unit[c]);
    }
    write_gradient<S>(sample, sample.target, gradient, channels, b, j, at_unit, along);
}

// Every target feature moves the mean that is subtracted from all features. Sums over a part of the positions
// of both maps. Grid: channels / 32, parts, samples; blocks of 32 times kMeanRows threads.
constexpr int kMeanRows = 8;
template <typename T>
__global__ void __launch_bounds__(32 * kMeanRows)
    sum_gradients(Sample<T> sample, Winners<T> winners, PairSums<T> of_source, PairSums<T> of_target,
                  double* parts) {
    const int c = int(blockIdx.x) * 32 + int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32,
              b = int(blockIdx.z);
    double* const shared = reinterpret_cast<double*>(dynamic_shared());
    const bool valid = c < sample.channels && winners.invalid[b] == 0;
    double sum = 0;
    for (int side = 0; valid && side < 2; ++side) {
        const PairSums<T>& sums = side == 0 ? of_source : of_target;
        const int64_t count = side == 0 ? winners.counts[b] : sample.target.count;
        const int first = int(count * blockIdx.y / gridDim.y),
                  last = int(count * (blockIdx.y + 1) / gridDim.y);
        for (int n = first + warp; n < last; n += kMeanRows) sum += double(sums.at(0, b, n)[c]);
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (warp > 0 || c >= sample.channels) return;
    for (int other = 1; other < kMeanRows; ++other) sum += shared[other * 32 + c % 32];
    parts[(int64_t(b) * gridDim.y + blockIdx.y) * sample.channels + c] = sum;
}

// Grid: channels / kGradientThreads, samples.
template <typename T>
__global__ void __launch_bounds__(kGradientThreads)
    finish_centre(Sample<T> sample, const double* parts, int part_count, double* centre) {
    const int c = int(blockIdx.x) * kGradientThreads + int(threadIdx.x), b = int(blockIdx.y);
    if (c >= sample.channels) return;
    const int first = sample.over_batch ? 0 : b, last = sample.over_batch ? sample.batch : b + 1;
    double sum = 0;
    for (int64_t n = int64_t(first) * part_count; n < int64_t(last) * part_count; ++n) {
        sum += parts[n * sample.channels + c];
    }
    centre[int64_t(b) * sample.channels + c] = sum / (double(sample.target.count) * double(last - first));
}

// Body(pointer, channel) for every element of the selected channels of one sample's gradient. Neighbours in a
// warp are neighbours in memory. Grid: any, 1, samples.
template <typename S, typename Body>
__device__ void each_element(const Gradient& gradient, const DeviceChannels& channels, int channel_count,
                             int positions, const Body& body) {
    const Layout& layout = gradient.layout;
    S* const data = static_cast<S*>(gradient.data) + int64_t(blockIdx.z) * layout.batch_stride;
    const bool along_positions = layout.position_stride <= layout.channel_stride;
    const int64_t all = int64_t(channel_count) * positions;
    for (int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; n < all;
         n += int64_t(gridDim.x) * blockDim.x) {
        const int64_t c = along_positions ? n / positions : n % channel_count;
        const int64_t p = along_positions ? n % positions : n / channel_count;
        body(data + channels.indices[c] * layout.channel_stride + p * layout.position_stride, int(c));
    }
}

template <typename S, typename T>
__global__ void __launch_bounds__(kGradientThreads)
    add_centre(Sample<T> sample, const double* centre, Gradient gradient, DeviceChannels channels) {
    const double* own = centre + int64_t(blockIdx.z) * sample.channels;
    each_element<S>(gradient, channels, sample.channels, sample.target.count, [&](S* place, int c) {
        const double value = double(to_float(*place)) - channels.weights[c] * own[c];
        *place = from_arithmetic<S>(Arithmetic<S>(value));
    });
}

// Samples whose statistics are not valid.
template <typename S, typename T>
__global__ void __launch_bounds__(kGradientThreads)
    fill_with_nan(Winners<T> winners, int channel_count, int positions, Gradient gradient,
                  DeviceChannels channels) {
    if (winners.invalid[blockIdx.z] == 0) return;
    each_element<S>(gradient, channels, channel_count, positions,
                    [](S* place, int) { *place = from_arithmetic<S>(Arithmetic<S>(kNaN)); });
}

}  // namespace

}  // namespace pe::cuda
