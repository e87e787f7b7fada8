#include "contextual.h"

#include "common_internal.h"

// One variant per instruction set. With a null workspace each only counts the bytes that it needs.
#define PE_DECLARE(isa)                                                                                \
    namespace isa {                                                                                    \
    size_t contextual_forward(const ContextualProblem&, const Features&, const Features&, void*,       \
                              const ContextualStatistics&, void*, const Pool&);                        \
    size_t contextual_backward(const ContextualProblem&, const Features&, const Features&,             \
                               const ContextualStatistics&, const void*, const void*, const Gradient&, \
                               const Gradient&, void*, const Pool&);                                   \
    }

namespace pe {

PE_DECLARE(baseline)
#ifdef PE_X86
PE_DECLARE(avx2)
PE_DECLARE(avx512)
#define PE_DISPATCH(function) \
    (isa_level() == kAvx512 ? avx512::function : isa_level() == kAvx2 ? avx2::function : baseline::function)
#else
#define PE_DISPATCH(function) baseline::function
#endif

namespace {

// What these point to is not written to; that they are not null says that they are wanted.
int wanted_ = 0;
ContextualStatistics with_sums(bool row_sums) {
    return {nullptr, nullptr, nullptr, nullptr, nullptr, row_sums ? &wanted_ : nullptr};
}

}  // namespace

size_t contextual_forward_workspace(const ContextualProblem& problem, int threads, bool row_sums) {
    return PE_DISPATCH(contextual_forward)(problem, {}, {}, nullptr, with_sums(row_sums), nullptr,
                                           {threads, nullptr, nullptr});
}

size_t contextual_backward_workspace(const ContextualProblem& problem, int threads, bool row_sums,
                                     bool target_gradient) {
    const Gradient target{target_gradient ? &wanted_ : nullptr, {}};
    return PE_DISPATCH(contextual_backward)(problem, {}, {}, with_sums(row_sums), nullptr, nullptr, {},
                                            target, nullptr, {threads, nullptr, nullptr});
}

void contextual_forward(const ContextualProblem& problem, const Features& source, const Features& target,
                        void* loss, const ContextualStatistics& statistics, void* workspace,
                        const Pool& pool) {
    PE_DISPATCH(contextual_forward)(problem, source, target, loss, statistics, workspace, pool);
}

void contextual_backward(const ContextualProblem& problem, const Features& source, const Features& target,
                         const ContextualStatistics& statistics, const void* loss_gradient,
                         const void* log_similarity_gradient, const Gradient& source_gradient,
                         const Gradient& target_gradient, void* workspace, const Pool& pool) {
    PE_DISPATCH(contextual_backward)(problem, source, target, statistics, loss_gradient,
                                     log_similarity_gradient, source_gradient, target_gradient, workspace,
                                     pool);
}

}  // namespace pe
