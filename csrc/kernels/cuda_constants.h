// Channels, which callers bring in host memory, on the GPU. They travel as arguments of a kernel: a copy from
// pageable memory would have to be waited for, and would be lost from a CUDA graph.
#pragma once

#include "common.h"
#include "cuda_arena.h"
#include "cuda_language.h"

namespace pe::cuda {

// One of each per selected channel: the identity and 1 where the caller gave none.
struct DeviceChannels {
    const int32_t* indices;
    const double* weights;
    const float* single_weights;
};

// An argument of a kernel: at most 4 KiB.
struct ChannelPiece {
    static constexpr int kSize = 256;
    int32_t first, count;
    int32_t indices[kSize];
    double weights[kSize];
};

namespace {

__global__ void write_channels(ChannelPiece piece, int32_t* indices, double* weights, float* single_weights) {
    const int k = int(threadIdx.x);
    if (k >= piece.count) return;
    indices[piece.first + k] = piece.indices[k];
    weights[piece.first + k] = piece.weights[k];
    single_weights[piece.first + k] = float(piece.weights[k]);
}

}  // namespace

inline size_t device_channels_bytes(int64_t count) {
    Arena arena(nullptr);
    arena.take<int32_t>(count);
    arena.take<double>(count);
    arena.take<float>(count);
    return arena.used();
}

inline DeviceChannels stage_channels(Launcher& launcher, const Channels& channels, void* memory) {
    Arena arena(memory);
    int32_t* indices = arena.take<int32_t>(channels.count);
    double* weights = arena.take<double>(channels.count);
    float* single_weights = arena.take<float>(channels.count);
    for (int64_t first = 0; first < channels.count; first += ChannelPiece::kSize) {
        ChannelPiece piece{};
        const int64_t left = channels.count - first;
        piece.first = int32_t(first);
        piece.count = int32_t(left < ChannelPiece::kSize ? left : ChannelPiece::kSize);
        for (int32_t k = 0; k < piece.count; ++k) {
            piece.indices[k] = int32_t(channels.indices == nullptr ? first + k : channels.indices[first + k]);
            piece.weights[k] = channels.weights == nullptr ? 1 : channels.weights[first + k];
        }
        launcher.launch(write_channels, dim3(1), ChannelPiece::kSize, 0, piece, indices, weights,
                        single_weights);
    }
    return {indices, weights, single_weights};
}

}  // namespace pe::cuda
