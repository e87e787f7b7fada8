// Channel distance on CUDA devices of features whose channels lie next to each other (channels-last): some
// lanes of a warp take a position. Included only by channel_distance_*cuda.cu.
#pragma once

#include "channel_distance_cuda_common.h"

namespace pe::cuda {

// Turns whose channels a thread keeps, as many as registers allow.
template <size_t kElement, int V>
constexpr int kInterleavedKept = V > 1 || kElement == 8 ? 4 : 8;

// A block's tile is one position for each job.lanes threads; those take V channels at a time, in turns.
// Beyond the first kKept turns they are read again, from the cache, at each look.
template <typename S, int V>
class InterleavedTile {
  public:
    using T = Arithmetic<S>;
    static constexpr int kKept = kInterleavedKept<sizeof(S), V>;

    __device__ __forceinline__ explicit InterleavedTile(const DistanceJob& job)
        : sample(blockIdx.x / unsigned(job.blocks)), job_(job), lane_(int(threadIdx.x) & (job.lanes - 1)) {}

    __device__ __forceinline__ static int64_t width(const DistanceJob& job) {
        return int(blockDim.x) >> job.lane_bits;
    }

    __device__ __forceinline__ void load(int64_t tile) {
        position = tile * width(job_) + (int(threadIdx.x) >> job_.lane_bits);
        inside = position < job_.positions;
        if (!inside) position = 0;
        // All loads at once, none behind a branch: what is not there is replaced by the first position and
        // the last channels.
        int64_t channels[kKept];
#pragma unroll
        for (int j = 0; j < kKept; ++j) {
            const int k = (lane_ + j * job_.lanes) * V;
            channels[j] = k < job_.channels ? k : job_.channels - V;
        }
        if (V == 1 && job_.indices != nullptr) {
#pragma unroll
            for (int j = 0; j < kKept; ++j) channels[j] = job_.indices[channels[j]];
        }
#pragma unroll
        for (int j = 0; j < kKept; ++j) {
            f_[j] = get(job_.first, channels[j]);
            g_[j] = get(job_.second, channels[j]);
        }
    }

    // body(k, f, g) for each of the thread's V channels.
    template <typename Body>
    __device__ __forceinline__ void each(Body body) const {
        if (!inside) return;
        // Offsets of channels would take more registers than features.
        const int lane = forgotten(lane_);
#pragma unroll
        for (int j = 0; j < kKept; ++j) {
            const int k = (lane + j * job_.lanes) * V;
            if (k < job_.channels) body(k, f_[j], g_[j]);
        }
        for (int k = (lane + kKept * job_.lanes) * V; k < job_.channels; k += job_.lanes * V) {
            const int64_t channel = channel_of(k);
            body(k, get(job_.first, channel), get(job_.second, channel));
        }
    }

    __device__ __forceinline__ void factors(int k, T (&x)[V]) const {
        if (job_.factors == nullptr) {
#pragma unroll
            for (int v = 0; v < V; ++v) x[v] = 1;
            return;
        }
        const T* from = static_cast<const T*>(job_.factors) + k;
        constexpr int kTogether = V > 1 ? kVector<T> : 1;
#pragma unroll
        for (int v = 0; v < V; v += kTogether) {
            const auto pack = Pack<T, kTogether>::load(from + v);
#pragma unroll
            for (int i = 0; i < kTogether; ++i) x[v + i] = pack.get(i);
        }
    }

    __device__ __forceinline__ void put(const Gradient& gradient, int k, const T (&x)[V]) const {
        S* data = sample_of(static_cast<S*>(gradient.data), gradient.layout, sample);
        Pack<S, V> pack;
        pack.set(x);
        pack.store(data + channel_of(k) + position * gradient.layout.position_stride);
    }

    // Sums over the lanes of the position, which all get them. By whole warps.
    template <int kSums>
    __device__ __forceinline__ void reduce(T (&sums)[kSums]) const {
        for (int step = 1; step < job_.lanes; step *= 2) {
#pragma unroll
            for (int n = 0; n < kSums; ++n) sums[n] += __shfl_xor_sync(kWholeWarp, sums[n], step);
        }
    }
    __device__ __forceinline__ bool first_lane() const { return lane_ == 0; }

    const int64_t sample;
    int64_t position;
    bool inside;

  private:
    // Vectors are of all channels, in order.
    __device__ __forceinline__ int64_t channel_of(int k) const {
        return V > 1 || job_.indices == nullptr ? k : job_.indices[k];
    }
    __device__ __forceinline__ Pack<S, V> get(const Features& features, int64_t channel) const {
        const S* data = sample_of(static_cast<const S*>(features.data), features.layout, sample);
        return Pack<S, V>::load(data + channel + position * features.layout.position_stride);
    }

    const DistanceJob& job_;
    const int lane_;
    Pack<S, V> f_[kKept], g_[kKept];
};

template <typename S, int V>
__device__ __forceinline__ Inverses<Arithmetic<S>> inverse_norms(const InterleavedTile<S, V>& tile) {
    using T = Arithmetic<S>;
    T sums[3] = {};
    tile.each([&](int, const Pack<S, V>& f, const Pack<S, V>& g) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const T x = f.get(v), y = g.get(v);
            sums[0] = fma(x, x, sums[0]);
            sums[1] = fma(y, y, sums[1]);
            sums[2] = fma(y - x, y + x, sums[2]);
        }
    });
    tile.reduce(sums);
    return Inverses<T>::of(sums[0], sums[1], sums[2]);
}

template <typename S, int V, bool kUnit>
__global__ void __launch_bounds__(256, 1) interleaved_forward(const DistanceJob job) {
    using T = Arithmetic<S>;
    InterleavedTile<S, V> tile(job);
    const int64_t width = tile.width(job), tiles = (job.positions + width - 1) / width;
    double total = 0;
    for (int64_t index = blockIdx.x % unsigned(job.blocks); index < tiles; index += job.blocks) {
        tile.load(index);
        UnitDifference<T> difference{};
        if constexpr (kUnit) difference = UnitDifference<T>::of(inverse_norms(tile));
        T sums[1] = {};
        tile.each([&](int k, const Pack<S, V>& f, const Pack<S, V>& g) {
            T factors[V];
            tile.factors(k, factors);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                if constexpr (kUnit) {
                    const T d = difference(f.get(v), g.get(v));
                    sums[0] = fma(factors[v] * d, d, sums[0]);
                } else {
                    const T d = factors[v] * (f.get(v) - g.get(v));
                    sums[0] = fma(d, d, sums[0]);
                }
            }
        });
        tile.reduce(sums);
        if (tile.first_lane() && tile.inside) {
            const T value = kUnit ? sums[0] : sums[0] / T(job.channels);
            T* map = static_cast<T*>(job.map);
            if (map != nullptr) map[tile.sample * job.positions + tile.position] = value;
            total += double(value);
        }
    }
    double* shared = reinterpret_cast<double*>(dynamic_shared());
    write_block_sum(total, shared, &job.sums[blockIdx.x]);
}

template <typename S, int V>
__global__ void __launch_bounds__(256) interleaved_squared_backward(const DistanceJob job) {
    using T = Arithmetic<S>;
    InterleavedTile<S, V> tile(job);
    const int64_t width = tile.width(job), tiles = (job.positions + width - 1) / width;
    for (int64_t index = blockIdx.x % unsigned(job.blocks); index < tiles; index += job.blocks) {
        tile.load(index);
        if (!tile.inside) continue;
        const T scale = upstream<T>(job, tile.sample, tile.position) / T(job.channels);
        tile.each([&](int k, const Pack<S, V>& f, const Pack<S, V>& g) {
            T factors[V], x[V];
            tile.factors(k, factors);
#pragma unroll
            for (int v = 0; v < V; ++v) x[v] = scale * (factors[v] * (factors[v] * (f.get(v) - g.get(v))));
            if (job.first_gradient.data != nullptr) tile.put(job.first_gradient, k, x);
#pragma unroll
            for (int v = 0; v < V; ++v) x[v] = -x[v];
            if (job.second_gradient.data != nullptr) tile.put(job.second_gradient, k, x);
        });
    }
}

// With r = gradient * l (u - v): (r - (r.u) u) / |f| and -(r - (r.v) v) / |g|.
template <typename S, int V>
__global__ void __launch_bounds__(256) interleaved_unit_backward(const DistanceJob job) {
    using T = Arithmetic<S>;
    InterleavedTile<S, V> tile(job);
    const int64_t width = tile.width(job), tiles = (job.positions + width - 1) / width;
    for (int64_t index = blockIdx.x % unsigned(job.blocks); index < tiles; index += job.blocks) {
        tile.load(index);
        const Inverses<T> inverses = inverse_norms(tile);
        const UnitDifference<T> difference = UnitDifference<T>::of(inverses);
        T sums[2] = {};
        tile.each([&](int k, const Pack<S, V>& f, const Pack<S, V>& g) {
            T factors[V];
            tile.factors(k, factors);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const T x = f.get(v), y = g.get(v), weighted = factors[v] * difference(x, y);
                sums[0] = fma(weighted, x, sums[0]);
                sums[1] = fma(weighted, y, sums[1]);
            }
        });
        tile.reduce(sums);
        if (!tile.inside) continue;
        const T gradient = upstream<T>(job, tile.sample, tile.position);
        const T first_scale = gradient * inverses.first, second_scale = -gradient * inverses.second;
        const T first_along = along(sums[0], inverses.first), second_along = along(sums[1], inverses.second);
        tile.each([&](int k, const Pack<S, V>& f, const Pack<S, V>& g) {
            T factors[V], first[V], second[V];
            tile.factors(k, factors);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const T x = f.get(v), y = g.get(v), weighted = factors[v] * difference(x, y);
                first[v] = first_scale * fma(-first_along, x, weighted);
                second[v] = second_scale * fma(-second_along, y, weighted);
            }
            if (job.first_gradient.data != nullptr) tile.put(job.first_gradient, k, first);
            if (job.second_gradient.data != nullptr) tile.put(job.second_gradient, k, second);
        });
    }
}

}  // namespace pe::cuda
