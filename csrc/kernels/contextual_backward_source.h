// The source's gradient: rows of the distance matrix that win columns.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "contextual_backward.h"

namespace pe::PE_ISA {

// The sums of some of the winning rows, from `first` on: as forward kept them, or found again.
template <typename T>
void load_sums(Workspace<T>& work, const Inputs<T>& in, const Refinement<T>& refinement, int64_t first,
               int64_t count, int task) {
    const Sample<T>& sample = work.sample;
    RowSums<T>& sums = work.sums[task];
    if (in.row_sums != nullptr) {
        for (int64_t r = 0; r < count; ++r) {
            const T* kept = in.row_sums + work.winners.row[first + r] * (sample.channels + 1);
            T* features = sums.features + r * sample.stride;
            for (int64_t c = 0; c < sample.channels; ++c) features[c] = kept[c];
            sums.moment[r] = double(kept[sample.channels]);
        }
        return;
    }
    Rows<T>& rows = work.rows[task];
    rows.count = count;
    for (int64_t r = 0; r < count; ++r) rows.index[r] = work.winners.row[first + r];
    rows.pack(sample);
    rows.distances(sample, 0, sample.panels);
    for (int64_t r = 0; r < count; ++r) {
        const T least = in.row_min[rows.index[r]];
        rows.refine(sample, r, refinement.threshold(double(least)), least, 0, sample.panels);
    }
    find_sums(sample, refinement, rows, in.row_min, in.row_min_arg, sums);
}

// The factors of one winning row's gradient at -d.
//   moment: sum of exp(-k (d - m)) k (d - m)
template <typename T>
void weigh(Workspace<T>& work, const ContextualProblem& problem, const Inputs<T>& in, int64_t winner,
           double moment) {
    Winners& winners = work.winners;
    const int64_t i = winners.row[winner], q = in.row_min_arg[i];
    const double log_sum = double(in.row_log_sum[i]);
    const double k = 1 / (problem.bandwidth * (double(in.row_min[i]) + problem.eps));
    double all = 0, others = 0, weighted = 0;
    for (int64_t n = winners.first[i]; n < winners.first[i + 1]; ++n) {
        const int64_t j = winners.column[n];
        all += work.upstream[j];
        if (j == q) continue;
        others += work.upstream[j];
        // v_j = -k (d_ij - m_i) - log Z_i
        weighted -= work.upstream[j] * (-double(in.similarity[j]) - log_sum);
    }
    const double inverse_z = __builtin_exp(-log_sum);
    // h k^2 D, of which one k is already in `weighted` and in `moment`.
    const double rank_one = problem.bandwidth * k * (weighted + all * moment * inverse_z);
    winners.dense[winner] = -k * all * inverse_z;
    winners.nearest[winner] = k * (-all * __builtin_expm1(-log_sum) - others) + rank_one;
    winners.rank_one[winner] = rank_one;
}

// One slab of winning rows: their gradients, and what the pass over columns needs of them.
template <typename T, typename S>
void source_slab(Workspace<T>& work, const ContextualProblem& problem, const Inputs<T>& in,
                 const Refinement<T>& refinement, const Gradient& gradient, int64_t index, int64_t slab,
                 int task) {
    const Sample<T>& sample = work.sample;
    const Winners& winners = work.winners;
    const int64_t first = slab * work.capacity, count = smaller(work.capacity, winners.count - first);
    load_sums(work, in, refinement, first, count, task);
    double* totals = work.partial_totals + slab * sample.channels;
    for (int64_t c = 0; c < sample.channels; ++c) totals[c] = 0;
    for (int64_t winner = first; winner < first + count; ++winner) {
        weigh(work, problem, in, winner, work.sums[task].moment[winner - first]);
        const int64_t i = winners.row[winner], q = in.row_min_arg[i];
        T* sum = work.sums[task].features + (winner - first) * sample.stride;
        const T* unit = sample.source_rows + i * sample.depth;
        const double k = 1 / (problem.bandwidth * (double(in.row_min[i]) + problem.eps));
        const T dense = T(winners.dense[winner]), at_nearest = T(winners.nearest[winner]);
        sample.each_target(
            q, [&](int64_t c, T value) { sum[c] = dense * sum[c] + at_nearest * value; });
        for (int64_t n = winners.first[i]; n < winners.first[i + 1]; ++n) {
            const int64_t j = winners.column[n];
            if (j == q) continue;
            const T factor = T(k * work.upstream[j]);
            sample.each_target(j, [&](int64_t c, T value) { sum[c] += factor * value; });
        }
        if (sample.differences) {
            const T rank_one = T(winners.rank_one[winner]);
            for (int64_t c = 0; c < sample.channels; ++c) sum[c] = 2 * (sum[c] - rank_one * unit[c]);
        }
        write_gradient<T, S>(sample, problem, gradient, index, i, unit, sum, sample.source_inverse[i],
                             totals);
    }
}

}  // namespace pe::PE_ISA
