// Backward of the contextual loss in closed form, compiled once per instruction set.
//
// With g_j the gradient at v_j, J_i the columns that row i wins, G_i the sum of g_j over them, p_ij = CX_ij,
// and q(i) the nearest column of row i, the gradient at -d_ij is
//
//     k_i g_j [j in J_i] - k_i G_i p_ij + h k_i^2 D_i [j = q(i)],
//     D_i = - sum_{J_i} g_j (d_ij - m_i) + G_i sum_j p_ij (d_ij - m_i)
//
// Rows that win no column have none at all. The nearest column is kept out of the dense sums: for a
// near-identical pair p_iq is almost 1, and k G (1 - p_iq) must not come from subtracting. And k may be as
// large as 1 / (h eps), so features are multiplied as differences: a row of these gradients at -d adds up to
// h k_i^2 D_i, and with A_ij for them sum_j A_ij Y_j is
//
//     sum_{j != q} A_ij (Y_j - Y_q) + h k_i^2 D_i Y_q.
#include "contextual_backward_source.h"
#include "contextual_backward_target.h"

namespace pe::PE_ISA {
namespace {

template <typename S>
void fill_with_nan(const ContextualProblem& problem, const Gradient& gradient, int64_t index,
                   int64_t positions) {
    if (gradient.data == nullptr) return;
    S* data = static_cast<S*>(gradient.data) + index * gradient.layout.batch_stride;
    for (int64_t c = 0; c < problem.channels.count; ++c) {
        const int64_t channel = problem.channels.indices == nullptr ? c : problem.channels.indices[c];
        for (int64_t p = 0; p < positions; ++p) {
            store(Arithmetic<S>(__builtin_nan("")),
                  data + channel * gradient.layout.channel_stride + p * gradient.layout.position_stride);
        }
    }
}

// False for the statistics of a sample that was not finite, or that are not statistics at all.
template <typename T>
bool valid(const Sample<T>& sample, const Inputs<T>& in) {
    bool valid = true;
    for (int64_t j = 0; j < sample.ny; ++j) {
        valid &= in.similarity[j] <= 0 && in.similarity_arg[j] >= 0 && in.similarity_arg[j] < sample.nx;
    }
    for (int64_t i = 0; i < sample.nx; ++i) {
        valid &= in.row_min[i] >= 0 && in.row_log_sum[i] >= 0 && in.row_min_arg[i] >= 0 && in.row_min_arg[i] < sample.ny;
    }
    return valid;
}

// g_j: what comes from the loss and what comes from the map.
template <typename T>
void find_upstream(Workspace<T>& work, const ContextualProblem& problem, const Inputs<T>& in) {
    const int64_t ny = work.sample.ny;
    double excess = 0;
    for (int64_t j = 0; j < ny; ++j) excess += __builtin_expm1(double(in.similarity[j]));
    const double cx = 1 + excess / double(ny) + problem.eps_log;
    work.of_similarity = in.loss_gradient == nullptr ? 0 : -double(*in.loss_gradient) / double(ny);
    if (problem.form == Form::kLog) work.of_similarity /= cx;
    for (int64_t j = 0; j < ny; ++j) work.upstream[j] = gradient_at(work, in, j, double(in.similarity[j]));
}

template <typename T>
void add_totals(const Workspace<T>& work, int64_t parts) {
    const int64_t channels = work.sample.channels;
    for (int64_t part = 0; part < parts; ++part) {
        for (int64_t c = 0; c < channels; ++c) work.centre[c] += work.partial_totals[part * channels + c];
    }
}

template <typename S>
size_t backward(const ContextualProblem& problem, const Features& source, const Features& target,
                const ContextualStatistics& statistics, const void* loss_gradient,
                const void* log_similarity_gradient, const Gradient& source_gradient,
                const Gradient& target_gradient, void* workspace, const Pool& pool) {
    using T = Arithmetic<S>;
    Arena arena(workspace);
    const bool target_wanted = target_gradient.data != nullptr;
    Workspace<T> work(problem, arena, pool.threads, statistics.row_sums != nullptr, target_wanted,
                      workspace != nullptr);
    if (workspace == nullptr) return arena.used();

    Sample<T>& sample = work.sample;
    const Refinement<T> refinement(problem, sample);
    const bool centred = sample.centred && target_wanted;
    const bool over_batch = problem.center == Center::kBatch;
    for (int64_t c = 0; c < sample.channels; ++c) work.centre[c] = 0;
    for (int64_t b = 0; b < problem.batch; ++b) {
        const auto at = [b](const void* data, int64_t count) {
            return data == nullptr ? nullptr : static_cast<const T*>(data) + b * count;
        };
        const Inputs<T> in{
            at(statistics.log_similarity, sample.ny), statistics.log_similarity_arg + b * sample.ny,
            at(statistics.row_min, sample.nx),        statistics.row_min_arg + b * sample.nx,
            at(statistics.row_log_sum, sample.nx),    at(statistics.row_sums, sample.nx * (sample.channels + 1)),
            at(loss_gradient, 1),                     at(log_similarity_gradient, sample.ny)};
        prepare<S>(sample, problem, source, target, b, pool);
        if (!valid(sample, in)) {
            fill_with_nan<S>(problem, source_gradient, b, sample.nx);
            fill_with_nan<S>(problem, target_gradient, b, sample.ny);
            continue;
        }
        find_upstream(work, problem, in);
        work.winners.find(in.similarity_arg, sample.nx, sample.ny);
        const int64_t slabs = (work.winners.count + work.capacity - 1) / work.capacity;
        parallel_for(pool, slabs, [&](int64_t slab, int task) {
            source_slab<T, S>(work, problem, in, refinement, source_gradient, b, slab, task);
        });
        if (!target_wanted) continue;
        if (!over_batch) {
            for (int64_t c = 0; c < sample.channels; ++c) work.centre[c] = 0;
        }
        add_totals(work, slabs);
        const int64_t blocks = (sample.panels + work.block_panels - 1) / work.block_panels;
        parallel_for(pool, blocks,
                     [&](int64_t block, int task) { column_block(work, in, refinement, block, task); });
        add_sparse_columns(work, problem, in);
        parallel_for(pool, blocks, [&](int64_t block, int task) {
            target_columns<T, S>(work, problem, target_gradient, b, block, task);
        });
        add_totals(work, blocks);
        if (centred && !over_batch)
            add_centre<T, S>(work, problem, target_gradient, b, double(sample.ny), pool);
    }
    if (centred && over_batch) {
        const double count = double(sample.ny) * double(problem.batch);
        for (int64_t b = 0; b < problem.batch; ++b)
            add_centre<T, S>(work, problem, target_gradient, b, count, pool);
    }
    return 0;
}

}  // namespace

size_t contextual_backward(const ContextualProblem& problem, const Features& source, const Features& target,
                           const ContextualStatistics& statistics, const void* loss_gradient,
                           const void* log_similarity_gradient, const Gradient& source_gradient,
                           const Gradient& target_gradient, void* workspace, const Pool& pool) {
    const auto run = [&](auto storage) {
        return backward<decltype(storage)>(problem, source, target, statistics, loss_gradient,
                                           log_similarity_gradient, source_gradient, target_gradient,
                                           workspace, pool);
    };
    switch (problem.type) {
        case Type::kFloat64:
            return run(double{});
        case Type::kFloat16:
            return run(Half{});
        case Type::kBFloat16:
            return run(BFloat16{});
        default:
            return run(float{});
    }
}

}  // namespace pe::PE_ISA
