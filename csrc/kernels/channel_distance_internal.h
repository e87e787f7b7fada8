// One call of channel_distance, cut into tasks of a sample and a block of its positions.
#pragma once

#include "channel_distance.h"

namespace pe {

// Most positions of a block: tasks keep a few values per position on the stack.
constexpr int64_t kMaxBlock = 1024;

struct ChannelDistanceJob {
    ChannelDistanceProblem problem;
    Features first, second;
    int64_t block;     // positions of every block but the last
    int64_t blocks;    // of a sample
    bool interleaved;  // channels lie next to each other, in both inputs and in the gradients
    bool contiguous;   // else: positions do

    // Of interleaved features: vectors of neighbouring channels that cover the selected ones. Each has an
    // offset, and for each lane a factor, and all bits set where the lane is selected, else none.
    int64_t span;  // 1 + the highest selected channel
    int64_t groups;
    int64_t* group_offsets;
    void* group_factors;
    void* group_masks;

    // Of forward.
    void* map;
    double* sums;  // (batch, blocks)

    // Of backward.
    const void* distance_gradient;
    const void* map_gradient;
    Gradient first_gradient, second_gradient;
};

// What is compiled once per instruction set. The tasks are bodies for Pool::run with the job as argument.
struct ChannelDistanceSet {
    // Fills the groups of interleaved features.
    void (*prepare)(ChannelDistanceJob& job);
    void (*forward)(void* job, int task);
    void (*backward)(void* job, int task);
};

namespace baseline {
extern const ChannelDistanceSet channel_distance_set;
}
namespace avx2 {
extern const ChannelDistanceSet channel_distance_set;
}
namespace avx512 {
extern const ChannelDistanceSet channel_distance_set;
}

}  // namespace pe
