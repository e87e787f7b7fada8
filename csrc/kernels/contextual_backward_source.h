// The source's gradient: rows of the distance matrix that win columns.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "contextual_backward.h"

namespace pe::PE_ISA {

// Loads a slab of winning rows: in it exp(-k (d - m)), in `winners` their factors.
template <typename T>
void load_slab(Workspace<T>& work, const ContextualProblem& problem, const Inputs<T>& in,
               const Refinement<T>& refinement, int64_t slab, int task) {
    const Sample<T>& sample = work.sample;
    const Winners& winners = work.winners;
    Rows<T>& rows = work.rows[task];
    constexpr int64_t kColumns = Rows<T>::kColumns;
    const int64_t first = slab * work.capacity;
    rows.count = smaller(work.capacity, winners.count - first);
    for (int64_t r = 0; r < rows.count; ++r) rows.index[r] = winners.row[first + r];
    rows.pack(sample);
    rows.distances(sample, 0, sample.panels);

    T* sums = work.sums[task];
    for (int64_t r = 0; r < rows.padded(); ++r) {
        for (int64_t c = 0; c < sample.stride; ++c) sums[r * sample.stride + c] = 0;
        if (r >= rows.count) {
            work.negligible[task][r] = 0;
            for (int64_t p = 0; p < sample.panels; ++p) {
                for (int64_t n = 0; n < kColumns; ++n) rows.at(p, r)[n] = 0;
            }
            continue;
        }
        const int64_t i = rows.index[r], q = in.row_min_arg[i];
        const T least = rows.least(r), threshold = refinement.threshold(double(least));
        rows.refine(sample, r, threshold, least, 0, sample.panels);
        rows.at(q / kColumns, r)[q % kColumns] = sample.padding;
        const double m = double(in.row_min[i]);
        const double k = 1 / (problem.bandwidth * (m + problem.eps));
        double moment = 0;
        const double sum = exponentials(rows, r, sample.panels, -k * kLog2E, k * kLog2E * m, &moment);
        const double inverse_z = 1 / (1 + sum);
        // As many as there are columns together stay below the rounding of the sum.
        work.negligible[task][r] = T(sum * (sizeof(T) == 4 ? 0x1p-24 : 0x1p-53) / double(sample.ny));

        double all = 0, others = 0, weighted = 0;
        for (int64_t n = winners.first[i]; n < winners.first[i + 1]; ++n) {
            const int64_t j = winners.column[n];
            all += work.upstream[j];
            if (j == q) continue;
            others += work.upstream[j];
            // v_j = -k (d_ij - m_i) - log Z_i
            weighted -= work.upstream[j] * (-double(in.similarity[j]) - double(in.row_log_sum[i]));
        }
        // h k^2 D, of which one k is already in `weighted` and in `moment`.
        const double rank_one = problem.bandwidth * k * (weighted + all * moment * kLn2 * inverse_z);
        winners.dense[first + r] = -k * all * inverse_z;
        winners.nearest[first + r] = k * (all * sum * inverse_z - others) + rank_one;
        winners.rank_one[first + r] = rank_one;
        winners.threshold[first + r] = double(threshold);
    }
}

// Adds exp(-k (d - m)) times the target features to the sums of the rows of a slab.
template <typename T>
void add_products(const Workspace<T>& work, int task) {
    const Sample<T>& sample = work.sample;
    const Rows<T>& rows = work.rows[task];
    T* sums = work.sums[task];
    const T* negligible = work.negligible[task];
    constexpr int64_t kColumns = Rows<T>::kColumns;
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    for (int64_t panel = 0; panel < sample.panels; ++panel) {
        const int64_t columns = smaller(kColumns, sample.ny - panel * kColumns);
        for (int64_t r = 0; r < rows.padded(); r += kTileRows) {
            const T* e = rows.at(panel, r);
            bool any = false;
            for (int n = 0; n < kTileRows; ++n) {
                const V largest = max(V::load(e + n * kColumns), V::load(e + n * kColumns + kSize));
                any |= any_greater(largest, V::all(negligible[r + n]));
            }
            if (!any) continue;
            product<kTileRows>(e, kColumns, 1, columns, sample.target_rows + panel * kColumns * sample.stride,
                               sample.stride, sums + r * sample.stride);
        }
    }
}

// One slab of winning rows: their gradients, and what the pass over columns needs of them.
template <typename T, typename S>
void source_slab(Workspace<T>& work, const ContextualProblem& problem, const Inputs<T>& in,
                 const Refinement<T>& refinement, const Gradient& gradient, int64_t index, int64_t slab,
                 int task) {
    load_slab(work, problem, in, refinement, slab, task);
    add_products(work, task);
    const Sample<T>& sample = work.sample;
    const Winners& winners = work.winners;
    const Rows<T>& rows = work.rows[task];
    T* sums = work.sums[task];
    const int64_t first = slab * work.capacity;
    double* totals = work.partial_totals + slab * sample.channels;
    for (int64_t c = 0; c < sample.channels; ++c) totals[c] = 0;
    for (int64_t r = 0; r < rows.count; ++r) {
        const int64_t i = rows.index[r], q = in.row_min_arg[i];
        T* sum = sums + r * sample.stride;
        const T* unit = sample.source_rows + i * sample.depth;
        const T* nearest = sample.target_rows + q * sample.stride;
        const double k = 1 / (problem.bandwidth * (double(in.row_min[i]) + problem.eps));
        const T dense = T(winners.dense[first + r]), at_nearest = T(winners.nearest[first + r]);
        for (int64_t c = 0; c < sample.channels; ++c) sum[c] = dense * sum[c] + at_nearest * nearest[c];
        for (int64_t n = winners.first[i]; n < winners.first[i + 1]; ++n) {
            const int64_t j = winners.column[n];
            if (j == q) continue;
            const T factor = T(k * work.upstream[j]);
            const T* row = sample.target_rows + j * sample.stride;
            for (int64_t c = 0; c < sample.channels; ++c) sum[c] += factor * row[c];
        }
        if (sample.differences) {
            const T rank_one = T(winners.rank_one[first + r]);
            for (int64_t c = 0; c < sample.channels; ++c) sum[c] = 2 * (sum[c] - rank_one * unit[c]);
        }
        write_gradient<T, S>(sample, problem, gradient, index, i, unit, sum, sample.source_inverse[i],
                             totals);
    }
}

}  // namespace pe::PE_ISA
