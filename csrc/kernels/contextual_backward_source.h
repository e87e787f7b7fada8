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

// d_ij - m_i of one row, from the features: similarities and log Z have lost the digits of what is left where
// they are subtracted.
template <typename T>
struct Excess {
    const Sample<T>& sample;
    const Position& own;
    Positions of_source, of_target;
    double spatial;  // factor of |P - Q|^2
    int64_t i, q;

    Excess(const Sample<T>& sample_, const ContextualProblem& problem, const Position& own_, int64_t i_,
           int64_t q_)
        : sample(sample_),
          own(own_),
          of_source(problem, problem.source_height, problem.source_width),
          of_target(problem, problem.target_height, problem.target_width),
          spatial(problem.spatial_weight > 0 ? (problem.distance == Distance::kL2 ? 1 : 0.5) : 0),
          i(i_),
          q(q_) {}

    PE_INLINE double place(int64_t j) const {
        const double y = of_source.y(i) - of_target.y(j), x = of_source.x(i) - of_target.x(j);
        return spatial * (y * y + x * x);
    }
    // Leaves Y_j - Y_q in `own.other`.
    PE_INLINE double of(int64_t j) const {
        sample.read_target(j, own.other);
        double excess = spatial > 0 ? place(j) - place(q) : 0;
        for (int64_t c = 0; c < sample.channels; ++c) {
            const double difference = own.other[c] - own.nearest[c];
            excess += difference * (sample.differences ? difference + 2 * (own.nearest[c] - own.unit[c])
                                                       : -own.unit[c]);
            own.other[c] = difference;
        }
        return excess > 0 ? excess : 0;
    }
};

// The gradient at the normalised features of one winning row, in `own`, and its factors in `winners`.
//   sum, moment: of e_j (Y_j - Y_q) and e_j k (d_j - m)
template <typename T>
void find_gradient(Workspace<T>& work, const ContextualProblem& problem, const Inputs<T>& in, int64_t winner,
                   const T* sum, double moment, const Position& own) {
    const Sample<T>& sample = work.sample;
    Winners& winners = work.winners;
    const int64_t i = winners.row[winner], q = in.row_min_arg[i];
    const double log_sum = double(in.row_log_sum[i]);
    const double k = 1 / (problem.bandwidth * (double(in.row_min[i]) + problem.eps));
    sample.read_source(i, own.unit);
    sample.read_target(q, own.nearest);
    double sum_square = 0, nearest_square = 0;
    for (int64_t c = 0; c < sample.channels; ++c) {
        own.gradient[c] = 0;
        sum_square += double(sum[c]) * double(sum[c]);
        nearest_square += own.nearest[c] * own.nearest[c];
    }
    winners.close[winner] = cancels(sum_square, __builtin_expm1(log_sum), nearest_square);

    const Excess<T> excess(sample, problem, own, i, q);
    double all = 0, others = 0, weighted = 0;
    for (int64_t n = winners.first[i]; n < winners.first[i + 1]; ++n) {
        const int64_t j = winners.column[n];
        if (j == q) {
            all += work.upstream[j];
            continue;
        }
        const double exponent = k * excess.of(j);
        // Of columns as near as the nearest one the same to the last bit, or they would not cancel.
        const double g = gradient_at(work, in, j, -exponent - log_sum);
        work.upstream[j] = g;
        all += g;
        others += g;
        weighted -= g * exponent;
        for (int64_t c = 0; c < sample.channels; ++c) own.gradient[c] += k * g * own.other[c];
    }
    const double inverse_z = __builtin_exp(-log_sum);
    // h k^2 D, of which one k is already in `weighted` and in `moment`.
    const double rank_one = problem.bandwidth * k * (weighted + all * moment * inverse_z);
    winners.dense[winner] = -k * all * inverse_z;
    winners.nearest[winner] = k * (-all * __builtin_expm1(-log_sum) - others) + rank_one;
    for (int64_t c = 0; c < sample.channels; ++c) {
        own.gradient[c] += winners.dense[winner] * double(sum[c]);
        if (sample.differences) {
            own.gradient[c] = 2 * (own.gradient[c] + rank_one * (own.nearest[c] - own.unit[c]));
        } else {
            own.gradient[c] += rank_one * own.nearest[c];
        }
    }
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
    const Position& own = work.position[task];
    double* totals = work.partial_totals + slab * sample.channels;
    for (int64_t c = 0; c < sample.channels; ++c) totals[c] = 0;
    for (int64_t winner = first; winner < first + count; ++winner) {
        const int64_t i = winners.row[winner];
        find_gradient(work, problem, in, winner,
                      work.sums[task].features + (winner - first) * sample.stride,
                      work.sums[task].moment[winner - first], own);
        write_gradient<T, S>(sample, problem, gradient, index, i, own, sample.source_inverse[i], totals);
    }
}

}  // namespace pe::PE_ISA
