// The contextual loss on CUDA: feature maps, prepared. The mean is subtracted and the features are
// normalised, in double, and laid out as the passes over all pairs read them (contextual_cuda_tiles.h).
#pragma once

#include "contextual.h"
#include "cuda_arena.h"
#include "cuda_constants.h"
#include "cuda_language.h"

namespace pe::cuda {

constexpr double kMinNorm = 1e-6;
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
// A feature is kept as halves: x = a + b / 2048 + c / 2048^2, each of them what the last one left, times 2048
// so that it is no subnormal. Products take the first two, differences of near-identical features all three.
constexpr float kResidueScale = 2048;
constexpr int kHalves = 3;

constexpr int64_t ceil_div(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

// Channels of a position, cut into parts that fit into shared memory. The last one is filled up with zeros.
struct Chunks {
    int count, width;

    __host__ __device__ int depth() const { return count * width; }
    static Chunks of(int64_t channels, int most) {
        const int count = int(ceil_div(channels, most));
        return {count, int(ceil_div(ceil_div(channels, count), 16)) * 16};
    }
};

// One of the two feature maps of every sample.
template <typename T>
struct Side {
    int32_t count;          // positions
    int32_t height, width;  // count = height width
    uint16_t* halves;       // [batch][count][chunks][kHalves][width]; or null
    T* values;              // [batch][count][chunks][width]; or null
    double* inverse;        // [batch][count]: 1 / length; negative where the length is below kMinNorm
    T* offset;              // [batch][count]: (1 - |X|^2) / 2 where it is, else 0
    T* place_y;             // [count], and place_x: coordinates, scaled for the spatial term; or null
    T* place_x;
};

template <typename T>
struct Sample {
    static constexpr int kHalfWidth = 64;
    static constexpr int kValueWidth = sizeof(T) == 8 ? 16 : 32;
    // Positions of a part of a mean.
    static constexpr int64_t kSegment = 1024;

    int32_t batch, channels;
    bool differences;  // L2: no normalisation
    bool centred, over_batch;
    double bandwidth, eps;
    Chunks half_chunks, value_chunks;
    Side<T> source, target;
    double* partial_means;  // [batch][segments][channels]
    double* mean;           // [batch][channels], also where it is one for all
    int32_t* not_finite;    // [batch]
    void* channel_memory;

    int64_t segments() const { return ceil_div(target.count, kSegment); }

    // also_values: whether values are wanted beside the halves. L2 and double have values alone.
    Sample(const ContextualProblem& problem, Arena& arena, bool also_values) {
        batch = int32_t(problem.batch);
        channels = int32_t(problem.channels.count);
        differences = problem.distance == Distance::kL2;
        centred = !differences && problem.center != Center::kNone;
        over_batch = problem.center == Center::kBatch;
        bandwidth = problem.bandwidth;
        eps = problem.eps;
        half_chunks = Chunks::of(channels, kHalfWidth);
        value_chunks = Chunks::of(channels, kValueWidth);
        const bool halves = sizeof(T) == 4 && !differences;
        const bool spatial = problem.spatial_weight > 0;
        take(source, arena, problem.source_height, problem.source_width, halves, also_values || !halves,
             spatial);
        take(target, arena, problem.target_height, problem.target_width, halves, also_values || !halves,
             spatial);
        partial_means = arena.take<double>(batch * segments() * channels);
        mean = arena.take<double>(int64_t(batch) * channels);
        not_finite = arena.take<int32_t>(batch);
        channel_memory = arena.take<char>(int64_t(device_channels_bytes(channels)));
    }

  private:
    void take(Side<T>& side, Arena& arena, int64_t height, int64_t width, bool halves, bool values,
              bool spatial) {
        side.height = int32_t(height);
        side.width = int32_t(width);
        side.count = int32_t(height * width);
        const int64_t all = int64_t(batch) * side.count;
        side.halves = halves ? arena.take<uint16_t>(all * kHalves * half_chunks.depth()) : nullptr;
        side.values = values ? arena.take<T>(all * value_chunks.depth()) : nullptr;
        side.inverse = arena.take<double>(all);
        side.offset = arena.take<T>(all);
        side.place_y = spatial ? arena.take<T>(side.count) : nullptr;
        side.place_x = spatial ? arena.take<T>(side.count) : nullptr;
    }
};

// Blocks that prepare positions: 32 of them, 32 channels at a time, by four warps.
constexpr int kPrepareThreads = 128;
constexpr int kPrepareTile = 32;
constexpr size_t kPrepareShared = (kPrepareTile * (kPrepareTile + 1) + kPrepareThreads) * sizeof(double);

namespace {

// tile[c][p]: weighted features of 32 channels and 32 positions, 0 beyond the last. Neighbours in a warp read
// neighbours in memory in both layouts.
template <typename S>
__device__ void load_tile(double (*tile)[kPrepareTile + 1], const Features& features,
                          const DeviceChannels& channels, int64_t sample, int first_channel,
                          int channel_count, int first_position, int position_count) {
    const Layout& layout = features.layout;
    const S* data = static_cast<const S*>(features.data) + sample * layout.batch_stride;
    const int lane = int(threadIdx.x) % 32;
    const bool along_positions = layout.position_stride <= layout.channel_stride;
    for (int other = int(threadIdx.x) / 32; other < kPrepareTile; other += kPrepareThreads / 32) {
        const int c = along_positions ? other : lane, p = along_positions ? lane : other;
        double value = 0;
        if (first_channel + c < channel_count && first_position + p < position_count) {
            const int64_t channel = channels.indices[first_channel + c];
            value =
                channels.weights[first_channel + c] *
                double(to_float(
                    data[channel * layout.channel_stride + (first_position + p) * layout.position_stride]));
        }
        tile[c][p] = value;
    }
}

// Sums over a segment of positions. Grid: channels / 32, segments, samples.
template <typename S, typename T>
__global__ void __launch_bounds__(kPrepareThreads)
    sum_features(Sample<T> sample, Features target, DeviceChannels channels) {
    auto* tile = reinterpret_cast<double (*)[kPrepareTile + 1]>(dynamic_shared());
    double* parts = &tile[kPrepareTile][0];
    const int first_channel = int(blockIdx.x) * kPrepareTile;
    const int first = int(blockIdx.y) * int(Sample<T>::kSegment);
    const int end = first + int(Sample<T>::kSegment) < sample.target.count ? first + int(Sample<T>::kSegment)
                                                                           : sample.target.count;
    const int c = int(threadIdx.x) % 32, part = int(threadIdx.x) / 32;
    double sum = 0;
    for (int p = first; p < end; p += kPrepareTile) {
        load_tile<S>(tile, target, channels, blockIdx.z, first_channel, sample.channels, p, end);
        __syncthreads();
        for (int n = part * 8; n < part * 8 + 8; ++n) sum += tile[c][n];
        __syncthreads();
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (part > 0 || first_channel + c >= sample.channels) return;
    sum = (parts[c] + parts[32 + c]) + (parts[64 + c] + parts[96 + c]);
    sample
        .partial_means[(int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * sample.channels + first_channel + c] =
        sum;
}

// One thread for each channel of each sample. Grid: channels / 128, samples.
template <typename T>
__global__ void __launch_bounds__(kPrepareThreads) find_means(Sample<T> sample, int segments) {
    const int c = int(blockIdx.x) * kPrepareThreads + int(threadIdx.x), b = int(blockIdx.y);
    if (c >= sample.channels) return;
    double mean = 0;
    if (sample.centred) {
        const int first = sample.over_batch ? 0 : b, last = sample.over_batch ? sample.batch : b + 1;
        for (int64_t n = int64_t(first) * segments; n < int64_t(last) * segments; ++n) {
            mean += sample.partial_means[n * sample.channels + c];
        }
        mean /= double(sample.target.count) * double(last - first);
    }
    sample.mean[int64_t(b) * sample.channels + c] = mean;
}

// Grid: positions / 32, samples.
template <typename S, typename T>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_positions(Sample<T> sample, Side<T> side, Features features, DeviceChannels channels) {
    auto* tile = reinterpret_cast<double (*)[kPrepareTile + 1]>(dynamic_shared());
    double* parts = &tile[kPrepareTile][0];
    const int first = int(blockIdx.x) * kPrepareTile, b = int(blockIdx.y);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const double* mean = sample.mean + int64_t(b) * sample.channels;

    // Lengths: each warp takes a quarter of the channels of every tile, lanes are positions.
    double squares = 0;
    bool finite = true;
    for (int c0 = 0; c0 < sample.channels; c0 += kPrepareTile) {
        load_tile<S>(tile, features, channels, b, c0, sample.channels, first, side.count);
        __syncthreads();
        for (int c = warp * 8; c < warp * 8 + 8 && c0 + c < sample.channels; ++c) {
            const double centred = tile[c][lane] - mean[c0 + c];
            squares += centred * centred;
            finite = finite && centred - centred == 0;
        }
        __syncthreads();
    }
    if (!finite && first + lane < side.count) atomicOr(&sample.not_finite[b], 1);
    parts[threadIdx.x] = squares;
    __syncthreads();
    squares = (parts[lane] + parts[32 + lane]) + (parts[64 + lane] + parts[96 + lane]);
    double inverse = 1;
    if (!sample.differences) {
        const double length = sqrt(squares);
        // A length that overflows makes the vector 0, and so short as well.
        const bool is_short = length < kMinNorm || length * 0 != 0;
        inverse = is_short ? -1 / (length < kMinNorm ? kMinNorm : length) : 1 / length;
    }
    const int64_t place = int64_t(b) * side.count + first + lane;
    if (warp == 0 && first + lane < side.count) {
        side.inverse[place] = inverse;
        side.offset[place] = inverse < 0 ? T(0.5 - 0.5 * squares * inverse * inverse) : T(0);
    }
    __syncthreads();
    if (warp == 0) parts[lane] = fabs(inverse);
    __syncthreads();

    // The features: lanes are channels.
    const int depth = side.halves != nullptr && sample.half_chunks.depth() > sample.value_chunks.depth()
                          ? sample.half_chunks.depth()
                          : sample.value_chunks.depth();
    for (int c0 = 0; c0 < depth; c0 += kPrepareTile) {
        load_tile<S>(tile, features, channels, b, c0, sample.channels, first, side.count);
        __syncthreads();
        const int c = c0 + lane;
        const double centre = c < sample.channels ? mean[c] : 0;
        for (int p = warp; p < kPrepareTile && first + p < side.count; p += kPrepareThreads / 32) {
            const int64_t row = int64_t(b) * side.count + first + p;
            const double unit = c < sample.channels ? (tile[lane][p] - centre) * parts[p] : 0;
            if (side.values != nullptr && c < sample.value_chunks.depth()) {
                side.values[row * sample.value_chunks.depth() + c] = T(unit);
            }
            if (side.halves != nullptr && c < sample.half_chunks.depth()) {
                const int width = sample.half_chunks.width;
                uint16_t* out =
                    side.halves + (row * sample.half_chunks.count + c / width) * kHalves * width + c % width;
                double rest = unit;
                for (int n = 0; n < kHalves; ++n) {
                    const Half half = to_half(float(rest));
                    out[n * width] = half.bits;
                    rest = (rest - double(to_float(half))) * kResidueScale;
                }
            }
        }
        __syncthreads();
    }
}

// Coordinates, scaled so that |P - Q|^2 is the spatial term. Grid: positions / 128.
template <typename T>
__global__ void __launch_bounds__(kPrepareThreads) place_positions(Side<T> side, double scale) {
    const int p = int(blockIdx.x) * kPrepareThreads + int(threadIdx.x);
    if (p >= side.count) return;
    side.place_y[p] = T((double(p / side.width) + 0.5) * (scale / double(side.height)));
    side.place_x[p] = T((double(p % side.width) + 0.5) * (scale / double(side.width)));
}

}  // namespace

template <typename S, typename T>
void prepare(Launcher& launcher, const Sample<T>& sample, const ContextualProblem& problem,
             const Features& source, const Features& target, const DeviceChannels& channels) {
    const unsigned batch = unsigned(sample.batch), segments = unsigned(sample.segments());
    launcher.zero(sample.not_finite, size_t(sample.batch) * sizeof(int32_t));
    if (sample.centred) {
        launcher.launch(sum_features<S, T>,
                        dim3(unsigned(ceil_div(sample.channels, kPrepareTile)), segments, batch),
                        kPrepareThreads, kPrepareShared, sample, target, channels);
    }
    launcher.launch(find_means<T>, dim3(unsigned(ceil_div(sample.channels, kPrepareThreads)), batch),
                    kPrepareThreads, 0, sample, int(segments));
    for (const bool first : {true, false}) {
        const Side<T>& side = first ? sample.source : sample.target;
        launcher.launch(prepare_positions<S, T>, dim3(unsigned(ceil_div(side.count, kPrepareTile)), batch),
                        kPrepareThreads, kPrepareShared, sample, side, first ? source : target, channels);
        if (side.place_y != nullptr) {
            launcher.launch(place_positions<T>, dim3(unsigned(ceil_div(side.count, kPrepareThreads))),
                            kPrepareThreads, 0, side, __builtin_sqrt(problem.spatial_weight));
        }
    }
}

}  // namespace pe::cuda
