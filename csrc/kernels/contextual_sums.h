// Sums over the columns of a row, weighted by its exponentials: what attention calls its output.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "contextual_rows.h"

namespace pe::PE_ISA {

// Of the rows of a slab, without the nearest column of each.
template <typename T>
struct RowSums {
    T* features;    // [capacity][stride]: sums of exp(-k (d - m)) times the target feature
    double* moment;  // [capacity]: sums of exp(-k (d - m)) k (d - m)
    T* negligible;  // [capacity]: exponentials that are lost in the sum of their row

    RowSums(Arena& arena, const Sample<T>& sample, int64_t capacity)
        : features(arena.take<T>(capacity * sample.stride)),
          moment(arena.take<double>(capacity)),
          negligible(arena.take<T>(capacity)) {}
};

// Replaces distances by exp(-k (d - m)) of one row; the nearest column, set aside, gets 0. Returns the sum,
// and adds that of exp(-k (d - m)) k (d - m) to *moment.
template <typename T>
double exponentials(const Rows<T>& rows, int64_t row, int64_t panels, double k, double m, double* moment) {
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    const V factor = V::all(T(-k * kLog2E)), offset = V::all(T(k * kLog2E * m)), floor = V::all(T(-4000));
    double sum = 0;
    for (int64_t first = 0; first < panels; first += 128) {
        const int64_t last = smaller(panels, first + 128);
        V sums = V::all(0), moments = V::all(0);
        for (int64_t panel = first; panel < last; ++panel) {
            T* d = rows.at(panel, row);
            for (int half = 0; half < 2; ++half) {
                // Bounded, so that 0 times it is 0 and not NaN.
                const V x = max(fma(V::load(d + half * kSize), factor, offset), floor);
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
        rows.at(q / kColumns, r)[q % kColumns] = sample.padding;
        const double m = double(row_min[i]);
        const double k = 1 / (refinement.bandwidth * (m + refinement.eps));
        const double sum = exponentials(rows, r, sample.panels, k, m, &sums.moment[r]);
        // As many as there are columns together stay below the rounding of the sum.
        sums.negligible[r] = T(sum * (sizeof(T) == 4 ? 0x1p-24 : 0x1p-53) / double(sample.ny));
    }
    for (int64_t r = 0; r < rows.padded(); r += kTileRows) add_products(sample, rows, r, sums);
}

}  // namespace pe::PE_ISA
