// The contextual loss on CUDA: sums over columns of weights times features, for the rows of a warp: O += W Y,
// as attention has it. The weights take the places of a tile's distances (contextual_cuda_tiles.h).
#pragma once

#include "contextual_cuda_tiles.h"

namespace pe::cuda {

// kChunks: how many chunks of channels one block has the sums of.

// On tensor cores; weights are at most 1 in magnitude and are split as features are, but for the scale.
template <bool kHighest>
struct TensorSums {
    using T = float;
    static constexpr int kChunks = 2;
    static constexpr int kPad = TensorTiles<kHighest, false>::kPad;
    static constexpr int kMostTiles = Sample<float>::kHalfWidth / 8;
    static size_t shared_bytes(int) { return 0; }

    uint32_t weights[kHighest ? 2 : 1][kColumns / 16][4];
    float sums[kChunks][kMostTiles][4];

    __device__ void clear() {
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
            for (int n = 0; n < kMostTiles; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) sums[chunk][n][e] = 0;
            }
        }
    }

    // The accumulators of a product are the left operand of the next.
    __device__ void take(const Tile<float>& tile, unsigned char*) {
#pragma unroll
        for (int k = 0; k < kColumns / 16; ++k) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const float first = tile[2 * k + r / 2][r % 2 * 2],
                            second = tile[2 * k + r / 2][r % 2 * 2 + 1];
                const Half a = to_half(first), b = to_half(second);
                weights[0][k][r] = uint32_t{a.bits} | uint32_t{b.bits} << 16;
                if constexpr (kHighest) {
                    weights[1][k][r] = uint32_t{to_half(first - to_float(a)).bits} |
                                       uint32_t{to_half(second - to_float(b)).bits} << 16;
                }
            }
        }
    }

    template <int kChunk>
    __device__ void add(const unsigned char* columns, int width, const unsigned char*) {
        const int lane = int(threadIdx.x) % 32, stride = width + kPad;
        const auto* b = reinterpret_cast<const uint16_t*>(columns) + lane % 16 * stride + lane / 16 * 8;
#pragma unroll
        for (int pair = 0; pair < kMostTiles / 2; ++pair) {
            if (pair * 16 >= width) break;
            // Sums of one tile of columns: few, so that what tensor cores cut off does not add up.
            float main[2][4] = {}, rest[2][4] = {};
#pragma unroll
            for (int k = 0; k < kColumns / 16; ++k) {
                uint32_t high[4], low[4];
                ldmatrix_x4_trans(high, b + k * 16 * stride + pair * 16);
                if constexpr (kHighest) ldmatrix_x4_trans(low, b + (kColumns + k * 16) * stride + pair * 16);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const uint32_t h[2] = {high[2 * half], high[2 * half + 1]};
                    mma_f16(main[half], weights[0][k], h, main[half]);
                    if constexpr (kHighest) {
                        const uint32_t l[2] = {low[2 * half], low[2 * half + 1]};
                        mma_f16(main[half], weights[1][k], h, main[half]);
                        mma_f16(rest[half], weights[0][k], l, rest[half]);
                    }
                }
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    sums[kChunk][2 * pair + half][e] += fmaf(rest[half][e], 1 / kResidueScale, main[half][e]);
                }
            }
        }
    }

    // body(row of the warp, channel of the chunk, sum)
    template <int kChunk, typename Body>
    __device__ void each(int width, const Body& body) const {
#pragma unroll
        for (int n = 0; n < kMostTiles; ++n) {
            if (n * 8 >= width) break;
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                body(lane_row() + e / 2 * 8, 8 * n + lane_column() + e % 2, sums[kChunk][n][e]);
            }
        }
    }
};

// By multiplication and addition: lanes are channels, the weights pass through shared memory.
template <typename T_>
struct PlainSums {
    using T = T_;
    static constexpr int kChunks = 2;
    static constexpr int kPad = DifferenceTiles<T>::kPad;
    static constexpr int kWeightStride = kColumns + kPad;
    static size_t shared_bytes(int warps) { return size_t(warps) * kWarpRows * kWeightStride * sizeof(T); }

    T sums[kChunks][kWarpRows];

    __device__ void clear() {
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
            for (int r = 0; r < kWarpRows; ++r) sums[chunk][r] = 0;
        }
    }

    // Between two tiles the block has waited: the last weights are read.
    __device__ void take(const Tile<T>& tile, unsigned char* shared) {
        T* out = own(shared);
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                out[(lane_row() + e / 2 * 8) * kWeightStride + 8 * n + lane_column() + e % 2] = tile[n][e];
            }
        }
        __syncwarp();
    }

    template <int kChunk>
    __device__ void add(const unsigned char* columns, int width, unsigned char* shared) {
        const int lane = int(threadIdx.x) % 32;
        if (lane >= width) return;
        const T* weights = own(shared);
        const T* values = reinterpret_cast<const T*>(columns) + lane;
        T part[kWarpRows] = {};
        for (int j = 0; j < kColumns; ++j) {
            const T value = values[j * (width + kPad)];
#pragma unroll
            for (int r = 0; r < kWarpRows; ++r) part[r] = fma(weights[r * kWeightStride + j], value, part[r]);
        }
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r) sums[kChunk][r] += part[r];
    }

    template <int kChunk, typename Body>
    __device__ void each(int width, const Body& body) const {
        const int lane = int(threadIdx.x) % 32;
        if (lane >= width) return;
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r) body(r, lane, sums[kChunk][r]);
    }

  private:
    __device__ static T* own(unsigned char* shared) {
        return reinterpret_cast<T*>(shared) + int(threadIdx.x) / 32 * kWarpRows * kWeightStride;
    }
};

// Of passes that add up nothing.
struct NoSums {
    static constexpr int kChunks = 0;
    static size_t shared_bytes(int) { return 0; }
};

}  // namespace pe::cuda
