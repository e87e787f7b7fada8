// Forward of the contextual loss, compiled once per instruction set.
#include "contextual_sums.h"

namespace pe::PE_ISA {
namespace {

// Column maxima of the rows that one task has seen, as log2(Ny CX_ij): about 0 where all similarities are
// alike and the maximum depends on the last digits.
template <typename T>
struct Maxima {
    T* best;  // [panels kColumns]
    int32_t* arg;

    Maxima(Arena& arena, const Sample<T>& sample)
        : best(arena.take<T>(sample.panels * Sample<T>::kColumns)),
          arg(arena.take<int32_t>(sample.panels * Sample<T>::kColumns)) {}

    void clear(int64_t columns) {
        for (int64_t j = 0; j < columns; ++j) best[j] = -__builtin_inff(), arg[j] = 0;
    }
};

// To T, upwards, of what is not negative: columns at the least distance then have exponents of 0 or just above,
// near which exp2 is most accurate.
template <typename T>
PE_INLINE T rounded_up(double x) {
    const T rounded = T(x);
    return double(rounded) < x ? rounded * (1 + (sizeof(T) == 4 ? T(0x1p-23) : T(0x1p-52))) : rounded;
}

// Constants of a row: log2 exp(-k (d - m)) = scale d + shift.
template <typename T>
struct RowConstants {
    T scale[kMaxRows], shift[kMaxRows], log_shift[kMaxRows];
    double sum[kMaxRows];
};

// sum_j exp(-k (d_ij - m)) of each row, without the nearest column, whose distance is set aside.
template <typename T>
void add_exponentials(const Rows<T>& rows, int64_t panels, RowConstants<T>& constants) {
    constexpr int kGroup = kTileRows % 4 == 0 ? 4 : 3;
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    for (int64_t r = 0; r < rows.count; r += kGroup) {
        V scale[kGroup], shift[kGroup];
        for (int g = 0; g < kGroup; ++g)
            scale[g] = V::all(constants.scale[r + g]), shift[g] = V::all(constants.shift[r + g]);
        // In pieces, so that rounding does not grow with the number of columns.
        for (int64_t first = 0; first < panels; first += 128) {
            V sums[kGroup];
            for (V& sum : sums) sum = V::all(0);
            const int64_t last = smaller(panels, first + 128);
            for (int64_t panel = first; panel < last; ++panel) {
                const T* d = rows.at(panel, r);
#pragma GCC unroll 4
                for (int g = 0; g < kGroup; ++g) {
                    const V left = fma(V::load(d + g * 2 * kSize), scale[g], shift[g]);
                    const V right = fma(V::load(d + g * 2 * kSize + kSize), scale[g], shift[g]);
                    sums[g] = sums[g] + (exp2(left) + exp2(right));
                }
            }
            for (int g = 0; g < kGroup; ++g) constants.sum[r + g] += total(sums[g]);
        }
    }
}

template <typename T>
void raise_maxima(const Rows<T>& rows, int64_t panels, const RowConstants<T>& constants, Maxima<T>& maxima) {
    constexpr int kSize = Vec<T>::size;
    using V = Vec<T>;
    for (int64_t panel = 0; panel < panels; ++panel) {
        const T* d = rows.at(panel, 0);
        T* best = maxima.best + panel * 2 * kSize;
        V left = V::load(best), right = V::load(best + kSize);
        const V left_before = left, right_before = right;
        for (int64_t r = 0; r < rows.count; ++r) {
            const V scale = V::all(constants.scale[r]), shift = V::all(constants.log_shift[r]);
            left = max(left, fma(V::load(d + r * 2 * kSize), scale, shift));
            right = max(right, fma(V::load(d + r * 2 * kSize + kSize), scale, shift));
        }
        // Which row it was is asked only where the maximum rose.
        for (int half = 0; half < 2; ++half) {
            if (!any_greater(half == 0 ? left : right, half == 0 ? left_before : right_before)) continue;
            for (int64_t r = 0; r < rows.count; ++r) {
                const V value = fma(V::load(d + r * 2 * kSize + half * kSize), V::all(constants.scale[r]),
                                    V::all(constants.log_shift[r]));
                raise(value, rows.index[r], best + half * kSize,
                      maxima.arg + panel * 2 * kSize + half * kSize);
            }
        }
    }
}

// Outputs of one sample.
template <typename T>
struct Outputs {
    T* loss;
    T* similarity;
    int32_t* similarity_arg;
    T* row_min;
    int32_t* row_min_arg;
    T* row_log_sum;
    T* row_sums;  // may be null
};

template <typename T>
void forward_rows(const Sample<T>& sample, const Refinement<T>& refinement, Rows<T>& rows, Maxima<T>& maxima,
                  RowSums<T>& sums, const Outputs<T>& out) {
    RowConstants<T> constants;
    rows.pack(sample);
    rows.distances(sample, 0, sample.panels);
    for (int64_t r = 0; r < rows.padded(); ++r) {
        constants.sum[r] = 0;
        if (r >= rows.count) {
            constants.scale[r] = constants.shift[r] = 0;
            continue;
        }
        const T least = rows.least(r);
        const T m = rows.refine(sample, r, refinement.threshold(double(least)), least, 0, sample.panels);
        const int64_t nearest = rows.find(r, m, sample.panels);
        constants.scale[r] = exponent_scale<T>(1 / (refinement.bandwidth * (double(m) + refinement.eps)));
        constants.shift[r] = rounded_up<T>(-double(constants.scale[r]) * double(m));
        out.row_min[rows.index[r]] = m;
        out.row_min_arg[rows.index[r]] = int32_t(nearest);
        // Its exponential is 1, beside which a small sum of the others would be lost.
        rows.at(nearest / Rows<T>::kColumns, r)[nearest % Rows<T>::kColumns] = Sample<T>::kPadding;
    }
    add_exponentials(rows, sample.panels, constants);
    const double log2_ny = __builtin_log2(double(sample.ny));
    for (int64_t r = 0; r < rows.count; ++r) {
        const int32_t i = rows.index[r], nearest = out.row_min_arg[i];
        // What rounding added to `shift`, which all exponentials of a row have in them.
        const double scale = double(constants.scale[r]), m = double(out.row_min[i]);
        const double excess = scale * m + double(constants.shift[r]);
        const double log_sum = __builtin_log1p(constants.sum[r] * __builtin_exp(-excess * kLn2));
        out.row_log_sum[i] = T(log_sum);
        constants.log_shift[r] = T(log2_ny - log_sum * kLog2E - scale * m);
        rows.at(nearest / Rows<T>::kColumns, r)[nearest % Rows<T>::kColumns] = out.row_min[i];
    }
    raise_maxima(rows, sample.panels, constants, maxima);
    if (out.row_sums == nullptr) return;
    find_sums(sample, refinement, rows, out.row_min, out.row_min_arg, sums);
    for (int64_t r = 0; r < rows.count; ++r) {
        T* row = out.row_sums + rows.index[r] * (sample.channels + 1);
        for (int64_t c = 0; c < sample.channels; ++c) row[c] = sums.features[r * sample.stride + c];
        row[sample.channels] = T(sums.moment[r]);
    }
}

template <typename T>
void finish(const Sample<T>& sample, const ContextualProblem& problem, Maxima<T>* maxima, int tasks,
            const Outputs<T>& out) {
    bool finite = *sample.not_finite == 0;
    // Where all distances of a row overflow, the definition has 0 / 0.
    for (int64_t i = 0; i < sample.nx; ++i) finite &= out.row_min[i] - out.row_min[i] == 0;
    const double log_ny = __builtin_log(double(sample.ny));
    double excess = 0;  // sum of exp(v_j) - 1
    for (int64_t j = 0; j < sample.ny; ++j) {
        T best = maxima[0].best[j];
        int32_t arg = maxima[0].arg[j];
        for (int task = 1; task < tasks; ++task) {
            const T value = maxima[task].best[j];
            const int32_t row = maxima[task].arg[j];
            if (value > best || (value == best && row < arg)) best = value, arg = row;
        }
        // At the nearest column the exponent is -log Z alone, which keeps its digits where it is tiny.
        const double v =
            out.row_min_arg[arg] == j ? -double(out.row_log_sum[arg]) : double(best) * kLn2 - log_ny;
        out.similarity[j] = T(v < 0 ? v : 0);
        out.similarity_arg[j] = arg;
        excess += __builtin_expm1(double(out.similarity[j]));
        finite &= best == best;  // -inf where all distances of a column overflow: a similarity of 0
    }
    excess /= double(sample.ny);
    if (problem.form == Form::kLog) {
        *out.loss = T(0 - __builtin_log1p(excess + problem.eps_log));
    } else {
        *out.loss = T(0 - excess);
    }
    if (finite) return;
    const T nan = T(__builtin_nan(""));
    *out.loss = nan;
    for (int64_t j = 0; j < sample.ny; ++j) out.similarity[j] = nan, out.similarity_arg[j] = 0;
    for (int64_t i = 0; i < sample.nx; ++i) {
        out.row_min[i] = out.row_log_sum[i] = nan;
        out.row_min_arg[i] = 0;
    }
}

template <typename S>
size_t forward(const ContextualProblem& problem, const Features& source, const Features& target, void* loss,
               const ContextualStatistics& statistics, void* workspace, const Pool& pool) {
    using T = Arithmetic<S>;
    Arena arena(workspace);
    const bool with_sums = statistics.row_sums != nullptr;
    Sample<T> sample(problem, arena, with_sums, false);
    const int64_t capacity = slab_rows<T>(sample.panels * Sample<T>::kColumns);
    const int64_t slabs = (sample.nx + capacity - 1) / capacity;
    const int tasks = int(smaller(pool.threads, slabs));
    auto* rows = arena.take<Rows<T>>(tasks);
    auto* maxima = arena.take<Maxima<T>>(tasks);
    auto* sums = arena.take<RowSums<T>>(tasks);
    for (int task = 0; task < tasks; ++task) {
        const Rows<T> own_rows(arena, sample, capacity, sample.panels);
        const Maxima<T> own_maxima(arena, sample);
        const RowSums<T> own_sums(arena, sample, with_sums ? capacity : 0);
        if (workspace != nullptr) rows[task] = own_rows, maxima[task] = own_maxima, sums[task] = own_sums;
    }
    if (workspace == nullptr) return arena.used();

    const Refinement<T> refinement(problem, sample);
    for (int64_t b = 0; b < problem.batch; ++b) {
        prepare<S>(sample, problem, source, target, b, pool);
        const Outputs<T> out{static_cast<T*>(loss) + b,
                             static_cast<T*>(statistics.log_similarity) + b * sample.ny,
                             statistics.log_similarity_arg + b * sample.ny,
                             static_cast<T*>(statistics.row_min) + b * sample.nx,
                             statistics.row_min_arg + b * sample.nx,
                             static_cast<T*>(statistics.row_log_sum) + b * sample.nx,
                             with_sums ? static_cast<T*>(statistics.row_sums) +
                                             b * sample.nx * (sample.channels + 1)
                                       : nullptr};
        for (int task = 0; task < tasks; ++task) rows[task].count = 0;
        parallel_for(pool, slabs, [&](int64_t slab, int task) {
            Rows<T>& own = rows[task];
            if (own.count == 0) maxima[task].clear(sample.panels * Sample<T>::kColumns);
            own.count = smaller(capacity, sample.nx - slab * capacity);
            for (int64_t r = 0; r < own.count; ++r) own.index[r] = int32_t(slab * capacity + r);
            forward_rows(sample, refinement, own, maxima[task], sums[task], out);
        });
        // There may be more tasks than threads: those that found nothing to do cost nothing.
        int used = 0;
        for (int task = 0; task < tasks; ++task) {
            if (rows[task].count == 0) continue;
            const Maxima<T> own = maxima[task];
            maxima[task] = maxima[used];
            maxima[used++] = own;
        }
        finish(sample, problem, maxima, used, out);
    }
    return 0;
}

}  // namespace

size_t contextual_forward(const ContextualProblem& problem, const Features& source, const Features& target,
                          void* loss, const ContextualStatistics& statistics, void* workspace,
                          const Pool& pool) {
    switch (problem.type) {
        case Type::kFloat64:
            return forward<double>(problem, source, target, loss, statistics, workspace, pool);
        case Type::kFloat16:
            return forward<Half>(problem, source, target, loss, statistics, workspace, pool);
        case Type::kBFloat16:
            return forward<BFloat16>(problem, source, target, loss, statistics, workspace, pool);
        default:
            return forward<float>(problem, source, target, loss, statistics, workspace, pool);
    }
}

}  // namespace pe::PE_ISA
