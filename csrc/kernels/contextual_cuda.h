// The contextual loss on CUDA devices: contextual.h says what is computed, and everything there holds here.
//
// Pointers to features, gradients, outputs, statistics and the workspace are memory of the current device;
// Channels are arrays of the host, which a call has read when it returns. Calls start kernels on the given
// stream (a cudaStream_t) and wait for nothing, so that they can be captured in a CUDA graph. Results have
// the same bits each time on one kind of device.
#pragma once

#include "contextual.h"

namespace pe {

// Alignment, in bytes, of a workspace on a device.
constexpr size_t kCudaAlignment = 256;

// Bytes that the calls below need on the current device.
size_t contextual_forward_cuda_workspace(const ContextualProblem& problem);
size_t contextual_backward_cuda_workspace(const ContextualProblem& problem, bool target_gradient);

// Both return null, or what CUDA said of the first thing that went wrong. statistics.row_sums must be null:
// backward takes these sums itself, of the winning rows alone.
const char* contextual_forward_cuda(const ContextualProblem& problem, const Features& source,
                                    const Features& target, void* loss,
                                    const ContextualStatistics& statistics, void* workspace, void* stream);

const char* contextual_backward_cuda(const ContextualProblem& problem, const Features& source,
                                     const Features& target, const ContextualStatistics& statistics,
                                     const void* loss_gradient, const void* log_similarity_gradient,
                                     const Gradient& source_gradient, const Gradient& target_gradient,
                                     void* workspace, void* stream);

}  // namespace pe
