// The inner loops of the contextual loss: distances of a tile of rows to a panel of columns, distances of one
// row to a panel to full relative accuracy, and products of coefficients with feature rows.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "simd.h"

namespace pe::PE_ISA {

// Columns of a panel: two vectors, so that a tile of kTileRows x kPanel sums fills the registers.
template <typename T>
constexpr int kPanel = 2 * Vec<T>::size;

// out = bias - x . y (kDifferences: bias + |x - y|^2), all pairs of kTileRows rows and one panel.
//   x: [depth][kTileRows], y: [depth][kPanel], bias: [kPanel], out: [kTileRows][kPanel]
//   row_min: [kTileRows][Vec::size], lowered to the least distance so far in each lane
template <bool kDifferences, typename T>
PE_INLINE void distance_tile(const T* x, const T* y, int64_t depth, const T* bias, T* out, T* row_min) {
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    // Rounding grows with the length of a sum, and 1 / h multiplies that of a squared difference.
    const int64_t piece = kDifferences ? 16 : depth;
    V left[kTileRows], right[kTileRows];
    int64_t first = 0;
    do {
        const int64_t last = depth < first + piece ? depth : first + piece;
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; ++r) {
            left[r] = kDifferences ? V::all(0) : V::load(bias);
            right[r] = kDifferences ? V::all(0) : V::load(bias + kSize);
        }
        for (int64_t c = first; c < last; ++c) {
            const V y0 = V::load(y + c * 2 * kSize), y1 = V::load(y + c * 2 * kSize + kSize);
#pragma GCC unroll 16
            for (int r = 0; r < kTileRows; ++r) {
                const V xr = V::all(x[c * kTileRows + r]);
                if constexpr (kDifferences) {
                    const V d0 = y0 - xr, d1 = y1 - xr;
                    left[r] = fma(d0, d0, left[r]);
                    right[r] = fma(d1, d1, right[r]);
                } else {
                    left[r] = fnma(xr, y0, left[r]);
                    right[r] = fnma(xr, y1, right[r]);
                }
            }
        }
        if constexpr (!kDifferences) break;
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; ++r) {
            T* so_far = out + r * 2 * kSize;
            left[r] = left[r] + V::load(first == 0 ? bias : so_far);
            right[r] = right[r] + V::load(first == 0 ? bias + kSize : so_far + kSize);
            if (last == depth) continue;
            left[r].store(so_far);
            right[r].store(so_far + kSize);
        }
        first = last;
    } while (first < depth);
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
        left[r].store(out + r * 2 * kSize);
        right[r].store(out + r * 2 * kSize + kSize);
        min(V::load(row_min + r * kSize), min(left[r], right[r])).store(row_min + r * kSize);
    }
}

// out = bias + offset + |x - y|^2 / 2 of one row to one panel: accurate relative to itself, where 1 - x . y
// of near-identical features keeps only what cancellation leaves.
//   x: [depth], y: [depth][kPanel]; returns the least
//   kLow: features are x + x_low and y + y_low
template <bool kLow, typename T>
PE_INLINE T refined_strip(const T* x, const T* y, const T* x_low, const T* y_low, int64_t depth,
                          const T* bias, T offset, T* out) {
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    const auto difference = [&](int64_t c, int half) {
        const int64_t at = c * 2 * kSize + half * kSize;
        const V d = V::load(y + at) - V::all(x[c]);
        if constexpr (!kLow) return d;
        return d + (V::load(y_low + at) - V::all(x_low[c]));
    };
    // Four chains each, against the latency of the fused multiply-add.
    V sums[2][4];
    for (auto& half : sums) {
        for (V& sum : half) sum = V::all(0);
    }
    int64_t c = 0;
    for (; c + 4 <= depth; c += 4) {
#pragma GCC unroll 4
        for (int chain = 0; chain < 4; ++chain) {
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half) {
                const V d = difference(c + chain, half);
                sums[half][chain] = fma(d, d, sums[half][chain]);
            }
        }
    }
    for (; c < depth; ++c) {
        for (int half = 0; half < 2; ++half) {
            const V d = difference(c, half);
            sums[half][0] = fma(d, d, sums[half][0]);
        }
    }
    V result[2];
    for (int half = 0; half < 2; ++half) {
        const V sum = (sums[half][0] + sums[half][1]) + (sums[half][2] + sums[half][3]);
        result[half] = fma(sum, V::all(T(0.5)), V::load(bias + half * kSize) + V::all(offset));
        result[half].store(out + half * kSize);
    }
    return lowest(min(result[0], result[1]));
}

// A stretch of the terms of a product of coefficients with feature rows: `count` rows from `first` on.
template <typename T>
struct Stretch {
    const T* coefficients;
    int64_t first;
    int64_t count;
};

// sums[m] += sum_k coefficients[m * row_step + k * step] rows[first + k], for kRows m, over all terms of the
// stretches.
//   rows: strips of kVectors vectors; sums: rows of `stride`
template <int kRows, int kVectors, typename T>
PE_INLINE void product_tile(const Stretch<T>* stretches, int stretch_count, int64_t row_step, int64_t step,
                            const T* rows, T* sums, int64_t stride) {
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    V acc[kRows][kVectors];
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
        for (int n = 0; n < kVectors; ++n) acc[m][n] = V::load(sums + m * stride + n * kSize);
    }
    for (const Stretch<T>* stretch = stretches; stretch < stretches + stretch_count; ++stretch) {
        const T* coefficients = stretch->coefficients;
        const T* first = rows + stretch->first * kVectors * kSize;
        for (int64_t k = 0; k < stretch->count; ++k) {
            V row[kVectors];
#pragma GCC unroll 2
            for (int n = 0; n < kVectors; ++n) row[n] = V::load(first + (k * kVectors + n) * kSize);
#pragma GCC unroll 16
            for (int m = 0; m < kRows; ++m) {
                const V coefficient = V::all(coefficients[m * row_step + k * step]);
#pragma GCC unroll 2
                for (int n = 0; n < kVectors; ++n) acc[m][n] = fma(coefficient, row[n], acc[m][n]);
            }
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
        for (int n = 0; n < kVectors; ++n) acc[m][n].store(sums + m * stride + n * kSize);
    }
}

// The same over all of a row: `stride` elements, whole vectors.
//   rows: strip(c), the strips of two vectors from channel c on, the last of which may be one vector
template <int kRows, typename T, typename Strip>
PE_INLINE void product(const Stretch<T>* stretches, int stretch_count, int64_t row_step, int64_t step,
                       const Strip& strip, T* sums, int64_t stride) {
    constexpr int kSize = Vec<T>::size;
    int64_t c = 0;
    for (; c + 2 * kSize <= stride; c += 2 * kSize) {
        product_tile<kRows, 2>(stretches, stretch_count, row_step, step, strip(c), sums + c, stride);
    }
    if (c < stride) {
        product_tile<kRows, 1>(stretches, stretch_count, row_step, step, strip(c), sums + c, stride);
    }
}

}  // namespace pe::PE_ISA
