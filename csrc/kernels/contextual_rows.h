// A few rows of the distance matrix at a time: the only part of it that ever exists.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "contextual_sample.h"
#include "exp2.h"

namespace pe::PE_ISA {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
constexpr int64_t kMaxRows = 48;

// -k log2(e) in T, but never 0: columns at infinity must have exponentials of 0 and not NaN.
template <typename T>
PE_INLINE T exponent_scale(double k) {
    constexpr T kLeast = sizeof(T) == 4 ? T(0x1p-149) : T(0x1p-1074);
    const T scale = T(k * kLog2E);
    return scale > 0 ? -scale : -kLeast;
}

// Rows per slab: as many tiles as keep the distances in a quarter of a megabyte, within L2, of all columns or
// of some.
template <typename T>
PE_INLINE int64_t slab_rows(int64_t columns) {
    const int64_t rows = (int64_t{1} << 18) / (columns * int64_t(sizeof(T))) / kTileRows * kTileRows;
    constexpr int64_t kMost = kMaxRows / kTileRows * kTileRows;
    return rows < kTileRows ? kTileRows : smaller(rows, kMost);
}

// How far distances have to be refined. A product in T errs by about `rounding`, which the exponent
// multiplies by k; where that matters, distances that are not yet negligible are taken again as differences.
template <typename T>
struct Refinement {
    double bandwidth, eps, rounding;
    bool possible;

    Refinement(const ContextualProblem& problem, const Sample<T>& sample)
        : bandwidth(problem.bandwidth), eps(problem.eps), possible(!sample.differences) {
        const double unit = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
        rounding = unit * (1 + 0.25 * __builtin_sqrt(double(sample.depth)));
    }
    // Distances below this are refined; negative: none.
    PE_INLINE T threshold(double least) const {
        least = least < 0 ? 0 : least;
        const double scale = bandwidth * (least + eps);
        const double error = rounding / scale;
        if (!possible || error < kTolerable) return T(-1);
        const double reach = 1 + 1.5 * __builtin_log(error / kTolerable);
        return T(least + 8 * rounding + reach * (scale + 4 * bandwidth * rounding));
    }
    // Relative error of one exponential that is left alone. Where it is larger, how far the refinement
    // reaches, in powers of e, grows faster than the error: small losses consist of small exponentials.
    static constexpr double kTolerable = 5e-6;
};

template <typename T>
struct Rows {
    using V = Vec<T>;
    static constexpr int64_t kColumns = kPanel<T>;

    int64_t capacity;  // rows of the slab, a multiple of kTileRows
    int64_t count;     // rows in use
    int32_t* index;    // [capacity]: which source rows
    T* tiles;          // [capacity / kTileRows][depth][kTileRows]
    T* slab;           // [panels][capacity][kColumns]
    T* row_min;        // [capacity][V::size]

    Rows(Arena& arena, const Sample<T>& sample, int64_t rows, int64_t panels) : capacity(rows), count(0) {
        index = arena.take<int32_t>(capacity);
        tiles = arena.take<T>(capacity * sample.depth);
        slab = arena.take<T>(panels * capacity * kColumns);
        row_min = arena.take<T>(capacity * V::size);
    }

    PE_INLINE T* at(int64_t panel, int64_t row) const { return slab + (panel * capacity + row) * kColumns; }

    // Packs the rows in `index`; rows beyond `count`, up to whole tiles, are zero.
    void pack(const Sample<T>& sample) {
        for (int64_t r = 0; r < padded(); ++r) {
            T* out = tiles + r / kTileRows * sample.depth * kTileRows + r % kTileRows;
            const T* row = r < count ? sample.source_rows + index[r] * sample.depth : nullptr;
            for (int64_t c = 0; c < sample.depth; ++c) out[c * kTileRows] = row == nullptr ? T(0) : row[c];
        }
    }

    // Distances to the panels [first, last), which go to the panels of the slab from 0 on, and row minima.
    void distances(const Sample<T>& sample, int64_t first, int64_t last) {
        for (int64_t n = 0; n < padded() * V::size; ++n) row_min[n] = Sample<T>::kPadding;
        for (int64_t panel = first; panel < last; ++panel) {
            const T* y = sample.target_panels + panel * sample.depth * kColumns;
            for (int64_t r = 0; r < padded(); r += kTileRows) {
                const T* x = tiles + r * sample.depth;
                T* out = at(panel - first, r);
                T* least = row_min + r * V::size;
                if (sample.differences) {
                    distance_tile<true>(x, y, sample.depth, sample.difference_bias + panel * kColumns, out,
                                        least);
                } else {
                    distance_tile<false>(x, y, sample.depth, sample.product_bias + panel * kColumns, out,
                                         least);
                }
            }
        }
    }

    // The least distance of one row, before refinement.
    PE_INLINE T least(int64_t row) const { return lowest(V::load(row_min + row * V::size)); }

    // Refines one row where it is below the threshold. Returns the least distance found, at most `least`
    // where nothing was refined.
    T refine(const Sample<T>& sample, int64_t row, T threshold, T least, int64_t first, int64_t last) const {
        if (threshold < 0) return least < 0 ? T(0) : least;
        const T* x = sample.source_rows + index[row] * sample.depth;
        const V limit = V::all(threshold);
        T found = Sample<T>::kPadding;
        for (int64_t panel = first; panel < last; ++panel) {
            T* d = at(panel - first, row);
            if (!any_greater(limit, min(V::load(d), V::load(d + V::size)))) continue;
            const T* y = sample.target_panels + panel * sample.depth * kColumns;
            const T* bias = sample.difference_bias + panel * kColumns;
            const T offset = sample.source_offset[index[row]];
            const T value =
                sample.panels_low == nullptr
                    ? refined_strip<false, T>(x, y, nullptr, nullptr, sample.difference, bias, offset, d)
                    : refined_strip<true, T>(x, y, sample.source_low + index[row] * sample.difference,
                                             sample.panels_low + panel * sample.difference * kColumns,
                                             sample.difference, bias, offset, d);
            found = value < found ? value : found;
        }
        return found < 0 ? T(0) : found;
    }

    // The first column at the least distance.
    int64_t find(int64_t row, T least, int64_t panels) const {
        const V limit = V::all(least);
        for (int64_t panel = 0; panel < panels; ++panel) {
            const T* d = at(panel, row);
            // Not "greater" means at most: the least itself.
            if (!any_at_most(min(V::load(d), V::load(d + V::size)), limit)) continue;
            for (int64_t n = 0; n < kColumns; ++n) {
                if (d[n] <= least) return panel * kColumns + n;
            }
        }
        return 0;
    }

    int64_t padded() const { return round_up(count, kTileRows); }
};

}  // namespace pe::PE_ISA
