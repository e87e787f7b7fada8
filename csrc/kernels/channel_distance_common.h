// What both layouts of the channel distance share. Included only by channel_distance_isa.cpp.
#pragma once

#include "channel_distance_internal.h"
#include "storage.h"

namespace pe::PE_ISA {

// As in the reference, whose value is the one of the lpips package.
template <typename T>
constexpr T kEpsNorm = T(1e-10);

PE_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
PE_INLINE double square_root(double x) { return __builtin_sqrt(x); }
PE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The positions of a task.
struct Block {
    int64_t sample, start, size;
};

PE_INLINE Block block_of(const ChannelDistanceJob& job, int task) {
    const int64_t start = task % job.blocks * job.block;
    return {task / job.blocks, start, smaller(job.block, job.problem.positions() - start)};
}

template <typename S>
PE_INLINE const S* elements(const Features& features, const Block& block) {
    const Layout& layout = features.layout;
    return static_cast<const S*>(features.data) + block.sample * layout.batch_stride +
           block.start * layout.position_stride;
}

template <typename S>
PE_INLINE S* elements(const Gradient& gradient, const Block& block) {
    const Layout& layout = gradient.layout;
    return static_cast<S*>(gradient.data) + block.sample * layout.batch_stride +
           block.start * layout.position_stride;
}

// Gradient of the map at one position, from both outputs.
template <typename T>
PE_INLINE T upstream(const ChannelDistanceJob& job, const Block& block, int64_t position) {
    T gradient = 0;
    if (job.distance_gradient != nullptr) {
        const T* distances = static_cast<const T*>(job.distance_gradient);
        gradient = distances[block.sample] / T(job.problem.positions());
    }
    if (job.map_gradient != nullptr) {
        const T* maps = static_cast<const T*>(job.map_gradient);
        gradient += maps[block.sample * job.problem.positions() + block.start + position];
    }
    return gradient;
}

// 1 / |f|, 1 / |g| and their difference, from sums over channels.
template <typename T>
struct Inverses {
    T first, second, difference;

    // Of f^2, of g^2 and of (g - f) (g + f).
    PE_INLINE static Inverses of(T first, T second, T difference) {
        // Where a sum may overflow or a norm is clamped, only subtracting the inverses is right.
        constexpr T kLargest = T(sizeof(T) == 4 ? 3e38 : 1e308);
        const T f = square_root(first), g = square_root(second);
        // NaN where a sum has overflowed: of an inverse of 0, all features would be alike.
        const T f_inverse = 1 / (f < kEpsNorm<T> ? kEpsNorm<T> : f) + (first - first);
        const T g_inverse = 1 / (g < kEpsNorm<T> ? kEpsNorm<T> : g) + (second - second);
        const T exact = difference / (f + g) * f_inverse * g_inverse;
        const bool usable = (f >= kEpsNorm<T>)&(g >= kEpsNorm<T>)&(first < kLargest) & (second < kLargest);
        return {f_inverse, g_inverse, usable ? exact : f_inverse - g_inverse};
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
    Vec<T> inverse, of_first, of_second;

    PE_INLINE UnitDifference(Vec<T> first, Vec<T> second, Vec<T> difference)
        : inverse(min(first, second)),
          // In this order of arguments a NaN stays one.
          of_first(max(Vec<T>::all(0), difference)),
          of_second(min(Vec<T>::all(0), difference)) {}

    PE_INLINE Vec<T> operator()(Vec<T> f, Vec<T> g) const {
        return fma(of_first, f, fma(of_second, g, inverse * (f - g)));
    }
};

// Whether the norm was not clamped, so that it depends on the features.
template <typename T>
PE_INLINE bool moves(T inverse) {
    return !(inverse >= 1 / kEpsNorm<T>);
}

}  // namespace pe::PE_ISA
