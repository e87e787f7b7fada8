// The channel distance on CUDA devices: channel_distance.h says what is computed, and everything there holds
// here.
//
// Pointers to features, gradients, outputs and the workspace are memory of the current device; channels,
// weights and linear are arrays of the host, which a call has read when it returns. Calls start kernels on
// the given stream (a cudaStream_t) and wait for nothing, so that they can be captured in a CUDA graph.
// Results have the same bits each time, and for a sample alone or in a batch.
#pragma once

#include "channel_distance.h"

namespace pe {

// Bytes that the calls below need, aligned to 256.
size_t channel_distance_forward_cuda_workspace(const ChannelDistanceProblem& problem);
size_t channel_distance_backward_cuda_workspace(const ChannelDistanceProblem& problem);

// Both return null, or what CUDA said of the first thing that went wrong.
const char* channel_distance_forward_cuda(const ChannelDistanceProblem& problem, const Features& first,
                                          const Features& second, void* distance, void* map, void* workspace,
                                          void* stream);

const char* channel_distance_backward_cuda(const ChannelDistanceProblem& problem, const Features& first,
                                           const Features& second, const void* distance_gradient,
                                           const void* map_gradient, const Gradient& first_gradient,
                                           const Gradient& second_gradient, void* workspace, void* stream);

}  // namespace pe
