// The target's gradient: columns of the distance matrix, and the mean.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "contextual_backward.h"

namespace pe::PE_ISA {

// Whether pairs of a close row and column j count as A (X - Y_j): with cosine distance the part along Y_j is
// projected out, but for a short Y_j; with L2 A Y_j is what A X is to lose.
template <typename T>
PE_INLINE bool takes_differences(const Sample<T>& sample, int64_t j) {
    return sample.differences || sample.target_inverse[j] > 0;
}

// Adds a_j (X - Y_j) of one close row to the columns of a block.
//   factor: of the row's exponentials in a_j
template <typename T>
void add_close_row(Workspace<T>& work, int64_t i, int64_t r, double factor, int64_t first, int64_t last,
                   int task) {
    const Sample<T>& sample = work.sample;
    constexpr int64_t kColumns = Rows<T>::kColumns;
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    T* row = work.close_row[task];
    T* low = row + sample.stride;
    for (int64_t c = 0; c < sample.stride; ++c) {
        const bool inside = c < sample.channels;
        row[c] = inside ? sample.source_rows[i * sample.depth + c] : T(0);
        low[c] = inside && Sample<T>::kLow ? sample.source_low[i * sample.difference + c] : T(0);
    }
    for (int64_t strip = 0; strip < sample.stride; strip += Sample<T>::kStrip) {
        const Differences<T> to_row(sample, strip, row + strip, low + strip);
        for (int64_t panel = first; panel < last; ++panel) {
            const T* e = work.block_rows[task].at(panel - first, r);
            if (!any_greater(max(V::load(e), V::load(e + kSize)), V::all(0))) continue;
            for (int64_t n = 0; n < kColumns; ++n) {
                if (e[n] == 0) continue;
                const int64_t j = panel * kColumns + n, place = sample.target_place(j, strip);
                const V coefficient = V::all(T(factor * double(e[n])));
                T* out = work.column_gradient + j * sample.stride + strip;
                const bool relative = takes_differences(sample, j);
                for (int64_t part = 0; part < to_row.vectors; ++part) {
                    const V minus = relative ? to_row.of(place, part) : V::all(0) - to_row.value[part];
                    fnma(coefficient, minus, V::load(out + part * kSize)).store(out + part * kSize);
                }
            }
        }
    }
}

// The gradient at -d of every column of a block, times the rows: the dense part of the target's gradient.
template <typename T>
void column_block(Workspace<T>& work, const Inputs<T>& in, const Refinement<T>& refinement, int64_t block,
                  int task) {
    const Sample<T>& sample = work.sample;
    const Winners& winners = work.winners;
    Rows<T>& rows = work.block_rows[task];
    T* scaled = work.scaled[task];
    constexpr int64_t kColumns = Rows<T>::kColumns;
    const int64_t first = block * work.block_panels;
    const int64_t last = smaller(sample.panels, first + work.block_panels);
    T* gradient = work.column_gradient + first * kColumns * sample.stride;
    for (int64_t n = 0; n < (last - first) * kColumns * sample.stride; ++n) gradient[n] = 0;
    for (int64_t start = 0; start < winners.count; start += work.block_capacity) {
        rows.count = smaller(work.block_capacity, winners.count - start);
        for (int64_t r = 0; r < rows.count; ++r) rows.index[r] = winners.row[start + r];
        rows.pack(sample);
        rows.distances(sample, first, last);
        for (int64_t r = 0; r < rows.count; ++r) {
            const int64_t i = rows.index[r], q = in.row_min_arg[i];
            const double m = double(in.row_min[i]);
            const double k = 1 / (refinement.bandwidth * (m + refinement.eps));
            rows.refine(sample, r, refinement.threshold(m), T(0), first, last);
            const int64_t panel = q / kColumns;
            if (panel >= first && panel < last) rows.at(panel - first, r)[q % kColumns] = Sample<T>::kPadding;
            double moment = 0;
            exponentials(rows, r, last - first, k, m, &moment);
            const T* row = sample.source_rows + i * sample.depth;
            if (winners.close[start + r] != 0) {
                add_close_row(work, i, r, winners.dense[start + r], first, last, task);
            }
            const T dense = winners.close[start + r] != 0 ? T(0) : T(winners.dense[start + r]);
            for (int64_t strip = 0; strip < sample.stride; strip += Sample<T>::kStrip) {
                const int64_t width = sample.strip_width(strip);
                T* out = scaled + strip * work.block_capacity + r * width;
                for (int64_t n = 0; n < width; ++n) {
                    const int64_t c = strip + n;
                    const T value = c < sample.channels ? row[c] : T(c == sample.channels && sample.differences);
                    out[n] = dense * value;
                }
            }
        }
        for (int64_t panel = first; panel < last; ++panel) {
            for (int64_t n = 0; n < kColumns; n += kColumnTile) {
                const Stretch<T> column{rows.at(panel - first, 0) + n, 0, rows.count};
                product<kColumnTile>(
                    &column, 1, 1, kColumns, [&](int64_t c) { return scaled + c * work.block_capacity; },
                    gradient + ((panel - first) * kColumns + n) * sample.stride, sample.stride);
            }
        }
    }
}

// Adds the columns that rows win and their nearest ones, in the order of the rows.
template <typename T>
void add_sparse_columns(Workspace<T>& work, const ContextualProblem& problem, const Inputs<T>& in) {
    const Sample<T>& sample = work.sample;
    const Winners& winners = work.winners;
    const Position& own = work.position[0];
    // Of the row in `own`.
    const auto add = [&](int64_t j, double factor, bool close) {
        T* out = work.column_gradient + j * sample.stride;
        if (close && takes_differences(sample, j)) {
            sample.read_target(j, own.other);
            for (int64_t c = 0; c < sample.channels; ++c) out[c] += T(factor * (own.unit[c] - own.other[c]));
            return;
        }
        for (int64_t c = 0; c < sample.channels; ++c) out[c] += T(factor * own.unit[c]);
        if (sample.differences) out[sample.channels] += T(factor);
    };
    for (int64_t w = 0; w < winners.count; ++w) {
        const int64_t i = winners.row[w], q = in.row_min_arg[i];
        const bool close = winners.close[w] != 0;
        const double k = 1 / (problem.bandwidth * (double(in.row_min[i]) + problem.eps));
        sample.read_source(i, own.unit);
        add(q, winners.nearest[w], close);
        for (int64_t n = winners.first[i]; n < winners.first[i + 1]; ++n) {
            const int64_t j = winners.column[n];
            if (j != q) add(j, k * work.upstream[j], close);
        }
    }
}

template <typename T, typename S>
void target_columns(Workspace<T>& work, const ContextualProblem& problem, const Gradient& gradient,
                    int64_t index, int64_t block, int task) {
    const Sample<T>& sample = work.sample;
    constexpr int64_t kColumns = Rows<T>::kColumns;
    const int64_t first = block * work.block_panels * kColumns;
    const int64_t last = smaller(sample.ny, first + work.block_panels * kColumns);
    const Position& own = work.position[task];
    double* totals = work.partial_totals + block * sample.channels;
    for (int64_t c = 0; c < sample.channels; ++c) totals[c] = 0;
    for (int64_t j = first; j < last; ++j) {
        const T* column = work.column_gradient + j * sample.stride;
        sample.read_target(j, own.unit);
        for (int64_t c = 0; c < sample.channels; ++c) {
            own.gradient[c] = double(column[c]);
            if (!sample.differences) continue;
            own.gradient[c] = 2 * (own.gradient[c] - double(column[sample.channels]) * own.unit[c]);
        }
        write_gradient<T, S>(sample, problem, gradient, index, j, own, sample.target_inverse[j], totals);
    }
}

// Every target feature moves the mean that is subtracted from all features.
template <typename T, typename S>
void add_centre(const Workspace<T>& work, const ContextualProblem& problem, const Gradient& gradient,
                int64_t index, double count, const Pool& pool) {
    const Sample<T>& sample = work.sample;
    S* data = static_cast<S*>(gradient.data) + index * gradient.layout.batch_stride;
    parallel_for(pool, (sample.ny + kBlock - 1) / kBlock, [&](int64_t block, int) {
        const int64_t first = block * kBlock, last = smaller(sample.ny, first + kBlock);
        for (int64_t c = 0; c < sample.channels; ++c) {
            const double weight = problem.channels.weights == nullptr ? 1.0 : problem.channels.weights[c];
            const int64_t channel = problem.channels.indices == nullptr ? c : problem.channels.indices[c];
            const double value = -weight * work.centre[c] / count;
            S* out = data + channel * gradient.layout.channel_stride;
            for (int64_t j = first; j < last; ++j) {
                S* place = out + j * gradient.layout.position_stride;
                store(Arithmetic<S>(double(load(place)) + value), place);
            }
        }
    });
}

}  // namespace pe::PE_ISA
