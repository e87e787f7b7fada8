// What both layouts of the channel distance on CUDA devices share: their argument, vectors of elements, the
// unit form at one position. Included only by channel_distance_*cuda.cu.
#pragma once

#include "channel_distance.h"
#include "cuda_language.h"

namespace pe::cuda {

// The argument of the kernels.
struct DistanceJob {
    Features first, second;
    Gradient first_gradient, second_gradient;
    int64_t positions;
    int32_t channels;        // selected
    int32_t blocks;          // per sample: block s blocks + b takes tiles b, b + blocks, ... of sample s
    const int32_t* indices;  // null: the identity
    const void* factors;     // of the arithmetic type: weights or linear; null: 1
    void* map;               // null: not wanted
    double* sums;            // one per block
    const void* distance_gradient;
    const void* map_gradient;
    // Planar: threads along positions, times those that share a position's channels. Interleaved: threads of
    // a position. Powers of 2.
    int32_t lanes, slices;
    int32_t lane_bits;  // their logarithm
};

constexpr int kVectorBytes = 16;
template <typename S>
constexpr int kVector = kVectorBytes / int(sizeof(S));

// V elements next to each other as they are stored, in registers: 1, or 16 bytes of them.
template <typename S, int V>
struct Pack {
    static_assert(V * sizeof(S) == kVectorBytes, "");
    uint32_t words[4];

    __device__ __forceinline__ static Pack load(const S* p) {
        const uint4 bits = *reinterpret_cast<const uint4*>(p);
        return {{bits.x, bits.y, bits.z, bits.w}};
    }
    __device__ __forceinline__ void store(S* p) const {
        store16(p, make_uint4(words[0], words[1], words[2], words[3]));
    }
    __device__ __forceinline__ Arithmetic<S> get(int i) const {
        if constexpr (sizeof(S) == 2) {
            return to_float(S{uint16_t(words[i / 2] >> (i % 2 * 16))});
        } else if constexpr (sizeof(S) == 4) {
            return __uint_as_float(words[i]);
        } else {
            return __longlong_as_double((long long)(uint64_t(words[2 * i + 1]) << 32 | words[2 * i]));
        }
    }
    __device__ __forceinline__ void set(const Arithmetic<S> (&x)[V]) {
        for (int i = 0; i < 4; ++i) words[i] = word(x, i);
    }

  private:
    __device__ __forceinline__ static uint32_t word(const Arithmetic<S> (&x)[V], int i) {
        if constexpr (sizeof(S) == 2) {
            return uint32_t(from_arithmetic<S>(x[2 * i + 1]).bits) << 16 | from_arithmetic<S>(x[2 * i]).bits;
        } else if constexpr (sizeof(S) == 4) {
            return __float_as_uint(x[i]);
        } else {
            const uint64_t bits = uint64_t(__double_as_longlong(x[i / 2]));
            return uint32_t(bits >> (i % 2 * 32));
        }
    }
};

template <typename S>
struct Pack<S, 1> {
    S element;

    __device__ __forceinline__ static Pack load(const S* p) { return {*p}; }
    __device__ __forceinline__ void store(S* p) const { *p = element; }
    __device__ __forceinline__ Arithmetic<S> get(int) const { return to_float(element); }
    __device__ __forceinline__ void set(const Arithmetic<S> (&x)[1]) { element = from_arithmetic<S>(x[0]); }
};

// As in the reference, whose value is the one of the lpips package.
template <typename T>
constexpr T kEpsNorm = T(1e-10);

__device__ __forceinline__ float inverse_root(float x) { return rsqrtf(x); }
__device__ __forceinline__ double inverse_root(double x) { return 1 / sqrt(x); }

// 1 / |f|, 1 / |g| and their difference, from sums over channels.
template <typename T>
struct Inverses {
    T first, second, difference;

    // Of f^2, of g^2 and of (g - f) (g + f).
    __device__ __forceinline__ static Inverses of(T first, T second, T difference) {
        // Where a sum may overflow or a norm is clamped, only subtracting the inverses is right.
        constexpr T kLargest = T(sizeof(T) == 4 ? 3e38 : 1e308);
        constexpr T kLeast = kEpsNorm<T> * kEpsNorm<T>;
        // NaN where a sum has overflowed: of an inverse of 0, all features would be alike.
        const T a = (first < kLeast ? 1 / kEpsNorm<T> : inverse_root(first)) + (first - first);
        const T b = (second < kLeast ? 1 / kEpsNorm<T> : inverse_root(second)) + (second - second);
        const bool usable = first >= kLeast && second >= kLeast && first < kLargest && second < kLargest;
        // difference / (|f| + |g|) / |f| / |g|, in an order without overflow.
        const T exact = difference * a * b * (a * (b / (a + b)));
        return {a, b, usable ? exact : a - b};
    }
};

// f / |f| - g / |g|, accurate relative to itself where features are near-identical: subtracting two unit
// vectors would leave their rounding errors.
//
// With e = 1 / |f| - 1 / |g| it is (f - g) / |g| + e f, and (f - g) / |f| + e g. Of near-identical features f
// - g is exact, and e accurate if it comes from the sum of (g - f) (g + f). The longer norm divides, so that
// no term is larger than 2.
template <typename T>
struct UnitDifference {
    T inverse, e;

    __device__ __forceinline__ static UnitDifference of(const Inverses<T>& x) {
        // A NaN is one in `e`.
        return {x.first < x.second ? x.first : x.second, x.difference};
    }
    __device__ __forceinline__ T operator()(T f, T g) const {
        return fma(e, e > 0 ? f : g, inverse * (f - g));
    }
};

// From the sum of l (u - v) f to (r.u) / |f| per unit of gradient; 0 where the norm is clamped and so does
// not move.
template <typename T>
__device__ __forceinline__ T along(T sum, T inverse) {
    return inverse >= 1 / kEpsNorm<T> ? T(0) : sum * inverse * inverse;
}

// Twice the gradient of the map at one position, from both outputs.
template <typename T>
__device__ __forceinline__ T upstream(const DistanceJob& job, int64_t sample, int64_t position) {
    T gradient = 0;
    if (job.distance_gradient != nullptr) {
        gradient = static_cast<const T*>(job.distance_gradient)[sample] / T(job.positions);
    }
    if (job.map_gradient != nullptr) {
        gradient += static_cast<const T*>(job.map_gradient)[sample * job.positions + position];
    }
    return 2 * gradient;
}

template <typename S>
__device__ __forceinline__ S* sample_of(S* data, const Layout& layout, int64_t sample) {
    return data == nullptr ? nullptr : data + sample * layout.batch_stride;
}

// Writes the sum over the block's threads, in a fixed order. `shared` is for this alone.
constexpr size_t kBlockSumBytes = 32 * sizeof(double);
__device__ __forceinline__ void write_block_sum(double x, double* shared, double* sum) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kWholeWarp, x, step);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x > 0) return;
    double total = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += shared[warp];
    *sum = total;
}

}  // namespace pe::cuda
