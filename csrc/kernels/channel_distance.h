// Distances of two feature maps of one shape, averaged over positions, with their maps.
//
//   kSquared (Tariq et al., ECCV 2020, Eq. 1):  map_p = mean_c (w_c (f_cp - g_cp))^2
//   kUnit (LPIPS; Zhang et al., CVPR 2018, Eq. 1):  map_p = sum_c l_c (f_cp / |f_p| - g_cp / |g_p|)^2
//
// over the selected channels, |f_p| >= 1e-10. One pass over both maps; nothing of their size is stored.
// NaN and infinities go through to the result, as arithmetic has it. Where |f|^2 or |g|^2 overflows, kUnit has
// no length to divide by and gives NaN.
#pragma once

#include "common.h"

namespace pe {

enum class DistanceForm : int32_t { kSquared, kUnit };

struct ChannelDistanceProblem {
    int64_t batch;
    int64_t height, width;
    Channels channels;  // weights: w_c of kSquared; null for kUnit
    Type type;
    DistanceForm form;
    const double* linear;  // l_c >= 0 of kUnit, one per selected channel; null: 1

    int64_t positions() const { return height * width; }
};

size_t channel_distance_forward_workspace(const ChannelDistanceProblem& problem, int threads);
size_t channel_distance_backward_workspace(const ChannelDistanceProblem& problem, int threads);

// distance: (B,); map: (B, H W), or null. Both double where the features are, else float.
void channel_distance_forward(const ChannelDistanceProblem& problem, const Features& first,
                              const Features& second, void* distance, void* map, void* workspace,
                              const Pool& pool);

// Gradients in the features' type. Either may be null. The caller has zeroed their memory: channels that are
// not selected are not written.
//   distance_gradient: (B,); map_gradient: (B, H W); either may be null: 0. Of the type of the distance.
void channel_distance_backward(const ChannelDistanceProblem& problem, const Features& first,
                               const Features& second, const void* distance_gradient,
                               const void* map_gradient, const Gradient& first_gradient,
                               const Gradient& second_gradient, void* workspace, const Pool& pool);

}  // namespace pe
