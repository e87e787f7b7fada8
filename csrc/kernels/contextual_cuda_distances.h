// The contextual loss on CUDA: from the products of a tile to its distances.
#pragma once

#include "contextual_cuda_tiles.h"

namespace pe::cuda {

// A pass, as the kernel gets it. Grid: row tiles, splits of the columns times groups of channels, samples.
template <typename Tiles_, bool kRowsIndexed, bool kColumnsIndexed>
struct Stream {
    using Tiles = Tiles_;
    using T = typename Tiles::T;
    using Element = typename Tiles::Element;
    Operand<Element, T, kRowsIndexed> rows;
    Operand<Element, T, kColumnsIndexed> columns;
    Chunks chunks;
    const int32_t* skip;  // [batch]: samples to leave out
    T scale;              // of sums of squared differences
    int32_t splits = 1, groups = 1;
    bool resident = true;  // all chunks of the rows lie in shared memory throughout

    // index: of the positions of the indexed side
    Stream(const Sample<T>& sample, const Side<T>& rows_, const Side<T>& columns_, const int32_t* skip_,
           const int32_t* index = nullptr, const int32_t* counts = nullptr, int32_t capacity = 0)
        : rows{Tiles::data(rows_), rows_.offset, rows_.place_y, rows_.place_x,
               rows_.count,        index,        counts,        capacity},
          columns{Tiles::data(columns_), columns_.offset, columns_.place_y, columns_.place_x,
                  columns_.count,        index,           counts,           capacity},
          chunks(Tiles::chunks(sample)),
          skip(skip_),
          scale(T(sample.differences ? 1 : 0.5)) {}
};

namespace {

// Where a lane's part of a tile is: `row` is its first row, `column` its first column, among all.
template <typename Stream>
struct TilePlace {
    const Stream& stream;
    int sample, row, row_count, column, column_count;

    __device__ int row_of(int e) const { return row + e / 2 * 8; }
    __device__ int column_of(int n, int e) const { return column + 8 * n + e % 2; }
    __device__ bool inside(int n, int e) const {
        return row_of(e) < row_count && column_of(n, e) < column_count;
    }
    // Positions, of the first row and column where there is none.
    __device__ int row_position(int e) const {
        return stream.rows.position(sample, row_of(e) < row_count ? row_of(e) : 0);
    }
    __device__ int column_position(int n, int e) const {
        return stream.columns.position(sample, column_of(n, e) < column_count ? column_of(n, e) : 0);
    }
    __device__ int64_t row_index(int e) const {
        return int64_t(sample) * stream.rows.count + row_position(e);
    }
    __device__ int64_t column_index(int n, int e) const {
        return int64_t(sample) * stream.columns.count + column_position(n, e);
    }
};

// Takes the distances below their threshold again: the product left too few of their digits. By a whole warp,
// all of which take one after another.
template <typename Stream, typename Pass>
__device__ void refine(const TilePlace<Stream>& place, const Pass& pass, const typename Pass::State& state,
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
        const int elements = kHalves * place.stream.chunks.depth();
        const float exact =
            Stream::Tiles::exact(place.stream.rows.data + __shfl_sync(kWholeWarp, row, lane) * elements,
                                 place.stream.columns.data + __shfl_sync(kWholeWarp, column, lane) * elements,
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
template <typename Stream>
__device__ void complete(const TilePlace<Stream>& place, Tile<typename Stream::T>& tile) {
    using T = typename Stream::T;
    const auto& rows = place.stream.rows;
    const auto& columns = place.stream.columns;
    T offset[2] = {0, 0};
    if constexpr (!Stream::Tiles::kTensor) {
#pragma unroll
        for (int half = 0; half < 2; ++half) offset[half] = rows.offset[place.row_index(2 * half)];
    }
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            T more = 0;
            if constexpr (!Stream::Tiles::kTensor) more = columns.offset[place.column_index(n, e)];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                T distance = tile[n][2 * half + e];
                if constexpr (!Stream::Tiles::kTensor) distance += offset[half] + more;
                tile[n][2 * half + e] = distance > 0 ? distance : T(0);
            }
        }
    }
    if (columns.place_y == nullptr) return;
    T y[2], x[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        y[half] = rows.place_y[place.row_position(2 * half)];
        x[half] = rows.place_x[place.row_position(2 * half)];
    }
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int column = place.column_position(n, e);
            const T column_y = columns.place_y[column], column_x = columns.place_x[column];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const T dy = y[half] - column_y, dx = x[half] - column_x;
                tile[n][2 * half + e] = fma(dy, dy, fma(dx, dx, tile[n][2 * half + e]));
            }
        }
    }
}

// Shows the pass every distance; its weights take their places.
// kWhole: no columns beyond the last, which weigh nothing.
template <bool kWhole, typename Stream, typename Pass>
__device__ void visit(const TilePlace<Stream>& place, const Pass& pass, typename Pass::State& state,
                      Tile<typename Stream::T>& tile) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int column = place.column_of(n, e);
            if (!kWhole && column >= place.column_count) {
                tile[n][e] = 0;
                continue;
            }
            tile[n][e] = pass.visit(state, e / 2, place.sample, column,
                                    place.stream.columns.position(place.sample, column), tile[n][e]);
        }
    }
}

}  // namespace

}  // namespace pe::cuda
