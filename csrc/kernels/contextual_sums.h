// Sums over the columns of a row, weighted by its exponentials: what attention calls its output.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "contextual_rows.h"

namespace pe::PE_ISA {

// Of the rows of a slab, without the nearest column q of each, with e_j = exp(-k (d_j - m)).
template <typename T>
struct RowSums {
    // [capacity][stride]: sums of e_j (Y_j - Y_q). The gradient multiplies them by as much as 1 / (h eps), so
    // features that are equal must cancel, and they do in the difference only.
    T* features;
    double* weight;  // [capacity]: sums of e_j
    double* moment;  // [capacity]: sums of e_j k (d_j - m)
    T* negligible;   // [capacity]: exponentials that are lost in the sum of their row
    double* nearest;  // [channels]: Y_q of one row

    RowSums(Arena& arena, const Sample<T>& sample, int64_t capacity)
        : features(arena.take<T>(capacity * sample.stride)),
          weight(arena.take<double>(capacity)),
          moment(arena.take<double>(capacity)),
          negligible(arena.take<T>(capacity)),
          nearest(arena.take<double>(capacity > 0 ? sample.channels : 0)) {}
};

// Whether sum_j e_j (Y_j - Y_q) is so small beside sum_j e_j |Y_q| that it must not come from subtracting two
// sums in T, whose roundings add up over the columns.
//   squares: of the sum of differences and of Y_q; weight: sum_j e_j
PE_INLINE bool cancels(double sum_square, double weight, double nearest_square) {
    constexpr double kLeast = 0.1;
    return sum_square < kLeast * kLeast * weight * weight * nearest_square;
}

// Replaces distances by exp(-k (d - m)) of one row; the nearest column, set aside, gets 0. Returns the sum,
// and adds that of exp(-k (d - m)) k (d - m) to *moment.
template <typename T>
double exponentials(const Rows<T>& rows, int64_t row, int64_t panels, double k, double m, double* moment) {
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    // The difference first: of columns at the least distance it is 0 exactly.
    const V factor = V::all(exponent_scale<T>(k)), least = V::all(T(m)), floor = V::all(T(-4000));
    double sum = 0;
    for (int64_t first = 0; first < panels; first += 128) {
        const int64_t last = smaller(panels, first + 128);
        V sums = V::all(0), moments = V::all(0);
        for (int64_t panel = first; panel < last; ++panel) {
            T* d = rows.at(panel, row);
            for (int half = 0; half < 2; ++half) {
                // Bounded, so that 0 times it is 0 and not NaN.
                const V x = max((V::load(d + half * kSize) - least) * factor, floor);
                const V e = exp2(x);
                e.store(d + half * kSize);
                sums = sums + e;
                moments = fnma(e, x, moments);
            }
        }
        sum += total(sums);
        *moment += total(moments) * kLn2;
    }
    return sum;
}

// Adds the products of the exponentials of a tile of rows with the target features.
template <typename T>
void add_products(const Sample<T>& sample, const Rows<T>& rows, int64_t row, const RowSums<T>& sums) {
    constexpr int64_t kColumns = Rows<T>::kColumns;
    constexpr int kSize = Vec<T>::size;
    // Panels at a time: many, so that the sums are seldom loaded and stored.
    constexpr int kMost = 64;
    using V = Vec<T>;
    Stretch<T> stretches[kMost];
    int count = 0;
    const auto add = [&] {
        product<kTileRows>(stretches, count, kColumns, 1, [&](int64_t c) { return sample.target_strip(0, c); },
                           sums.features + row * sample.stride, sample.stride);
        count = 0;
    };
    for (int64_t panel = 0; panel < sample.panels; ++panel) {
        const T* e = rows.at(panel, row);
        bool any = false;
        for (int n = 0; n < kTileRows; ++n) {
            const V largest = max(V::load(e + n * kColumns), V::load(e + n * kColumns + kSize));
            any |= any_greater(largest, V::all(sums.negligible[row + n]));
        }
        if (!any) continue;
        stretches[count++] = {e, panel * kColumns, smaller(kColumns, sample.ny - panel * kColumns)};
        if (count == kMost) add();
    }
    if (count > 0) add();
}

// out = sum_j e_j (Y_j - Y_q) of one row, difference by difference.
template <typename T>
void add_differences(const Sample<T>& sample, const Rows<T>& rows, int64_t row, int64_t q, T* out) {
    constexpr int64_t kColumns = Rows<T>::kColumns, kStrip = Sample<T>::kStrip;
    // In pieces, so that rounding does not grow with the number of columns.
    constexpr int64_t kPiece = 16;
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    for (int64_t strip = 0; strip < sample.stride; strip += kStrip) {
        const int64_t own = sample.target_place(q, strip);
        const Differences<T> to_nearest(sample, strip, sample.target_rows + own, sample.target_low + own);
        V sums[2] = {V::all(0), V::all(0)};
        for (int64_t first = 0; first < sample.panels; first += kPiece) {
            V piece[2] = {V::all(0), V::all(0)};
            for (int64_t panel = first; panel < smaller(sample.panels, first + kPiece); ++panel) {
                const T* e = rows.at(panel, row);
                if (!any_greater(max(V::load(e), V::load(e + kSize)), V::all(0))) continue;
                for (int64_t n = 0; n < kColumns; ++n) {
                    if (e[n] == 0) continue;
                    const int64_t place = sample.target_place(panel * kColumns + n, strip);
                    for (int64_t part = 0; part < to_nearest.vectors; ++part) {
                        piece[part] = fma(V::all(e[n]), to_nearest.of(place, part), piece[part]);
                    }
                }
            }
            for (int part = 0; part < 2; ++part) sums[part] = sums[part] + piece[part];
        }
        for (int64_t part = 0; part < to_nearest.vectors; ++part) sums[part].store(out + strip + part * kSize);
    }
}

// The sums of every row of a slab of distances, which become exponentials.
template <typename T>
void find_sums(const Sample<T>& sample, const Refinement<T>& refinement, Rows<T>& rows, const T* row_min,
               const int32_t* row_min_arg, RowSums<T>& sums) {
    constexpr int64_t kColumns = Rows<T>::kColumns;
    for (int64_t r = 0; r < rows.padded(); ++r) {
        for (int64_t c = 0; c < sample.stride; ++c) sums.features[r * sample.stride + c] = 0;
        sums.moment[r] = 0;
        sums.negligible[r] = 0;
        if (r >= rows.count) {
            for (int64_t panel = 0; panel < sample.panels; ++panel) {
                for (int64_t n = 0; n < kColumns; ++n) rows.at(panel, r)[n] = 0;
            }
            continue;
        }
        const int64_t i = rows.index[r], q = row_min_arg[i];
        rows.at(q / kColumns, r)[q % kColumns] = Sample<T>::kPadding;
        const double m = double(row_min[i]);
        const double k = 1 / (refinement.bandwidth * (m + refinement.eps));
        sums.weight[r] = exponentials(rows, r, sample.panels, k, m, &sums.moment[r]);
        // As many as there are columns together stay below the rounding of the sum.
        sums.negligible[r] = T(sums.weight[r] * (sizeof(T) == 4 ? 0x1p-24 : 0x1p-53) / double(sample.ny));
    }
    for (int64_t r = 0; r < rows.padded(); r += kTileRows) add_products(sample, rows, r, sums);
    for (int64_t r = 0; r < rows.count; ++r) {
        const int64_t q = row_min_arg[rows.index[r]];
        T* features = sums.features + r * sample.stride;
        sample.read_target(q, sums.nearest);
        double sum_square = 0, nearest_square = 0;
        for (int64_t c = 0; c < sample.channels; ++c) {
            const double sum = double(features[c]) - sums.weight[r] * sums.nearest[c];
            features[c] = T(sum);
            sum_square += sum * sum;
            nearest_square += sums.nearest[c] * sums.nearest[c];
        }
        if (cancels(sum_square, sums.weight[r], nearest_square)) add_differences(sample, rows, r, q, features);
    }
}

}  // namespace pe::PE_ISA
