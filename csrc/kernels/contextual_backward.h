// What both directions of the contextual loss's backward share.
// Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "contextual_sums.h"

namespace pe::PE_ISA {

// What each row that wins a column needs besides its features, in the order of the winners.
struct Winners {
    int64_t count;
    int32_t* row;       // [count], ascending
    int64_t* first;     // [nx + 1]: where the columns of source row i begin in `column`
    int32_t* column;    // [ny]: columns by the row that wins them, ascending within a row
    double* dense;      // [count]: factor of exp(-k (d - m)) in the gradient at -d
    double* nearest;    // [count]: gradient at -d of the nearest column
    int32_t* close;     // [count]: whether its sums cancel, so that only differences of features count

    Winners(Arena& arena, int64_t nx, int64_t ny) : count(0) {
        const int64_t most = smaller(nx, ny);
        row = arena.take<int32_t>(most);
        first = arena.take<int64_t>(nx + 1);
        column = arena.take<int32_t>(ny);
        dense = arena.take<double>(most);
        nearest = arena.take<double>(most);
        close = arena.take<int32_t>(most);
    }

    void find(const int32_t* arg, int64_t nx, int64_t ny) {
        for (int64_t i = 0; i <= nx; ++i) first[i] = 0;
        for (int64_t j = 0; j < ny; ++j) ++first[arg[j] + 1];
        count = 0;
        for (int64_t i = 0; i < nx; ++i) {
            if (first[i + 1] > 0) row[count++] = int32_t(i);
            first[i + 1] += first[i];
        }
        for (int64_t j = 0; j < ny; ++j) column[first[arg[j]]++] = int32_t(j);
        for (int64_t i = nx; i > 0; --i) first[i] = first[i - 1];
        first[0] = 0;
    }
};

// Statistics and upstream gradients of one sample.
template <typename T>
struct Inputs {
    const T* similarity;
    const int32_t* similarity_arg;
    const T* row_min;
    const int32_t* row_min_arg;
    const T* row_log_sum;
    const T* row_sums;             // may be null
    const T* loss_gradient;        // may be null
    const T* similarity_gradient;  // may be null
};

// Of one position at a time, with what rounding to T left.
struct Position {
    double* unit;      // [channels]: its normalised features
    double* other;     // [channels]: those of another position
    double* nearest;   // [channels]: those of the nearest target
    double* gradient;  // [channels]: at its normalised features

    Position(Arena& arena, int64_t channels)
        : unit(arena.take<double>(channels)),
          other(arena.take<double>(channels)),
          nearest(arena.take<double>(channels)),
          gradient(arena.take<double>(channels)) {}
};

template <typename T>
struct Workspace {
    Sample<T> sample;
    Winners winners;
    double* upstream;                      // [ny]: g_j
    double of_similarity;                  // the loss's gradient at the similarities exp(v_j)
    double* partial_totals;                // [max(slabs, column blocks)][channels]
    double* centre;                        // [channels]: gradient of the mean target feature
    T* column_gradient;                    // [panels kColumns][stride]; null where the target needs none
    int64_t capacity;                      // rows of a slab over all columns
    int64_t block_panels, block_capacity;  // of the pass over columns
    int tasks;
    Rows<T>* rows;        // [tasks]; not there where forward kept the sums
    RowSums<T>* sums;     // [tasks]
    Rows<T>* block_rows;  // [tasks]
    T** scaled;           // [tasks]: in strips as target_rows
    T** close_row;        // [tasks][2 stride]: a source feature rounded to T, and what that left
    Position* position;   // [tasks]

    Workspace(const ContextualProblem& problem, Arena& arena, int threads, bool row_sums, bool target,
              bool place)
        : sample(problem, arena, true, true), winners(arena, sample.nx, sample.ny) {
        const int64_t columns = sample.panels * Sample<T>::kColumns;
        capacity = slab_rows<T>(columns);
        block_panels = smaller(sample.panels, 1 + 512 / Sample<T>::kColumns);
        block_capacity = slab_rows<T>(block_panels * Sample<T>::kColumns);
        const int64_t slabs = (smaller(sample.nx, sample.ny) + capacity - 1) / capacity;
        const int64_t blocks = (sample.panels + block_panels - 1) / block_panels;
        tasks = int(smaller(threads, slabs > blocks ? slabs : blocks));
        upstream = arena.take<double>(sample.ny);
        partial_totals = arena.take<double>((slabs > blocks ? slabs : blocks) * sample.channels);
        centre = arena.take<double>(sample.channels);
        column_gradient = target ? arena.take<T>(columns * sample.stride) : nullptr;
        rows = arena.take<Rows<T>>(tasks);
        sums = arena.take<RowSums<T>>(tasks);
        block_rows = arena.take<Rows<T>>(tasks);
        scaled = arena.take<T*>(tasks);
        close_row = arena.take<T*>(tasks);
        position = arena.take<Position>(tasks);
        for (int task = 0; task < tasks; ++task) {
            const RowSums<T> own_sums(arena, sample, capacity);
            const Position own_position(arena, sample.channels);
            if (place) sums[task] = own_sums, position[task] = own_position;
            if (!row_sums) {
                const Rows<T> own(arena, sample, capacity, sample.panels);
                if (place) rows[task] = own;
            }
            if (!target) continue;
            const Rows<T> own_block(arena, sample, block_capacity, block_panels);
            T* own_scaled = arena.take<T>(block_capacity * sample.stride);
            T* own_close = arena.take<T>(2 * sample.stride);
            if (place) block_rows[task] = own_block, scaled[task] = own_scaled, close_row[task] = own_close;
        }
    }
};

// g_j, the gradient at v_j.
template <typename T>
PE_INLINE double gradient_at(const Workspace<T>& work, const Inputs<T>& in, int64_t j, double v) {
    const double from_map = in.similarity_gradient == nullptr ? 0 : double(in.similarity_gradient[j]);
    return work.of_similarity * __builtin_exp(v) + from_map;
}

// The gradient of a position taken through normalisation, weights and selection, and added to `totals` before
// the weights.
//   inverse: of the length, negative where it was short
template <typename T, typename S>
void write_gradient(const Sample<T>& sample, const ContextualProblem& problem, const Gradient& gradient,
                    int64_t index, int64_t position, const Position& own, double inverse, double* totals) {
    double along = 0;
    if (inverse > 0 && !sample.differences) {
        for (int64_t c = 0; c < sample.channels; ++c) along += own.unit[c] * own.gradient[c];
    }
    S* out = gradient.data == nullptr
                 ? nullptr
                 : static_cast<S*>(gradient.data) + index * gradient.layout.batch_stride +
                       position * gradient.layout.position_stride;
    const Channels& channels = problem.channels;
    for (int64_t c = 0; c < sample.channels; ++c) {
        const double value = (own.gradient[c] - along * own.unit[c]) * __builtin_fabs(inverse);
        totals[c] += value;
        if (out == nullptr) continue;
        const double weight = channels.weights == nullptr ? 1.0 : channels.weights[c];
        const int64_t channel = channels.indices == nullptr ? c : channels.indices[c];
        store(Arithmetic<S>(weight * value), out + channel * gradient.layout.channel_stride);
    }
}

}  // namespace pe::PE_ISA
