// Channel distance of features whose positions lie next to each other (NCHW), or anyhow: vectors of
// positions, a channel at a time. Included only by channel_distance_isa.cpp.
#pragma once

#include "channel_distance_common.h"

namespace pe::PE_ISA {

// Values that a task keeps per position.
template <typename T>
struct Lanes {
    alignas(64) T values[kMaxBlock];
    PE_INLINE Vec<T> at(int64_t i) const { return Vec<T>::load(values + i); }
    PE_INLINE void set(int64_t i, Vec<T> x) { x.store(values + i); }
    PE_INLINE void clear(int64_t size) {
        for (int64_t i = 0; i < size; i += Vec<T>::size) set(i, Vec<T>::all(0));
    }
};

// What the unit form needs of a block, from one look at it.
//
// With h = f - g and e = 1 / |f| - 1 / |g|, u - v = f / |f| - g / |g| is h / |g| + e f (see UnitDifference),
// and so its square is made of the sums of h^2, h f and f^2. These do not cancel where features are
// near-identical, h and e being small themselves. They do where h is nearly along f, as in a change of
// contrast; there, the positions are looked at again.
template <typename T>
struct UnitSums {
    Lanes<T> first;       // in: sum of f^2; out: 1 / |f|
    Lanes<T> second;      // in: sum of g^2; out: 1 / |g|
    Lanes<T> difference;  // in: sum of (g - f) (g + f); out: e
    Lanes<T> hh;          // in: sum of l h^2; out: sum of l (u - v)^2
    Lanes<T> hf;          // in: sum of l h f; out: sum of l (u - v) f
    Lanes<T> ff;          // in: sum of l f^2; out: sum of l (u - v) g

    PE_INLINE void clear(int64_t size) {
        first.clear(size);
        second.clear(size);
        difference.clear(size);
        hh.clear(size);
        hf.clear(size);
        ff.clear(size);
    }

    // Sets again[i] where the terms cancel to less than a sixteenth, and where something is not finite.
    void finish(int64_t size, int32_t* again) {
        for (int64_t i = 0; i < size; ++i) {
            const auto inverses = Inverses<T>::of(first.values[i], second.values[i], difference.values[i]);
            const T a = inverses.first, b = inverses.second, e = inverses.difference;
            const T x = hh.values[i], y = hf.values[i], z = ff.values[i];
            const T fg = z - y, hg = y - x, gg = fg - hg;
            const bool longer_second = e >= 0;
            const T m = longer_second ? b : a;
            const T cross = longer_second ? y : hg, own = longer_second ? z : gg;
            const T value = m * (m * x) + 2 * m * (e * cross) + e * (e * own);
            const T y_size = y < 0 ? -y : y, e_size = e < 0 ? -e : e;
            const T terms = m * (m * x) + 2 * m * (e_size * (y_size + x)) + e * (e * (z + 2 * y_size + x));
            first.values[i] = a;
            second.values[i] = b;
            difference.values[i] = e;
            hh.values[i] = value;
            hf.values[i] = m * y + e * (longer_second ? z : fg);
            ff.values[i] = m * hg + e * (longer_second ? fg : gg);
            again[i] = !(value * 16 >= terms);
        }
    }
};

// A block of an input or a gradient. kStrided: positions do not lie next to each other.
template <typename S, bool kStrided>
struct Plane {
    using T = Arithmetic<S>;
    S* data;
    int64_t channel_stride, position_stride;

    PE_INLINE S* row(int64_t channel) const { return data + channel * channel_stride; }
    PE_INLINE Vec<T> get(const S* row, int64_t i, int count) const {
        if constexpr (kStrided) {
            T lanes[Vec<T>::size] = {};
            for (int lane = 0; lane < count; ++lane) lanes[lane] = load(row + (i + lane) * position_stride);
            return Vec<T>::load(lanes);
        } else {
            return count == Vec<T>::size ? read<T>(row + i) : read<T>(row + i, count);
        }
    }
    PE_INLINE void put(Vec<T> x, S* row, int64_t i, int count) const {
        if constexpr (kStrided) {
            T lanes[Vec<T>::size];
            x.store(lanes);
            for (int lane = 0; lane < count; ++lane) store(lanes[lane], row + (i + lane) * position_stride);
        } else if (count == Vec<T>::size) {
            write(x, row + i);
        } else {
            write(x, row + i, count);
        }
    }
};

template <typename S, bool kStrided>
class Planar {
  public:
    using T = Arithmetic<S>;
    using V = Vec<T>;

    Planar(const ChannelDistanceJob& job, int task)
        : job_(job),
          channels_(job.problem.channels),
          block_(block_of(job, task)),
          first_(plane<const S>(elements<S>(job.first, block_), job.first.layout)),
          second_(plane<const S>(elements<S>(job.second, block_), job.second.layout)),
          ahead_(kTogether + kAheadBytes / (block_.size * int64_t(sizeof(S)))) {}

    // Sum of the map over the block; the map itself where it is wanted.
    double forward() const {
        const bool squared = job_.problem.form == DistanceForm::kSquared;
        UnitSums<T> sums;
        Lanes<T>& values = sums.hh;
        if (squared) {
            values.clear(block_.size);
            visit_all<true>(Squared{values});
            for (int64_t i = 0; i < block_.size; ++i) values.values[i] /= T(channels_.count);
        } else {
            look(sums);
        }
        double total = 0;
        for (int64_t i = 0; i < block_.size; ++i) total += double(values.values[i]);
        if (job_.map != nullptr) {
            T* map = static_cast<T*>(job_.map) + block_.sample * job_.problem.positions() + block_.start;
            __builtin_memcpy(map, values.values, size_t(block_.size) * sizeof(T));
        }
        return total;
    }

    void backward() const {
        Lanes<T> gradient;
        for (int64_t i = 0; i < block_.size; ++i) gradient.values[i] = 2 * upstream<T>(job_, block_, i);
        if (job_.problem.form == DistanceForm::kSquared) {
            for (int64_t i = 0; i < block_.size; ++i) gradient.values[i] /= T(channels_.count);
            visit_all<true>(SquaredGradient{gradient, outputs()});
        } else {
            UnitSums<T> sums;
            look(sums);
            project(sums.first, sums.hf);
            project(sums.second, sums.ff);
            visit_all<false>(UnitGradient{sums, gradient, outputs()});
        }
    }

  private:
    // How far ahead of use memory is asked for: the hardware does not follow from one channel to the next.
    static constexpr int64_t kAheadBytes = 16384;
    static constexpr int kTogether = 4;

    template <typename E>
    PE_INLINE static Plane<E, kStrided> plane(E* data, const Layout& layout) {
        return {data, layout.channel_stride, layout.position_stride};
    }
    PE_INLINE int64_t channel(int64_t k) const {
        return channels_.indices == nullptr ? k : channels_.indices[k];
    }
    PE_INLINE T factor(int64_t k) const {
        const bool squared = job_.problem.form == DistanceForm::kSquared;
        const double* factors = squared ? channels_.weights : job_.problem.linear;
        return factors == nullptr ? 1 : T(factors[k]);
    }

    // Some channels at one vector of positions after the other: what `look` keeps per position is loaded and
    // stored once for all of them.
    //   state = look.begin(i); look.step(state, i, count, index, factor, f, g) for each channel;
    //   look.end(state, i)
    template <int kChannels, bool kPrefetch, typename Look>
    void visit(int64_t start, const Look& look) const {
        const S *f[kChannels], *g[kChannels], *next_f[kChannels], *next_g[kChannels];
        V factors[kChannels];
        int64_t indices[kChannels];
        for (int j = 0; j < kChannels; ++j) {
            indices[j] = channel(start + j);
            factors[j] = V::all(factor(start + j));
            f[j] = first_.row(indices[j]);
            g[j] = second_.row(indices[j]);
            const int64_t next = channel(smaller(start + j + ahead_, channels_.count - 1));
            next_f[j] = first_.row(next);
            next_g[j] = second_.row(next);
        }
        for (int64_t i = 0; i < block_.size; i += V::size) {
            const int count = int(smaller(V::size, block_.size - i));
            auto state = look.begin(i);
            if (count == V::size) {
                for (int j = 0; j < kChannels; ++j) {
                    if constexpr (kPrefetch && !kStrided) {
                        // To the second level: of the first, fewer lines can be under way.
                        __builtin_prefetch(next_f[j] + i, 0, 2);
                        __builtin_prefetch(next_g[j] + i, 0, 2);
                    }
                    look.step(state, i, V::size, indices[j], factors[j], first_.get(f[j], i, V::size),
                              second_.get(g[j], i, V::size));
                }
            } else {
                for (int j = 0; j < kChannels; ++j) {
                    look.step(state, i, count, indices[j], factors[j], first_.get(f[j], i, count),
                              second_.get(g[j], i, count));
                }
            }
            look.end(state, i);
        }
    }

    // All channels at one vector of positions, which are in the cache.
    template <typename Look>
    void visit_vector(int64_t i, const Look& look) const {
        const int count = int(smaller(V::size, block_.size - i));
        auto state = look.begin(i);
        for (int64_t k = 0; k < channels_.count; ++k) {
            const int64_t index = channel(k);
            look.step(state, i, count, index, V::all(factor(k)), first_.get(first_.row(index), i, count),
                      second_.get(second_.row(index), i, count));
        }
        look.end(state, i);
    }

    template <bool kPrefetch, typename Look>
    void visit_all(const Look& look) const {
        int64_t k = 0;
        for (; k + kTogether <= channels_.count; k += kTogether) visit<kTogether, kPrefetch>(k, look);
        for (; k < channels_.count; ++k) visit<1, kPrefetch>(k, look);
    }

    // sums += (w (f - g))^2
    struct Squared {
        Lanes<T>& sums;
        PE_INLINE V begin(int64_t i) const { return sums.at(i); }
        PE_INLINE void step(V& sum, int64_t, int, int64_t, V factor, V f, V g) const {
            const V difference = factor * (f - g);
            sum = fma(difference, difference, sum);
        }
        PE_INLINE void end(V sum, int64_t i) const { sums.set(i, sum); }
    };

    struct UnitLook {
        UnitSums<T>& sums;
        struct State {
            V first, second, difference, hh, hf, ff;
        };
        PE_INLINE State begin(int64_t i) const {
            return {sums.first.at(i), sums.second.at(i), sums.difference.at(i),
                    sums.hh.at(i),    sums.hf.at(i),     sums.ff.at(i)};
        }
        PE_INLINE void step(State& state, int64_t, int, int64_t, V factor, V f, V g) const {
            const V h = f - g, weighted_h = factor * h, weighted_f = factor * f;
            state.first = fma(f, f, state.first);
            state.second = fma(g, g, state.second);
            state.difference = fnma(h, f + g, state.difference);
            state.hh = fma(weighted_h, h, state.hh);
            state.hf = fma(weighted_h, f, state.hf);
            state.ff = fma(weighted_f, f, state.ff);
        }
        PE_INLINE void end(const State& state, int64_t i) const {
            sums.first.set(i, state.first);
            sums.second.set(i, state.second);
            sums.difference.set(i, state.difference);
            sums.hh.set(i, state.hh);
            sums.hf.set(i, state.hf);
            sums.ff.set(i, state.ff);
        }
    };

    // The same from u - v itself, for one vector of positions.
    struct SecondLook {
        UnitSums<T>& sums;
        struct State {
            UnitDifference<T> difference;
            V hh, hf, ff;
        };
        PE_INLINE State begin(int64_t i) const {
            return {{sums.first.at(i), sums.second.at(i), sums.difference.at(i)},
                    V::all(0),
                    V::all(0),
                    V::all(0)};
        }
        PE_INLINE void step(State& state, int64_t, int, int64_t, V factor, V f, V g) const {
            const V d = state.difference(f, g), weighted = factor * d;
            state.hh = fma(weighted, d, state.hh);
            state.hf = fma(weighted, f, state.hf);
            state.ff = fma(weighted, g, state.ff);
        }
        PE_INLINE void end(const State& state, int64_t i) const {
            sums.hh.set(i, state.hh);
            sums.hf.set(i, state.hf);
            sums.ff.set(i, state.ff);
        }
    };

    void look(UnitSums<T>& sums) const {
        const int64_t padded = (block_.size + V::size - 1) / V::size * V::size;
        sums.clear(padded);
        visit_all<true>(UnitLook{sums});
        int32_t again[kMaxBlock];
        sums.finish(padded, again);
        for (int64_t i = 0; i < block_.size; i += V::size) {
            int32_t any = 0;
            for (int lane = 0; lane < V::size; ++lane) any |= again[i + lane];
            if (any) visit_vector(i, SecondLook{sums});
        }
    }

    struct Outputs {
        Plane<S, kStrided> first, second;  // data: null where not wanted
    };
    PE_INLINE Outputs outputs() const {
        const auto output = [&](const Gradient& gradient) {
            S* data = gradient.data == nullptr ? nullptr : elements<S>(gradient, block_);
            return plane<S>(data, gradient.layout);
        };
        return {output(job_.first_gradient), output(job_.second_gradient)};
    }

    struct SquaredGradient {
        const Lanes<T>& gradient;
        const Outputs out;
        PE_INLINE V begin(int64_t i) const { return gradient.at(i); }
        PE_INLINE void step(V scale, int64_t i, int count, int64_t index, V factor, V f, V g) const {
            const V d = scale * (factor * (factor * (f - g)));
            if (out.first.data != nullptr) out.first.put(d, out.first.row(index), i, count);
            if (out.second.data != nullptr) out.second.put(V::all(0) - d, out.second.row(index), i, count);
        }
        PE_INLINE void end(V, int64_t) const {}
    };

    // With r = gradient * l (u - v): (r - (r.u) u) / |f| and -(r - (r.v) v) / |g|.
    struct UnitGradient {
        const UnitSums<T>& sums;
        const Lanes<T>& gradient;
        const Outputs out;
        struct State {
            UnitDifference<T> difference;
            V first_scale, second_scale, first_along, second_along;
        };
        PE_INLINE State begin(int64_t i) const {
            const V a = sums.first.at(i), b = sums.second.at(i);
            return {{a, b, sums.difference.at(i)},
                    gradient.at(i) * a,
                    V::all(0) - gradient.at(i) * b,
                    sums.hf.at(i),
                    sums.ff.at(i)};
        }
        PE_INLINE void step(const State& state, int64_t i, int count, int64_t index, V factor, V f,
                            V g) const {
            const V weighted = factor * state.difference(f, g);
            if (out.first.data != nullptr) {
                const V rest = fnma(state.first_along, f, weighted);
                out.first.put(state.first_scale * rest, out.first.row(index), i, count);
            }
            if (out.second.data != nullptr) {
                const V rest = fnma(state.second_along, g, weighted);
                out.second.put(state.second_scale * rest, out.second.row(index), i, count);
            }
        }
        PE_INLINE void end(const State&, int64_t) const {}
    };

    // From the sum of l (u - v) f to (r.u) / |f| per unit of gradient; 0 where the norm is clamped and so
    // does not move.
    void project(const Lanes<T>& inverses, Lanes<T>& along) const {
        for (int64_t i = 0; i < block_.size; ++i) {
            const T inverse = inverses.values[i];
            const T projected = along.values[i] * inverse * inverse;
            along.values[i] = moves(inverse) ? projected : 0;
        }
    }

    const ChannelDistanceJob& job_;
    const Channels& channels_;
    const Block block_;
    const Plane<const S, kStrided> first_, second_;
    const int64_t ahead_;
};

}  // namespace pe::PE_ISA
