// One sample of the contextual loss, prepared: mean, normalised features in the layouts of the inner loops.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "contextual.h"
#include "contextual_tile.h"
#include "storage.h"

namespace pe::PE_ISA {

constexpr double kMinNorm = 1e-6;
// Positions that are normalised together.
constexpr int64_t kBlock = 64;
// Partial sums of a mean: against the latency of an addition, and of a fixed order.
constexpr int64_t kChains = 8;

PE_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
PE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Hands out parts of the workspace; with a null workspace it only counts.
class Arena {
  public:
    explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

    template <typename T>
    T* take(int64_t count) {
        const int64_t offset = used_;
        used_ += round_up(count * int64_t(sizeof(T)), kWorkspaceAlignment);
        return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + offset);
    }
    size_t used() const { return size_t(used_); }

  private:
    char* base_;
    int64_t used_ = 0;
};

// Runs body(task) for each task on the caller's threads.
template <typename Body>
PE_INLINE void parallel(const Pool& pool, int tasks, const Body& body) {
    if (tasks == 1) {
        body(0);
        return;
    }
    pool.run(
        pool.context, tasks, [](void* argument, int task) { (*static_cast<const Body*>(argument))(task); },
        const_cast<Body*>(&body));
}

// Runs body(index, task) for each index from 0 to count - 1, shared out as threads become free.
template <typename Body>
PE_INLINE void parallel_for(const Pool& pool, int64_t count, const Body& body) {
    int64_t next = 0;
    const int tasks = int(smaller(pool.threads, count));
    parallel(pool, tasks, [&](int task) {
        for (;;) {
            const int64_t index = __atomic_fetch_add(&next, int64_t{1}, __ATOMIC_RELAXED);
            if (index >= count) return;
            body(index, task);
        }
    });
}

// Sizes and memory of one sample.
template <typename T>
struct Sample {
    static constexpr int64_t kColumns = kPanel<T>;
    static constexpr bool kLow = sizeof(T) == 4;

    int64_t nx, ny;      // positions
    int64_t channels;    // selected
    int64_t difference;  // depth of differences: channels and, with a spatial term, the two coordinates
    int64_t depth;       // depth of products: one more with a spatial term
    int64_t panels;      // of target columns
    int64_t stride;      // channels of a target row, for products with rows: whole vectors
    bool differences;    // L2: distances are sums of squared differences throughout
    bool centred;

    double* mean;            // [channels]
    double* partial_means;   // [blocks][kChains][channels]
    T* source_rows;          // [nx][depth]
    // What rounding to T left of the features, as far as it is wanted; null where it is not, or T is double.
    T* source_low;           // [nx][difference]
    T* panels_low;           // [panels][difference][kColumns]: of target_panels, for distances
    double* source_inverse;  // [nx]: 1 / length; negative where the length is below kMinNorm
    T* source_offset;        // [nx]: (1 - |X|^2) / 2 where it is, else 0
    T* target_panels;        // [panels][depth][kColumns]
    double* target_inverse;  // [panels kColumns]
    T* product_bias;         // [panels kColumns]
    T* difference_bias;      // [panels kColumns]
    // [strips][panels kColumns][kStrip]: channels in strips, which a product reads from end to end; the last
    // may be a vector narrower. Null: not wanted.
    T* target_rows;
    T* target_low;        // what rounding left of target_rows, wherever they are
    int32_t* not_finite;  // [1]

    // Distance of columns beyond the last: their exponentials are 0 whatever the others are.
    static constexpr T kPadding = T(__builtin_inff());

    // A distance errs by the rounding of the features times the root of the distance, and k multiplies that by
    // as much as 1 / (h eps): where that is more than this, distances near 0 need more than T of the features.
    static constexpr double kLeastScale = 4e-6;

    // target: whether target_rows are wanted; source: what rounding left of the source's features
    Sample(const ContextualProblem& problem, Arena& arena, bool target, bool source) {
        nx = problem.source_positions();
        ny = problem.target_positions();
        channels = problem.channels.count;
        differences = problem.distance == Distance::kL2;
        const bool spatial = problem.spatial_weight > 0;
        difference = channels + (spatial ? 2 : 0);
        depth = difference + (spatial && !differences ? 1 : 0);
        panels = (ny + kColumns - 1) / kColumns;
        // L2 needs the row sums of the coefficients too: a channel of ones beside the features.
        stride = round_up(channels + (differences ? 1 : 0), Vec<T>::size);
        // Differences of uncentred features have fewer roundings.
        centred = !differences && problem.center != Center::kNone;
        mean = arena.take<double>(channels);
        partial_means = arena.take<double>(mean_blocks() * kChains * channels);
        source_rows = arena.take<T>(nx * depth);
        const bool precise = kLow && !differences && problem.bandwidth * problem.eps < kLeastScale;
        source_low = kLow && (source || precise) ? arena.take<T>(nx * difference) : nullptr;
        panels_low = precise ? arena.take<T>(panels * difference * kColumns) : nullptr;
        source_inverse = arena.take<double>(nx);
        source_offset = arena.take<T>(nx);
        target_panels = arena.take<T>(panels * depth * kColumns);
        target_inverse = arena.take<double>(panels * kColumns);
        product_bias = arena.take<T>(panels * kColumns);
        difference_bias = arena.take<T>(panels * kColumns);
        target_rows = target ? arena.take<T>(panels * kColumns * stride) : nullptr;
        target_low = kLow && target ? arena.take<T>(panels * kColumns * stride) : nullptr;
        not_finite = arena.take<int32_t>(1);
    }

    // Two vectors of channels.
    static constexpr int64_t kStrip = 2 * Vec<T>::size;
    PE_INLINE int64_t strip_width(int64_t first) const { return smaller(kStrip, stride - first); }
    // Where column j's part of the strip that begins at channel `first` is, in target_rows and target_low.
    PE_INLINE int64_t target_place(int64_t j, int64_t first) const {
        return first * panels * kColumns + j * strip_width(first);
    }
    PE_INLINE T* target_strip(int64_t j, int64_t first) const {
        return target_rows + target_place(j, first);
    }
    // out[c] = the channels of column j, with what rounding to T left.
    PE_INLINE void read_target(int64_t j, double* out) const {
        for (int64_t first = 0; first < channels; first += kStrip) {
            const int64_t place = target_place(j, first), count = smaller(kStrip, channels - first);
            for (int64_t c = 0; c < count; ++c) out[first + c] = double(target_rows[place + c]);
            if constexpr (kLow) {
                for (int64_t c = 0; c < count; ++c) out[first + c] += double(target_low[place + c]);
            }
        }
    }
    // out[c] = the channels of row i, likewise.
    PE_INLINE void read_source(int64_t i, double* out) const {
        for (int64_t c = 0; c < channels; ++c) out[c] = double(source_rows[i * depth + c]);
        if constexpr (kLow) {
            for (int64_t c = 0; c < channels; ++c) out[c] += double(source_low[i * difference + c]);
        }
    }

    static constexpr int64_t kMeanBlock = 4096;
    int64_t mean_blocks() const { return (ny + kMeanBlock - 1) / kMeanBlock; }
};

// Differences of target features, a strip at a time, to one feature: accurate relative to themselves.
template <typename T>
struct Differences {
    using V = Vec<T>;
    const Sample<T>& sample;
    int64_t vectors;
    V value[2], low[2];

    // The feature's part of the strip: rounded to T, and what that left.
    PE_INLINE Differences(const Sample<T>& sample_, int64_t strip, const T* value_, const T* low_)
        : sample(sample_), vectors(sample.strip_width(strip) / V::size) {
        for (int64_t part = 0; part < 2; ++part) {
            const int64_t at = part < vectors ? part * V::size : 0;
            value[part] = V::load(value_ + at);
            low[part] = Sample<T>::kLow ? V::load(low_ + at) : V::all(0);
        }
    }
    // A part of the one of the target at `place`, less that of the feature.
    PE_INLINE V of(int64_t place, int64_t part) const {
        const V difference = V::load(sample.target_rows + place + part * V::size) - value[part];
        if constexpr (!Sample<T>::kLow) return difference;
        return difference + (V::load(sample.target_low + place + part * V::size) - low[part]);
    }
};

// Selected, weighted features of one sample, as double.
template <typename S>
struct Reader {
    const S* data;
    int64_t channel_stride, position_stride;
    const int64_t* indices;
    const double* weights;

    Reader(const ContextualProblem& problem, const Features& features, int64_t sample)
        : data(static_cast<const S*>(features.data) + sample * features.layout.batch_stride),
          channel_stride(features.layout.channel_stride),
          position_stride(features.layout.position_stride),
          indices(problem.channels.indices),
          weights(problem.channels.weights) {}

    PE_INLINE double weight(int64_t c) const { return weights == nullptr ? 1.0 : weights[c]; }
    PE_INLINE const S* channel(int64_t c) const {
        return data + (indices == nullptr ? c : indices[c]) * channel_stride;
    }
    // body(value, n) for `count` positions of one channel from `first` on.
    template <typename Body>
    PE_INLINE void each(int64_t c, int64_t first, int64_t count, const Body& body) const {
        const S* p = channel(c) + first * position_stride;
        const double w = weight(c);
        if (position_stride == 1) {
            for (int64_t n = 0; n < count; ++n) body(w * double(load(p + n)), n);
        } else {
            for (int64_t n = 0; n < count; ++n) body(w * double(load(p + n * position_stride)), n);
        }
    }
};

// Adds the sums over positions of each channel to sample.mean, in an order that neither threads nor the
// memory format change.
template <typename T, typename S>
void add_sums(Sample<T>& sample, const Reader<S>& target, const Pool& pool) {
    parallel_for(pool, sample.mean_blocks(), [&](int64_t block, int) {
        const int64_t first = block * Sample<T>::kMeanBlock;
        const int64_t count = smaller(Sample<T>::kMeanBlock, sample.ny - first);
        double* sums = sample.partial_means + block * kChains * sample.channels;
        for (int64_t n = 0; n < kChains * sample.channels; ++n) sums[n] = 0;
        if (target.channel_stride == 1) {
            for (int64_t n = 0; n < count; ++n) {
                double* chain = sums + n % kChains * sample.channels;
                const int64_t at = (first + n) * target.position_stride;
                for (int64_t c = 0; c < sample.channels; ++c) {
                    chain[c] += target.weight(c) * double(load(target.channel(c) + at));
                }
            }
            return;
        }
        for (int64_t c = 0; c < sample.channels; ++c) {
            double chains[kChains] = {};
            target.each(c, first, count, [&](double value, int64_t n) { chains[n % kChains] += value; });
            for (int64_t k = 0; k < kChains; ++k) sums[k * sample.channels + c] = chains[k];
        }
    });
    for (int64_t chain = 0; chain < sample.mean_blocks() * kChains; ++chain) {
        for (int64_t c = 0; c < sample.channels; ++c) {
            sample.mean[c] += sample.partial_means[chain * sample.channels + c];
        }
    }
}

// The mean target feature, or zeros. That of the batch is found with its first sample.
template <typename S, typename T>
void find_mean(Sample<T>& sample, const ContextualProblem& problem, const Features& target, int64_t index,
               const Pool& pool) {
    const bool batch = !sample.differences && problem.center == Center::kBatch;
    if (batch && index > 0) return;
    for (int64_t c = 0; c < sample.channels; ++c) sample.mean[c] = 0;
    if (!sample.centred) return;
    const int64_t first = batch ? 0 : index, last = batch ? problem.batch : index + 1;
    for (int64_t b = first; b < last; ++b) add_sums(sample, Reader<S>(problem, target, b), pool);
    const double count = double(sample.ny) * double(last - first);
    for (int64_t c = 0; c < sample.channels; ++c) sample.mean[c] /= count;
}

// Inverse lengths of `count` <= kBlock positions, negative where short. Returns whether all is finite.
template <typename T, typename S>
PE_INLINE bool inverse_lengths(const Sample<T>& sample, const Reader<S>& reader, int64_t first, int64_t count,
                               double* inverse) {
    double squares[kBlock] = {}, residue[kBlock] = {};
    for (int64_t c = 0; c < sample.channels; ++c) {
        const double mean = sample.mean[c];
        reader.each(c, first, count, [&](double value, int64_t n) {
            const double centred = value - mean;
            squares[n] += centred * centred;
            residue[n] += centred - centred;  // NaN for a NaN or an infinity
        });
    }
    bool finite = true;
    for (int64_t n = 0; n < count; ++n) {
        finite &= residue[n] == 0;
        const double length = __builtin_sqrt(squares[n]);
        if (sample.differences) {
            inverse[n] = 1;
        } else {
            // A length that overflows makes the vector 0, and so short as well.
            const bool is_short = length < kMinNorm || length * 0 != 0;
            inverse[n] = is_short ? -1 / (length < kMinNorm ? kMinNorm : length) : 1 / length;
        }
    }
    return finite;
}

// Coordinates of a position, scaled so that |P - Q|^2 / 2 (L2: |P - Q|^2) is the spatial term.
struct Positions {
    double scale_y, scale_x;
    int64_t width;

    Positions(const ContextualProblem& problem, int64_t height, int64_t width_) : width(width_) {
        const double factor = problem.distance == Distance::kL2 ? 1 : 2;
        const double scale = __builtin_sqrt(factor * problem.spatial_weight);
        scale_y = scale / double(height);
        scale_x = scale / double(width_);
    }
    PE_INLINE double y(int64_t position) const { return (double(position / width) + 0.5) * scale_y; }
    PE_INLINE double x(int64_t position) const { return (double(position % width) + 0.5) * scale_x; }
};

template <typename S, typename T>
void prepare_source(Sample<T>& sample, const ContextualProblem& problem, const Features& source,
                    int64_t index, const Pool& pool) {
    const Reader<S> reader(problem, source, index);
    const Positions positions(problem, problem.source_height, problem.source_width);
    parallel_for(pool, (sample.nx + kBlock - 1) / kBlock, [&](int64_t block, int) {
        const int64_t first = block * kBlock, count = smaller(kBlock, sample.nx - first);
        double* inverse = sample.source_inverse + first;
        double left[kBlock];
        if (!inverse_lengths(sample, reader, first, count, inverse)) {
            __atomic_store_n(sample.not_finite, 1, __ATOMIC_RELAXED);
        }
        for (int64_t n = 0; n < count; ++n) left[n] = 0.5;
        for (int64_t c = 0; c < sample.channels; ++c) {
            T* out = sample.source_rows + first * sample.depth + c;
            reader.each(c, first, count, [&](double value, int64_t n) {
                const double unit = (value - sample.mean[c]) * __builtin_fabs(inverse[n]);
                out[n * sample.depth] = T(unit);
                left[n] -= 0.5 * unit * unit;
            });
            if (sample.source_low == nullptr) continue;
            T* low = sample.source_low + first * sample.difference + c;
            reader.each(c, first, count, [&](double value, int64_t n) {
                const double unit = (value - sample.mean[c]) * __builtin_fabs(inverse[n]);
                low[n * sample.difference] = T(unit - double(T(unit)));
            });
        }
        for (int64_t n = 0; n < count; ++n) {
            const int64_t p = first + n;
            sample.source_offset[p] = inverse[n] < 0 ? T(left[n]) : T(0);
            if (sample.difference == sample.channels) continue;
            T* out = sample.source_rows + p * sample.depth + sample.channels;
            const double y = positions.y(p), x = positions.x(p);
            out[0] = T(y), out[1] = T(x);
            if (!sample.differences) out[2] = T(-0.5 * (y * y + x * x));
            if (sample.source_low == nullptr) continue;
            T* low = sample.source_low + p * sample.difference + sample.channels;
            low[0] = T(y - double(out[0])), low[1] = T(x - double(out[1]));
        }
    });
}

template <typename S, typename T>
void prepare_target(Sample<T>& sample, const ContextualProblem& problem, const Features& target,
                    int64_t index, const Pool& pool) {
    constexpr int64_t kColumns = kPanel<T>;
    const Reader<S> reader(problem, target, index);
    const Positions positions(problem, problem.target_height, problem.target_width);
    const bool spatial = sample.difference > sample.channels;
    parallel_for(pool, sample.panels, [&](int64_t panel, int) {
        const int64_t first = panel * kColumns, count = smaller(kColumns, sample.ny - first);
        T* out = sample.target_panels + panel * sample.depth * kColumns;
        double* inverse = sample.target_inverse + first;
        double left[kColumns];
        if (!inverse_lengths(sample, reader, first, count, inverse)) {
            __atomic_store_n(sample.not_finite, 1, __ATOMIC_RELAXED);
        }
        for (int64_t n = 0; n < count; ++n) left[n] = 0.5;
        for (int64_t c = 0; c < sample.channels; ++c) {
            reader.each(c, first, count, [&](double value, int64_t n) {
                const double unit = (value - sample.mean[c]) * __builtin_fabs(inverse[n]);
                out[c * kColumns + n] = T(unit);
                left[n] -= 0.5 * unit * unit;
            });
            for (int64_t n = count; n < kColumns; ++n) out[c * kColumns + n] = 0;
        }
        if (sample.panels_low != nullptr) {
            T* low = sample.panels_low + panel * sample.difference * kColumns;
            for (int64_t n = 0; n < sample.difference * kColumns; ++n) low[n] = 0;
            for (int64_t c = 0; c < sample.channels; ++c) {
                reader.each(c, first, count, [&](double value, int64_t n) {
                    const double unit = (value - sample.mean[c]) * __builtin_fabs(inverse[n]);
                    low[c * kColumns + n] = T(unit - double(T(unit)));
                });
            }
        }
        for (int64_t n = 0; n < kColumns; ++n) {
            const bool inside = n < count;
            double square = 0;
            if (spatial) {
                const double y = inside ? positions.y(first + n) : 0, x = inside ? positions.x(first + n) : 0;
                T* place = out + sample.channels * kColumns + n;
                place[0] = T(y), place[kColumns] = T(x);
                if (sample.panels_low != nullptr) {
                    T* low = sample.panels_low + (panel * sample.difference + sample.channels) * kColumns + n;
                    low[0] = T(y - double(T(y))), low[kColumns] = T(x - double(T(x)));
                }
                if (!sample.differences) place[2 * kColumns] = 1;
                square = y * y + x * x;
            }
            const double product = sample.differences ? 0 : 1 + 0.5 * square;
            sample.product_bias[first + n] = inside ? T(product) : Sample<T>::kPadding;
            const double offset = inside && inverse[n] < 0 ? left[n] : 0;
            sample.difference_bias[first + n] = inside ? T(offset) : Sample<T>::kPadding;
        }
        if (sample.target_rows == nullptr) return;
        for (int64_t strip = 0; strip < sample.stride; strip += Sample<T>::kStrip) {
            const int64_t width = sample.strip_width(strip);
            T* row = sample.target_strip(first, strip);
            for (int64_t n = 0; n < kColumns; ++n) {
                for (int64_t k = 0; k < width; ++k) {
                    const int64_t c = strip + k;
                    row[n * width + k] = c < sample.channels ? out[c * kColumns + n] : T(0);
                }
            }
            if (sample.target_low == nullptr) continue;
            T* low = sample.target_low + sample.target_place(first, strip);
            for (int64_t n = 0; n < kColumns * width; ++n) low[n] = 0;
            for (int64_t k = 0; k < smaller(width, sample.channels - strip); ++k) {
                const double mean = sample.mean[strip + k];
                reader.each(strip + k, first, count, [&](double value, int64_t n) {
                    const double unit = (value - mean) * __builtin_fabs(inverse[n]);
                    low[n * width + k] = T(unit - double(T(unit)));
                });
            }
        }
    });
}

template <typename S, typename T>
void prepare(Sample<T>& sample, const ContextualProblem& problem, const Features& source,
             const Features& target, int64_t index, const Pool& pool) {
    *sample.not_finite = 0;
    find_mean<S>(sample, problem, target, index, pool);
    prepare_source<S>(sample, problem, source, index, pool);
    prepare_target<S>(sample, problem, target, index, pool);
}

}  // namespace pe::PE_ISA
