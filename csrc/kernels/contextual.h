// Contextual loss: Mechrez et al. (ECCV 2018), Eq. 2 to 4, as in Eq. 9 of Tariq et al. (ECCV 2020).
//
// Source features x_i (the image being judged or trained) and target features y_j (the reference), selected
// and weighted; with cosine distance X_i = (x_i - c) / |x_i - c|, likewise Y_j, c the mean target feature:
//
//     d_ij = max(0, 1 - X_i . Y_j) or |x_i - y_j|^2, plus spatial_weight |p_i - q_j|^2
//     m_i = min_j d_ij,  k_i = 1 / (h (m_i + eps)),  log Z_i = log sum_j exp(-k_i (d_ij - m_i))
//     v_j = max_i (-k_i (d_ij - m_i) - log Z_i)
//     CX = mean_j exp(v_j);  loss = -log(CX + eps_log), or 1 - CX
//
// Exact, in O((Nx + Ny) C) memory: the Nx x Ny matrix exists a few rows at a time. Distances are accurate
// relative to themselves, not only to 1, wherever the loss depends on that. A sample with a NaN or an
// infinity has a loss, a map and gradients of NaN, and so has one with a row all of whose L2 distances
// overflow. Ties go to the lowest index.
#pragma once

#include "common.h"

namespace pe {

enum class Distance : int32_t { kCosine, kL2 };
enum class Center : int32_t { kSample, kBatch, kNone };  // of the cosine distance
enum class Form : int32_t { kLog, kOneMinus };
// Of matrix products of float32 operands, in torch's words: kHighest is as accurate as float32; kHigh rounds
// operands to 11 significant bits, as TF32 does, where a device is faster for it: near-identical features then
// have wrong losses. The CPU is always kHighest.
enum class MatmulPrecision : int32_t { kHighest, kHigh };

struct ContextualProblem {
    int64_t batch;
    int64_t source_height, source_width;  // Nx = height x width < 2^31
    int64_t target_height, target_width;
    Channels channels;
    Type type;  // of both feature maps and of their gradients
    Distance distance;
    Center center;
    Form form;
    double bandwidth;  // h > 0
    double eps;        // > 0
    double eps_log;
    double spatial_weight;  // >= 0; 0: no such term
    MatmulPrecision precision = MatmulPrecision::kHighest;

    int64_t source_positions() const { return source_height * source_width; }
    int64_t target_positions() const { return target_height * target_width; }
};

// What forward leaves for backward. `void*` is double where the features are, else float.
struct ContextualStatistics {
    void* log_similarity;         // (B, Ny): v_j
    int32_t* log_similarity_arg;  // (B, Ny): the row that attains it
    void* row_min;                // (B, Nx): m_i
    int32_t* row_min_arg;         // (B, Nx): the column that attains it
    void* row_log_sum;            // (B, Nx): log Z_i
    // (B, Nx, channels + 1), or null. For each row the sums that the source's gradient consists of, over all
    // columns but the nearest, q: exp(-k_i (d_ij - m_i)) times Y_j - Y_q, the normalised target features (L2:
    // the features), and times k_i (d_ij - m_i). Backward takes them again where they are missing: forward is
    // cheaper without them, forward and backward together are cheaper with them.
    void* row_sums;
};

// Bytes that contextual_forward and contextual_backward need, for a pool of so many threads.
//   row_sums: whether the statistics have them
size_t contextual_forward_workspace(const ContextualProblem& problem, int threads, bool row_sums);
size_t contextual_backward_workspace(const ContextualProblem& problem, int threads, bool row_sums,
                                     bool target_gradient);

// loss: (B,), double where the features are, else float. Every output is written whole.
void contextual_forward(const ContextualProblem& problem, const Features& source, const Features& target,
                        void* loss, const ContextualStatistics& statistics, void* workspace,
                        const Pool& pool);

// Gradients of both feature maps, in their type. Either may be null. The caller has zeroed their memory: rows
// without a gradient and channels that are not selected are not written.
//   loss_gradient: (B,), upstream of the loss; null: 0.
//   log_similarity_gradient: (B, Ny), upstream of v_j; null: 0.
// Both of the type of the loss.
void contextual_backward(const ContextualProblem& problem, const Features& source, const Features& target,
                         const ContextualStatistics& statistics, const void* loss_gradient,
                         const void* log_similarity_gradient, const Gradient& source_gradient,
                         const Gradient& target_gradient, void* workspace, const Pool& pool);

}  // namespace pe
