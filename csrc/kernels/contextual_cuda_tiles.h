// The contextual loss on CUDA: distances of 16 rows of a warp to 64 columns, on tensor cores or as sums of
// squared differences.
//
// Who holds what, in both and in contextual_cuda_sums.h: lane l of a warp has rows l / 4 and l / 4 + 8 of its
// 16, and of each eight columns the two from 2 (l % 4) on. That is the accumulator of mma.m16n8k16:
// tile[n][0], [1] are the first row and columns 8 n + 2 (l % 4), and one further; tile[n][2], [3] the second
// row.
#pragma once

#include "contextual_cuda_sample.h"

namespace pe::cuda {

constexpr int kColumns = 64;   // of a tile
constexpr int kWarpRows = 16;  // of a tile, for each warp
constexpr int kColumnTiles = kColumns / 8;

// One side of a pass over all pairs.
// kIndexed: some positions of each sample alone.
template <typename E, typename T, bool kIndexed>
struct Operand {
    const E* data;     // [batch][count][...]
    const T* offset;   // [batch][count]
    const T* place_y;  // [count], and place_x; or null
    const T* place_x;
    int32_t count;          // positions of a sample
    const int32_t* index;   // [batch][capacity]: which positions, ascending
    const int32_t* counts;  // [batch]: how many these are
    int32_t capacity;

    __device__ int32_t size(int sample) const {
        if constexpr (kIndexed) return counts[sample];
        return count;
    }
    // Of the n-th one.
    __device__ int32_t position(int sample, int n) const {
        if constexpr (kIndexed) return index[int64_t(sample) * capacity + n];
        return n;
    }
};

// What a lane has of a warp's 16 x 64.
template <typename T>
using Tile = T[kColumnTiles][4];

__device__ __forceinline__ int lane_row() { return int(threadIdx.x) % 32 / 4; }
__device__ __forceinline__ int lane_column() { return int(threadIdx.x) % 4 * 2; }

// Which part of rows a thread copies to shared memory, in pieces of sixteen bytes: found once, as it takes
// divisions.
struct Copier {
    int piece, row, step;

    __device__ explicit Copier(int pieces)
        : piece(int(threadIdx.x) % pieces), row(int(threadIdx.x) / pieces), step(int(blockDim.x) / pieces) {
        if (row >= step) row = 1 << 30;  // left over
    }
};

// Products on tensor cores of features x = a + b / 2048 with halves a and b: 22 bits of x.
// kHighest: x y = a a' + (a b' + b a') / 2048, three products, accurate as float32 is; else a a' alone.
// kSwap: the rows are the target. Then the same sums are taken in the same order as with rows of the source.
template <bool kHighest, bool kSwap>
struct TensorTiles {
    using T = float;
    using Element = uint16_t;
    static constexpr int kPlanes = kHighest ? 2 : 1;
    static constexpr bool kTensor = true;
    static constexpr int kMostWarps = 8;  // of a block
    static constexpr bool kRefines = kHighest;
    // Eight halves more than a row needs: rows of a matrix then lie in different banks.
    static constexpr int kPad = 8;

    static const uint16_t* data(const Side<float>& side) { return side.halves; }
    static Chunks chunks(const Sample<float>& sample) { return sample.half_chunks; }
    __host__ __device__ static size_t row_bytes(int width) { return size_t(kPlanes) * (width + kPad) * 2; }

    __device__ static Copier copier(int width) { return Copier(width / 8); }
    // One chunk of `rows` positions from `first` on, zeros beyond the last: [plane][row][width + kPad].
    template <bool kIndexed>
    __device__ static void load(unsigned char* shared, const Operand<uint16_t, float, kIndexed>& operand,
                                int sample, int first, int rows, Chunks chunks, int chunk,
                                const Copier& copier) {
        auto* out = reinterpret_cast<uint16_t*>(shared) + copier.piece * 8;
        const int size = operand.size(sample), stride = chunks.width + kPad;
        for (int row = copier.row; row < rows; row += copier.step) {
            const bool inside = first + row < size;
            const int64_t position =
                int64_t(sample) * operand.count + (inside ? operand.position(sample, first + row) : 0);
            const uint16_t* in =
                operand.data + (position * chunks.count + chunk) * kHalves * chunks.width + copier.piece * 8;
#pragma unroll
            for (int plane = 0; plane < kPlanes; ++plane) {
                copy_async16(out + (plane * rows + row) * stride, in + plane * chunks.width, inside);
            }
        }
    }

    float main[kColumnTiles][4];

    __device__ void clear() {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) main[n][e] = 0;
        }
    }

    // Adds the products of one chunk.
    //   row_count: rows of the block in `rows`; first_row: of this warp
    __device__ void add(const unsigned char* rows, int row_count, int first_row, const unsigned char* columns,
                        int width) {
        const int lane = int(threadIdx.x) % 32, stride = width + kPad;
        const auto* a =
            reinterpret_cast<const uint16_t*>(rows) + (first_row + lane % 16) * stride + lane / 16 * 8;
        const auto* b = reinterpret_cast<const uint16_t*>(columns) + (lane % 8 + lane / 16 * 8) * stride +
                        lane / 8 % 2 * 8;
        float rest[kColumnTiles][4];
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) rest[n][e] = 0;
        }
        for (int k = 0; k < width; k += 16) {
            uint32_t row[kPlanes][4];
#pragma unroll
            for (int plane = 0; plane < kPlanes; ++plane)
                ldmatrix_x4(row[plane], a + plane * row_count * stride + k);
#pragma unroll
            for (int n = 0; n < kColumnTiles; n += 2) {
                uint32_t column[kPlanes][4];
#pragma unroll
                for (int plane = 0; plane < kPlanes; ++plane) {
                    ldmatrix_x4(column[plane], b + (plane * kColumns + n * 8) * stride + k);
                }
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    multiply(main[n + half], rest[n + half], row, column, half);
            }
        }
        if constexpr (kHighest) {
#pragma unroll
            for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) main[n][e] = fmaf(rest[n][e], 1 / kResidueScale, main[n][e]);
            }
        }
    }

    // Distances, before offsets and the spatial term.
    __device__ void distances(Tile<float>& tile, float) const {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) tile[n][e] = 1 - main[n][e];
        }
    }

    // (|X|^2 + |Y|^2) / 2 - X Y as |X - Y|^2 / 2, accurate relative to itself. By a whole warp, for one pair.
    //   row, column: where their features begin
    __device__ static float exact(const uint16_t* row, const uint16_t* column, Chunks chunks) {
        const int lane = int(threadIdx.x) % 32;
        float sum = 0;
        for (int c = lane; c < chunks.depth(); c += 32) {
            const int at = c / chunks.width * kHalves * chunks.width + c % chunks.width;
            float difference = 0;
#pragma unroll
            for (int n = kHalves - 1; n >= 0; --n) {
                const float part = to_float(Half{row[at + n * chunks.width]}) -
                                   to_float(Half{column[at + n * chunks.width]});
                difference = fmaf(difference, 1 / kResidueScale, part);
            }
            sum = fmaf(difference, difference, sum);
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
        return 0.5f * sum;
    }

  private:
    // Tensor cores cut off what float32 cannot hold of a sum: the products that count are therefore added up
    // sixteen channels at a time, and these sums by additions that round.
    __device__ static __forceinline__ void multiply(float (&main)[4], float (&rest)[4],
                                                    const uint32_t (&row)[kPlanes][4],
                                                    const uint32_t (&column)[kPlanes][4], int half) {
        const uint32_t high[2] = {column[0][2 * half], column[0][2 * half + 1]};
        const float zero[4] = {0, 0, 0, 0};
        float sum[4];
        mma_f16(sum, row[0], high, zero);
#pragma unroll
        for (int e = 0; e < 4; ++e) main[e] += sum[e];
        if constexpr (kHighest) {
            const uint32_t low[2] = {column[1][2 * half], column[1][2 * half + 1]};
            if constexpr (kSwap) {
                mma_f16(rest, row[1], high, rest);
                mma_f16(rest, row[0], low, rest);
            } else {
                mma_f16(rest, row[0], low, rest);
                mma_f16(rest, row[1], high, rest);
            }
        }
    }
};

// Sums of squared differences, in float or double: L2, and whatever else the above cannot.
template <typename T_>
struct DifferenceTiles {
    using T = T_;
    using Element = T;
    static constexpr bool kTensor = false;
    static constexpr int kMostWarps = 4;
    static constexpr bool kRefines = false;
    static constexpr int kVector = 16 / sizeof(T);
    static constexpr int kPad = kVector;

    static const T* data(const Side<T>& side) { return side.values; }
    static Chunks chunks(const Sample<T>& sample) { return sample.value_chunks; }
    __host__ __device__ static size_t row_bytes(int width) { return size_t(width + kPad) * sizeof(T); }

    __device__ static Copier copier(int width) { return Copier(width / kVector); }
    template <bool kIndexed>
    __device__ static void load(unsigned char* shared, const Operand<T, T, kIndexed>& operand, int sample,
                                int first, int rows, Chunks chunks, int chunk, const Copier& copier) {
        auto* out = reinterpret_cast<T*>(shared) + copier.piece * kVector;
        const int size = operand.size(sample);
        for (int row = copier.row; row < rows; row += copier.step) {
            const bool inside = first + row < size;
            const int64_t position =
                int64_t(sample) * operand.count + (inside ? operand.position(sample, first + row) : 0);
            copy_async16(
                out + row * (chunks.width + kPad),
                operand.data + (position * chunks.count + chunk) * chunks.width + copier.piece * kVector,
                inside);
        }
    }

    Tile<T> sums;

    __device__ void clear() {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[n][e] = 0;
        }
    }

    __device__ void add(const unsigned char* rows, int, int first_row, const unsigned char* columns,
                        int width) {
        const int stride = width + kPad;
        const T* a = reinterpret_cast<const T*>(rows) + (first_row + lane_row()) * stride;
        const T* b = reinterpret_cast<const T*>(columns) + lane_column() * stride;
        for (int k = 0; k < width; k += kVector) {
            T first[kVector], second[kVector];
            read(first, a + k);
            read(second, a + 8 * stride + k);
#pragma unroll
            for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    T column[kVector];
                    read(column, b + (8 * n + e) * stride + k);
#pragma unroll
                    for (int v = 0; v < kVector; ++v) {
                        const T d0 = first[v] - column[v], d1 = second[v] - column[v];
                        sums[n][e] = fma(d0, d0, sums[n][e]);
                        sums[n][2 + e] = fma(d1, d1, sums[n][2 + e]);
                    }
                }
            }
        }
    }

    // scale: 1/2 for the cosine distance, 1 for L2.
    __device__ void distances(Tile<T>& tile, T scale) const {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) tile[n][e] = scale * sums[n][e];
        }
    }

  private:
    // Sixteen bytes.
    __device__ static __forceinline__ void read(T (&out)[kVector], const T* shared) {
        if constexpr (sizeof(T) == 4) {
            const float4 v = *reinterpret_cast<const float4*>(shared);
            out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
        } else {
            const double2 v = *reinterpret_cast<const double2*>(shared);
            out[0] = v.x, out[1] = v.y;
        }
    }
};

}  // namespace pe::cuda
