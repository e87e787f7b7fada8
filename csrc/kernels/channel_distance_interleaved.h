// Channel distance of features whose channels lie next to each other (channels-last): vectors of channels, a
// position at a time, and as many positions at once as a vector has lanes. Included only by
// channel_distance_isa.cpp.
#pragma once

#include "channel_distance_common.h"

namespace pe::PE_ISA {

template <typename T>
struct BitsOf;
template <>
struct BitsOf<float> {
    using type = int32_t;
};
template <>
struct BitsOf<double> {
    using type = int64_t;
};

// x where all bits of the mask are set, 0 where none is, whatever x is.
template <typename T>
PE_INLINE Vec<T> keep(Vec<T> x, Vec<T> mask) {
    using Lanes = decltype(x.v);
    typedef typename BitsOf<T>::type Bits __attribute__((vector_size(sizeof(Lanes))));
    return {(Lanes)((Bits)x.v & (Bits)mask.v)};
}

// The sums of neighbours: those of a, then those of b.
PE_INLINE Vec<float> sum_neighbours(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
    return {__builtin_shufflevector(a.v, b.v, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
            __builtin_shufflevector(a.v, b.v, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
#elif defined(__AVX2__)
    return {__builtin_shufflevector(a.v, b.v, 0, 2, 4, 6, 8, 10, 12, 14) +
            __builtin_shufflevector(a.v, b.v, 1, 3, 5, 7, 9, 11, 13, 15)};
#else
    return {__builtin_shufflevector(a.v, b.v, 0, 2, 4, 6) + __builtin_shufflevector(a.v, b.v, 1, 3, 5, 7)};
#endif
}
PE_INLINE Vec<double> sum_neighbours(Vec<double> a, Vec<double> b) {
#if defined(__AVX512F__)
    return {__builtin_shufflevector(a.v, b.v, 0, 2, 4, 6, 8, 10, 12, 14) +
            __builtin_shufflevector(a.v, b.v, 1, 3, 5, 7, 9, 11, 13, 15)};
#elif defined(__AVX2__)
    return {__builtin_shufflevector(a.v, b.v, 0, 2, 4, 6) + __builtin_shufflevector(a.v, b.v, 1, 3, 5, 7)};
#else
    return {__builtin_shufflevector(a.v, b.v, 0, 2) + __builtin_shufflevector(a.v, b.v, 1, 3)};
#endif
}

// Lane j of the result is the sum of the lanes of x[j].
template <typename T>
PE_INLINE Vec<T> sum_lanes(Vec<T> (&x)[Vec<T>::size]) {
    for (int count = Vec<T>::size; count > 1; count /= 2) {
        for (int j = 0; j < count / 2; ++j) x[j] = sum_neighbours(x[2 * j], x[2 * j + 1]);
    }
    return x[0];
}

template <typename S>
class Interleaved {
  public:
    using T = Arithmetic<S>;
    using V = Vec<T>;

    Interleaved(const ChannelDistanceJob& job, int task)
        : job_(job),
          block_(block_of(job, task)),
          first_(elements<S>(job.first, block_)),
          second_(elements<S>(job.second, block_)),
          factors_(static_cast<const T*>(job.group_factors)),
          masks_(static_cast<const T*>(job.group_masks)),
          tail_(int(job.span % V::size)),
          whole_(tail_ == 0 ? job.groups : job.groups - 1) {}

    double forward() {
        const bool squared_form = job_.problem.form == DistanceForm::kSquared;
        const V scale = V::all(squared_form ? 1 / T(job_.problem.channels.count) : T(1));
        T* map = static_cast<T*>(job_.map);
        if (map != nullptr) map += block_.sample * job_.problem.positions() + block_.start;
        double sum = 0;
        for (int64_t start = 0; start < block_.size; start += V::size) {
            const int count = int(smaller(V::size, block_.size - start));
            const V values = scale * (squared_form ? squared(start, count) : unit(start, count));
            if (map != nullptr) write(values, map + start, count);
            sum += total(values);
        }
        return sum;
    }

    void backward() {
        for (int64_t start = 0; start < block_.size; start += V::size) {
            const int count = int(smaller(V::size, block_.size - start));
            T gradient[V::size];
            for (int j = 0; j < count; ++j) gradient[j] = 2 * upstream<T>(job_, block_, start + j);
            if (job_.problem.form == DistanceForm::kSquared) {
                squared_gradient(start, count, gradient);
            } else {
                unit_gradient(start, count, gradient);
            }
        }
    }

  private:
    struct Norms {
        alignas(64) T first[V::size], second[V::size], difference[V::size];
    };

    PE_INLINE const S* first(int64_t position) const {
        return first_ + position * job_.first.layout.position_stride;
    }
    PE_INLINE const S* second(int64_t position) const {
        return second_ + position * job_.second.layout.position_stride;
    }
    PE_INLINE V factor(int64_t group) const { return V::load(factors_ + group * V::size); }
    PE_INLINE V mask(int64_t group) const { return V::load(masks_ + group * V::size); }
    PE_INLINE void put(V x, S* position, int64_t group) const {
        const V kept = keep(x, mask(group));
        S* p = position + job_.group_offsets[group];
        if (group < whole_) {
            write(kept, p);
        } else {
            write(kept, p, tail_);
        }
    }

    // The last group, which ends beyond the last selected channel. Reading on into the next position is
    // faster.
    PE_INLINE V get_tail(const S* position, int64_t stride, int64_t positions_left) const {
        const int64_t offset = job_.group_offsets[whole_];
        const bool more = positions_left * stride + job_.span - offset >= V::size;
        return keep(more ? read<T>(position + offset) : read<T>(position + offset, tail_), mask(whole_));
    }

    // body(group, f, g) for each vector of channels of a position.
    template <typename Body>
    PE_INLINE void each(int64_t position, Body body) const {
        const S *f = first(position), *g = second(position);
        for (int64_t group = 0; group < whole_; ++group) {
            const int64_t offset = job_.group_offsets[group];
            const V kept = mask(group);
            body(group, keep(read<T>(f + offset), kept), keep(read<T>(g + offset), kept));
        }
        if (tail_ != 0) {
            const int64_t left = job_.problem.positions() - 1 - (block_.start + position);
            body(whole_, get_tail(f, job_.first.layout.position_stride, left),
                 get_tail(g, job_.second.layout.position_stride, left));
        }
    }

    V squared(int64_t start, int count) const {
        V sums[V::size];
        for (int j = 0; j < V::size; ++j) {
            V sum = V::all(0);
            if (j < count) {
                each(start + j, [&](int64_t group, V f, V g) __attribute__((always_inline)) {
                    const V difference = factor(group) * (f - g);
                    sum = fma(difference, difference, sum);
                });
            }
            sums[j] = sum;
        }
        return sum_lanes<T>(sums);
    }

    void look_at_norms(int64_t start, int count, Norms& norms) const {
        V first[V::size], second[V::size], difference[V::size];
        for (int j = 0; j < V::size; ++j) {
            V f_sum = V::all(0), g_sum = f_sum, d_sum = f_sum;
            if (j < count) {
                each(start + j, [&](int64_t, V f, V g) __attribute__((always_inline)) {
                    f_sum = fma(f, f, f_sum);
                    g_sum = fma(g, g, g_sum);
                    d_sum = fma(g - f, g + f, d_sum);
                });
            }
            first[j] = f_sum;
            second[j] = g_sum;
            difference[j] = d_sum;
        }
        sum_lanes<T>(first).store(norms.first);
        sum_lanes<T>(second).store(norms.second);
        sum_lanes<T>(difference).store(norms.difference);
        for (int j = 0; j < V::size; ++j) {
            const auto inverses = Inverses<T>::of(norms.first[j], norms.second[j], norms.difference[j]);
            norms.first[j] = inverses.first;
            norms.second[j] = inverses.second;
            norms.difference[j] = inverses.difference;
        }
    }

    V unit(int64_t start, int count) const {
        Norms norms;
        look_at_norms(start, count, norms);
        V sums[V::size];
        for (int j = 0; j < V::size; ++j) {
            const UnitDifference<T> unit_difference(V::all(norms.first[j]), V::all(norms.second[j]),
                                                    V::all(norms.difference[j]));
            V sum = V::all(0);
            if (j < count) {
                each(start + j, [&](int64_t group, V f, V g) __attribute__((always_inline)) {
                    const V difference = unit_difference(f, g);
                    sum = fma(factor(group) * difference, difference, sum);
                });
            }
            sums[j] = sum;
        }
        return sum_lanes<T>(sums);
    }

    // Where the gradients of a position go, or null.
    struct Outputs {
        S *first, *second;
    };
    PE_INLINE Outputs outputs(int64_t position) const {
        const auto at = [&](const Gradient& gradient) -> S* {
            if (gradient.data == nullptr) return nullptr;
            return elements<S>(gradient, block_) + position * gradient.layout.position_stride;
        };
        return {at(job_.first_gradient), at(job_.second_gradient)};
    }

    void squared_gradient(int64_t start, int count, const T* gradient) const {
        for (int j = 0; j < count; ++j) {
            const Outputs out = outputs(start + j);
            const V scale = V::all(gradient[j] / T(job_.problem.channels.count));
            each(start + j, [&](int64_t group, V f, V g) __attribute__((always_inline)) {
                const V d = scale * (factor(group) * (factor(group) * (f - g)));
                if (out.first != nullptr) put(d, out.first, group);
                if (out.second != nullptr) put(V::all(0) - d, out.second, group);
            });
        }
    }

    // With u = f / |f|, v = g / |g| and r = gradient * l (u - v): (r - (r.u) u) / |f| and -(r - (r.v) v) /
    // |g|.
    void unit_gradient(int64_t start, int count, const T* gradient) const {
        Norms norms;
        look_at_norms(start, count, norms);
        for (int j = 0; j < count; ++j) {
            const UnitDifference<T> unit_difference(V::all(norms.first[j]), V::all(norms.second[j]),
                                                    V::all(norms.difference[j]));
            V first_sum = V::all(0), second_sum = first_sum;
            each(start + j, [&](int64_t group, V f, V g) __attribute__((always_inline)) {
                const V weighted = factor(group) * unit_difference(f, g);
                first_sum = fma(weighted, f, first_sum);
                second_sum = fma(weighted, g, second_sum);
            });
            const V first_along = V::all(along(first_sum, norms.first[j]));
            const V second_along = V::all(along(second_sum, norms.second[j]));
            const V first_scale = V::all(gradient[j] * norms.first[j]);
            const V second_scale = V::all(-gradient[j] * norms.second[j]);
            const Outputs out = outputs(start + j);
            each(start + j, [&](int64_t group, V f, V g) __attribute__((always_inline)) {
                const V weighted = factor(group) * unit_difference(f, g);
                if (out.first != nullptr) put(first_scale * fnma(first_along, f, weighted), out.first, group);
                if (out.second != nullptr)
                    put(second_scale * fnma(second_along, g, weighted), out.second, group);
            });
        }
    }

    // (r.u) / |f| per unit of gradient; 0 where the norm is clamped and so does not move.
    PE_INLINE static T along(V sum, T inverse) {
        return moves(inverse) ? T(total(sum)) * inverse * inverse : T(0);
    }

    const ChannelDistanceJob& job_;
    const Block block_;
    const S *first_, *second_;
    const T *factors_, *masks_;
    const int tail_;       // channels of the last group, if not all; else 0
    const int64_t whole_;  // groups before that one
};

}  // namespace pe::PE_ISA
