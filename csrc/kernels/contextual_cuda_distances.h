// The contextual loss on CUDA: from the products of a tile to its distances.
#pragma once

#include "contextual_cuda_tiles.h"

namespace pe::cuda {

// A pass, as the kernel gets it. Grid: row tiles, splits of the columns times groups of channels, samples.
template <typename Tiles>
struct Stream {
    using T = typename Tiles::T;
    Operand<typename Tiles::Element, T> rows, columns;
    Chunks chunks;
    int32_t splits, groups;
    bool resident;         // all chunks of the rows lie in shared memory throughout
    T scale;               // of sums of squared differences
    const int32_t* skip;   // [batch]: samples to leave out; or null
};

namespace {

// Where a lane's part of a tile is: `row` is its first row, `column` its first column, among all.
template <typename Tiles>
struct TilePlace {
    using T = typename Tiles::T;
    const Stream<Tiles>& stream;
    int sample, row, row_count, column, column_count;

    __device__ int row_of(int e) const { return row + e / 2 * 8; }
    __device__ int column_of(int n, int e) const { return column + 8 * n + e % 2; }
    __device__ bool inside(int n, int e) const { return row_of(e) < row_count && column_of(n, e) < column_count; }
    // Positions, of the first row and column where there is none.
    __device__ int row_position(int e) const {
        return stream.rows.position(sample, row_of(e) < row_count ? row_of(e) : 0);
    }
    __device__ int column_position(int n, int e) const {
        return stream.columns.position(sample, column_of(n, e) < column_count ? column_of(n, e) : 0);
    }
    __device__ int64_t row_index(int e) const { return int64_t(sample) * stream.rows.count + row_position(e); }
    __device__ int64_t column_index(int n, int e) const {
        return int64_t(sample) * stream.columns.count + column_position(n, e);
    }
};

// Takes the distances below their threshold again: the product left too few of their digits. By a whole warp,
// all of which take one after another.
template <typename Tiles, typename Pass>
__device__ void refine(const TilePlace<Tiles>& place, const Pass& pass, const typename Pass::State& state,
                       Tile<float>& tile) {
    if (!__any_sync(kWholeWarp, int(pass.refines(state)))) return;
    unsigned need = 0;  // a bit for each element
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if (place.inside(n, e) &&
                tile[n][e] < pass.threshold(state, e / 2, place.sample, place.column_of(n, e), tile[n][e])) {
                need |= 1u << (4 * n + e);
            }
        }
    }
    for (;;) {
        const unsigned lanes = __ballot_sync(kWholeWarp, int(need != 0));
        if (lanes == 0) return;
        const int lane = __ffs(int(lanes)) - 1;
        const int element = __ffs(int(need)) - 1, n = element / 4, e = element % 4;
        long long row = 0, column = 0;
        if (need != 0) {
            row = place.row_index(e);
            column = place.column_index(n, e);
        }
        const float exact = Tiles::exact(place.stream.rows, __shfl_sync(kWholeWarp, row, lane),
                                         place.stream.columns, __shfl_sync(kWholeWarp, column, lane),
                                         place.stream.chunks);
        if (int(threadIdx.x) % 32 != lane) continue;
        need &= need - 1;
        // The lengths that short features lack are no part of the difference.
        const float distance = exact + place.stream.rows.offset[row] + place.stream.columns.offset[column];
#pragma unroll
        for (int other = 0; other < kColumnTiles; ++other) {
#pragma unroll
            for (int of_tile = 0; of_tile < 4; ++of_tile) {
                if (4 * other + of_tile == element) tile[other][of_tile] = distance;
            }
        }
    }
}

// Offsets, where they are not in the product, and the spatial term. No distance is below 0.
template <typename Tiles>
__device__ void complete(const TilePlace<Tiles>& place, Tile<typename Tiles::T>& tile) {
    using T = typename Tiles::T;
    const auto& rows = place.stream.rows;
    const auto& columns = place.stream.columns;
    const bool spatial = columns.place_y != nullptr;
    T offset[2] = {0, 0}, y[2] = {0, 0}, x[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if constexpr (!Tiles::kTensor) offset[half] = rows.offset[place.row_index(2 * half)];
        if (spatial) {
            y[half] = rows.place_y[place.row_position(2 * half)];
            x[half] = rows.place_x[place.row_position(2 * half)];
        }
    }
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            T more = 0, column_y = 0, column_x = 0;
            if constexpr (!Tiles::kTensor) more = columns.offset[place.column_index(n, e)];
            if (spatial) {
                column_y = columns.place_y[place.column_position(n, e)];
                column_x = columns.place_x[place.column_position(n, e)];
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                T distance = tile[n][2 * half + e];
                if constexpr (!Tiles::kTensor) distance += offset[half] + more;
                distance = distance > 0 ? distance : T(0);
                const T dy = y[half] - column_y, dx = x[half] - column_x;
                tile[n][2 * half + e] = spatial ? fma(dy, dy, fma(dx, dx, distance)) : distance;
            }
        }
    }
}

}  // namespace

}  // namespace pe::cuda
