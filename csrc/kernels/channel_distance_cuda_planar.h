// Channel distance on CUDA devices of features whose positions lie next to each other (NCHW), or anyhow: a
// thread takes V positions and every job.slices-th channel. Included only by channel_distance_*cuda.cu.
#pragma once

#include "channel_distance_cuda_common.h"

namespace pe::cuda {

// Of a block. Two fit on a multiprocessor, so that one loads while the other one computes.
template <int V>
constexpr int kPlanarThreads = V > 1 ? 256 : 512;

// Channels that a thread keeps, as many as registers allow.
template <size_t kElement, int V>
constexpr int kPlanarKept = V == 1 || kElement == 4 ? 8
                            : kElement == 2         ? 5
                                                    : 4;

// A block's tile is job.lanes times V positions; thread slice job.lanes + lane takes channels slice,
// slice + job.slices, ... of the lane's positions. It keeps the first kKept of them; the others are read
// again, from the cache, at each look.
template <typename S, int V>
class PlanarTile {
  public:
    using T = Arithmetic<S>;
    static constexpr int kKept = kPlanarKept<sizeof(S), V>;

    __device__ __forceinline__ explicit PlanarTile(const DistanceJob& job)
        : job_(job),
          sample(blockIdx.x / unsigned(job.blocks)),
          lane_(int(threadIdx.x) & (job.lanes - 1)),
          slice_(int(threadIdx.x) >> job.lane_bits) {}

    __device__ __forceinline__ void load(int64_t tile) {
        start = tile * job_.lanes * V;
        position_ = start + int64_t(lane_) * V;
        inside_ = position_ < job_.positions;
        if (!inside_) position_ = 0;
        first_ = at(static_cast<const S*>(job_.first.data), job_.first.layout);
        second_ = at(static_cast<const S*>(job_.second.data), job_.second.layout);
        // All loads at once, none behind a branch: what is not there is replaced by the first position and
        // the last channel.
        int64_t channels[kKept];
#pragma unroll
        for (int j = 0; j < kKept; ++j) channels[j] = last_at_most(slice_ + j * job_.slices);
        if (job_.indices != nullptr) {
#pragma unroll
            for (int j = 0; j < kKept; ++j) channels[j] = job_.indices[channels[j]];
        }
#pragma unroll
        for (int j = 0; j < kKept; ++j) {
            f_[j] = Pack<S, V>::load(first_ + channels[j] * job_.first.layout.channel_stride);
            g_[j] = Pack<S, V>::load(second_ + channels[j] * job_.second.layout.channel_stride);
        }
    }

    // body(k, factor, f, g) for each of the thread's channels. Without factors they are 1.
    template <bool kFactors, typename Body>
    __device__ __forceinline__ void each(Body body) const {
        if (!inside_) return;
        // Offsets of channels would take more registers than features.
        const int slice = forgotten(slice_);
        const T* from = kFactors ? static_cast<const T*>(job_.factors) : nullptr;
        T factors[kKept];
#pragma unroll
        for (int j = 0; j < kKept; ++j) factors[j] = 1;
        if (from != nullptr) {
#pragma unroll
            for (int j = 0; j < kKept; ++j) factors[j] = from[last_at_most(slice + j * job_.slices)];
        }
#pragma unroll
        for (int j = 0; j < kKept; ++j) {
            const int k = slice + j * job_.slices;
            if (k < job_.channels) body(k, factors[j], f_[j], g_[j]);
        }
        for (int k = slice + kKept * job_.slices; k < job_.channels; k += job_.slices) {
            const int64_t channel = channel_of(k);
            body(k, from == nullptr ? T(1) : from[k],
                 Pack<S, V>::load(first_ + channel * job_.first.layout.channel_stride),
                 Pack<S, V>::load(second_ + channel * job_.second.layout.channel_stride));
        }
    }

    // Element v of x to position v of the thread.
    __device__ __forceinline__ void put(const Gradient& gradient, int k, const T (&x)[V]) const {
        Pack<S, V> pack;
        pack.set(x);
        pack.store(at(static_cast<S*>(gradient.data), gradient.layout) +
                   channel_of(k) * gradient.layout.channel_stride);
    }

    // Twice the upstream gradients of the thread's positions.
    __device__ __forceinline__ void gradients(T (&x)[V]) const {
#pragma unroll
        for (int v = 0; v < V; ++v) x[v] = inside_ ? upstream<T>(job_, sample, position_ + v) : T(0);
    }

    // Sums over the slices: resolve(i, sums, position) once for each position, by one thread, always the
    // same of position i of the tile. `partial`: room for kSums of each thread's positions.
    template <int kSums, typename Resolve>
    __device__ __forceinline__ void reduce(T (&sums)[kSums][V], T* partial, Resolve resolve) const {
        if (job_.slices == 1) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                T own[kSums];
                for (int n = 0; n < kSums; ++n) own[n] = sums[n][v];
                if (inside_) resolve(v * job_.lanes + lane_, own, position_ + v);
            }
            return;
        }
        // Lanes of one position in a warp first.
        for (int step = job_.lanes; step < 32; step *= 2) {
#pragma unroll
            for (int n = 0; n < kSums; ++n) {
#pragma unroll
                for (int v = 0; v < V; ++v) sums[n][v] += __shfl_xor_sync(kWholeWarp, sums[n][v], step);
            }
        }
        const int width = job_.lanes * V;
        const bool narrow = job_.lanes < 32;
        const int rows = narrow ? int(blockDim.x) / 32 : job_.slices;
        if (!narrow || int(threadIdx.x) % 32 < job_.lanes) {
            T* row = partial + (narrow ? int(threadIdx.x) / 32 : slice_) * width + lane_;
#pragma unroll
            for (int n = 0; n < kSums; ++n) {
#pragma unroll
                for (int v = 0; v < V; ++v) row[n * rows * width + v * job_.lanes] = sums[n][v];
            }
        }
        __syncthreads();
        for (int i = int(threadIdx.x); i < width; i += int(blockDim.x)) {
            const int64_t position = start + int64_t(i & (job_.lanes - 1)) * V + (i >> job_.lane_bits);
            if (position >= job_.positions) continue;
            T all[kSums];
#pragma unroll
            for (int n = 0; n < kSums; ++n) {
                T sum = 0;
                for (int row = 0; row < rows; ++row) sum += partial[(n * rows + row) * width + i];
                all[n] = sum;
            }
            resolve(i, all, position);
        }
    }

    // Before what `resolve` has left is read, or `partial` is used again.
    __device__ __forceinline__ void wait() const {
        if (job_.slices > 1) __syncthreads();
    }
    // Index, among the tile's, of the thread's position v.
    __device__ __forceinline__ int own(int v) const { return v * job_.lanes + lane_; }
    __device__ __forceinline__ int width() const { return job_.lanes * V; }

  private:
    __device__ __forceinline__ int last_at_most(int k) const {
        return k < job_.channels ? k : job_.channels - 1;
    }
    __device__ __forceinline__ int64_t channel_of(int k) const {
        return job_.indices == nullptr ? k : job_.indices[k];
    }
    // The thread's first position, in channel 0.
    template <typename E>
    __device__ __forceinline__ E* at(E* data, const Layout& layout) const {
        return data + sample * layout.batch_stride + position_ * layout.position_stride;
    }

    const DistanceJob& job_;

  public:
    const int64_t sample;
    int64_t start;  // first position

  private:
    const int lane_, slice_;
    int64_t position_;
    bool inside_;
    const S *first_, *second_;
    Pack<S, V> f_[kKept], g_[kKept];
};

// In shared memory: the block's sum; what is resolved of each position; partial sums.
template <typename T>
struct PlanarShared {
    static constexpr int kMostSums = 3, kResolved = 6;

    double* block_sum;
    T *resolved, *partial;

    __device__ __forceinline__ explicit PlanarShared(int width)
        : block_sum(reinterpret_cast<double*>(dynamic_shared())),
          resolved(reinterpret_cast<T*>(dynamic_shared() + kBlockSumBytes)),
          partial(resolved + kResolved * width) {}

    static size_t bytes(int lanes, int slices, int vector) {
        const int rows = slices == 1 ? 0 : lanes < 32 ? lanes * slices / 32 : slices;
        return kBlockSumBytes + size_t(kResolved + kMostSums * rows) * size_t(lanes * vector) * sizeof(T);
    }
};

// First look of the unit form: leaves UnitDifference and the inverse norms of each position.
template <typename S, int V, typename T>
__device__ __forceinline__ void resolve_norms(const PlanarTile<S, V>& tile, const PlanarShared<T>& shared,
                                              UnitDifference<T> (&differences)[V]) {
    T sums[3][V] = {};
    tile.template each<false>([&](int, T, const Pack<S, V>& f, const Pack<S, V>& g) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const T x = f.get(v), y = g.get(v);
            sums[0][v] = fma(x, x, sums[0][v]);
            sums[1][v] = fma(y, y, sums[1][v]);
            sums[2][v] = fma(y - x, y + x, sums[2][v]);
        }
    });
    const int width = tile.width();
    tile.reduce(sums, shared.partial, [&](int i, const T(&sum)[3], int64_t) {
        const Inverses<T> inverses = Inverses<T>::of(sum[0], sum[1], sum[2]);
        const UnitDifference<T> difference = UnitDifference<T>::of(inverses);
        T* to = shared.resolved + i;
        to[0] = difference.inverse;
        to[width] = difference.e;
        to[2 * width] = inverses.first;
        to[3 * width] = inverses.second;
    });
    tile.wait();
#pragma unroll
    for (int v = 0; v < V; ++v) {
        const T* from = shared.resolved + tile.own(v);
        differences[v] = {from[0], from[width]};
    }
}

template <typename S, int V, bool kUnit>
__global__ void __launch_bounds__(kPlanarThreads<V>, V > 1 ? 2 : 1) planar_forward(const DistanceJob job) {
    using T = Arithmetic<S>;
    PlanarTile<S, V> tile(job);
    const PlanarShared<T> shared(tile.width());
    const int64_t tiles = (job.positions + tile.width() - 1) / tile.width();
    double total = 0;
    for (int64_t index = blockIdx.x % unsigned(job.blocks); index < tiles; index += job.blocks) {
        tile.load(index);
        UnitDifference<T> differences[V];
        if constexpr (kUnit) resolve_norms(tile, shared, differences);
        T sums[1][V] = {};
        tile.template each<true>([&](int, T factor, const Pack<S, V>& f, const Pack<S, V>& g) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                if constexpr (kUnit) {
                    const T d = differences[v](f.get(v), g.get(v));
                    sums[0][v] = fma(factor * d, d, sums[0][v]);
                } else {
                    const T d = factor * (f.get(v) - g.get(v));
                    sums[0][v] = fma(d, d, sums[0][v]);
                }
            }
        });
        tile.reduce(sums, shared.partial, [&](int, const T(&sum)[1], int64_t position) {
            const T value = kUnit ? sum[0] : sum[0] / T(job.channels);
            if (job.map != nullptr) static_cast<T*>(job.map)[tile.sample * job.positions + position] = value;
            total += double(value);
        });
        tile.wait();
    }
    write_block_sum(total, shared.block_sum, &job.sums[blockIdx.x]);
}

template <typename S, int V>
__global__ void __launch_bounds__(kPlanarThreads<V>, V > 1 ? 2 : 1)
    planar_squared_backward(const DistanceJob job) {
    using T = Arithmetic<S>;
    PlanarTile<S, V> tile(job);
    const int64_t tiles = (job.positions + tile.width() - 1) / tile.width();
    for (int64_t index = blockIdx.x % unsigned(job.blocks); index < tiles; index += job.blocks) {
        tile.load(index);
        T scale[V];
        tile.gradients(scale);
        for (int v = 0; v < V; ++v) scale[v] /= T(job.channels);
        tile.template each<true>([&](int k, T factor, const Pack<S, V>& f, const Pack<S, V>& g) {
            T x[V];
#pragma unroll
            for (int v = 0; v < V; ++v) x[v] = scale[v] * (factor * (factor * (f.get(v) - g.get(v))));
            if (job.first_gradient.data != nullptr) tile.put(job.first_gradient, k, x);
#pragma unroll
            for (int v = 0; v < V; ++v) x[v] = -x[v];
            if (job.second_gradient.data != nullptr) tile.put(job.second_gradient, k, x);
        });
    }
}

template <bool kFirst, typename S, int V, typename T>
__device__ __forceinline__ void put_unit_gradient(const PlanarTile<S, V>& tile, const PlanarShared<T>& shared,
                                                  const UnitDifference<T> (&differences)[V],
                                                  const Gradient& gradient) {
    T scale[V], along[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
        const T* from = shared.resolved + tile.own(v);
        scale[v] = from[(kFirst ? 2 : 3) * tile.width()];
        along[v] = from[(kFirst ? 4 : 5) * tile.width()];
    }
    tile.template each<true>([&](int k, T factor, const Pack<S, V>& f, const Pack<S, V>& g) {
        T result[V];
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const T x = f.get(v), y = g.get(v), weighted = factor * differences[v](x, y);
            result[v] = scale[v] * fma(-along[v], kFirst ? x : y, weighted);
        }
        tile.put(gradient, k, result);
    });
}

// With r = gradient * l (u - v): (r - (r.u) u) / |f| and -(r - (r.v) v) / |g|.
template <typename S, int V>
__global__ void __launch_bounds__(kPlanarThreads<V>, V > 1 ? 2 : 1)
    planar_unit_backward(const DistanceJob job) {
    using T = Arithmetic<S>;
    PlanarTile<S, V> tile(job);
    const int width = tile.width();
    const PlanarShared<T> shared(width);
    const int64_t tiles = (job.positions + width - 1) / width;
    for (int64_t index = blockIdx.x % unsigned(job.blocks); index < tiles; index += job.blocks) {
        tile.load(index);
        UnitDifference<T> differences[V];
        resolve_norms(tile, shared, differences);
        T sums[2][V] = {};
        tile.template each<true>([&](int, T factor, const Pack<S, V>& f, const Pack<S, V>& g) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const T x = f.get(v), y = g.get(v), weighted = factor * differences[v](x, y);
                sums[0][v] = fma(weighted, x, sums[0][v]);
                sums[1][v] = fma(weighted, y, sums[1][v]);
            }
        });
        tile.reduce(sums, shared.partial, [&](int i, const T(&sum)[2], int64_t position) {
            T* at = shared.resolved + i;
            const T a = at[2 * width], b = at[3 * width];
            const T gradient = upstream<T>(job, tile.sample, position);
            at[2 * width] = gradient * a;
            at[3 * width] = -gradient * b;
            at[4 * width] = along(sum[0], a);
            at[5 * width] = along(sum[1], b);
        });
        tile.wait();
        // One after the other, as the registers allow.
        if (job.first_gradient.data != nullptr) {
            put_unit_gradient<true>(tile, shared, differences, job.first_gradient);
        }
        if (job.second_gradient.data != nullptr) {
            put_unit_gradient<false>(tile, shared, differences, job.second_gradient);
        }
    }
}

}  // namespace pe::cuda
