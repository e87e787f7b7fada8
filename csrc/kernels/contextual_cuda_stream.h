// The contextual loss on CUDA: one pass over all pairs of positions. A block holds some rows, streams all
// columns past them, 64 at a time, and keeps what the pass wants of each row. No distance leaves the chip.
#pragma once

#include "contextual_cuda_distances.h"
#include "contextual_cuda_sums.h"

namespace pe::cuda {

// Where the parts of shared memory are.
template <typename Tiles>
struct SharedLayout {
    size_t rows, stage, weights, total;

    __host__ __device__ SharedLayout(Chunks chunks, bool resident, int warps, size_t weight_bytes) {
        const size_t chunk_rows = size_t(warps) * kWarpRows * Tiles::row_bytes(chunks.width);
        rows = resident ? size_t(chunks.count) * chunk_rows : 0;
        stage = size_t(kColumns) * Tiles::row_bytes(chunks.width) + (resident ? 0 : chunk_rows);
        weights = rows + 2 * stage;
        total = weights + weight_bytes;
    }
};

// Sums over columns take many registers.
template <typename Tiles, typename Sums>
constexpr int most_warps() {
    return Sums::kChunks > 0 && Tiles::kMostWarps > 4 ? 4 : Tiles::kMostWarps;
}

namespace {

// The pass. A Pass says what is done with distances, and its State is what a lane keeps meanwhile:
//   begin(state, sample, position, row, half): of this lane's two rows the one that `half` says
//   limits(state, tile): before a tile is looked at; where columns end, features and products are 0
//   refines(state): whether any distance may be below its threshold
//   threshold(state, half, sample, column, distance): distances below it are taken exactly
//   visit(state, half, sample, column, position, distance): each distance; what it returns is its weight
//   flush(state): after each tile
//   end(state, sample, split, row, size, group): once, for both rows
template <typename Stream, typename Sums, typename Pass>
__global__ void __launch_bounds__(32 * most_warps<typename Stream::Tiles, Sums>(), 2)
    stream_columns(Stream stream, Pass pass) {
    using Tiles = typename Stream::Tiles;
    using T = typename Stream::T;
    const int sample = int(blockIdx.z), warps = int(blockDim.x) / 32, warp = int(threadIdx.x) / 32;
    const int block_rows = warps * kWarpRows, first_row = int(blockIdx.x) * block_rows;
    const int row_count = stream.rows.size(sample), column_count = stream.columns.size(sample);
    if (first_row >= row_count || stream.skip[sample] != 0) return;
    const int split = int(blockIdx.y) % stream.splits, group = int(blockIdx.y) / stream.splits;
    const int tiles = (column_count + kColumns - 1) / kColumns;
    const int first_tile = int(int64_t(tiles) * split / stream.splits);
    const int last_tile = int(int64_t(tiles) * (split + 1) / stream.splits);

    // A tile takes a step for each chunk of its product, then one for each chunk of the sums, unless that
    // chunk is still there.
    const Chunks chunks = stream.chunks;
    const int first_sum = group * Sums::kChunks;
    const int sum_chunks =
        chunks.count - first_sum < Sums::kChunks ? chunks.count - first_sum : Sums::kChunks;
    const bool again = Sums::kChunks > 0 && chunks.count > 1;
    const int steps = chunks.count + (again ? sum_chunks : 0), all_steps = (last_tile - first_tile) * steps;

    unsigned char* const shared = dynamic_shared();
    const SharedLayout<Tiles> layout(chunks, stream.resident, warps, 0);
    const size_t chunk_rows = size_t(block_rows) * Tiles::row_bytes(chunks.width);
    const size_t column_bytes = size_t(kColumns) * Tiles::row_bytes(chunks.width);
    const Copier copier = Tiles::copier(chunks.width);
    // What step `part` of the tile at column `first` reads.
    const auto fetch = [&](unsigned char* stage, int part, int first) {
        const int chunk = part < chunks.count ? part : first_sum + part - chunks.count;
        Tiles::load(stage, stream.columns, sample, first, kColumns, chunks, chunk, copier);
        if (!stream.resident && part < chunks.count) {
            Tiles::load(stage + column_bytes, stream.rows, sample, first_row, block_rows, chunks, chunk,
                        copier);
        }
    };

    typename Pass::State state;
    const int own_row = first_row + warp * kWarpRows + lane_row();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = own_row + 8 * half;
        const bool valid = row < row_count;
        pass.begin(state, sample, valid ? stream.rows.position(sample, row) : 0, valid ? row : 0, half);
    }
    Sums sums;
    if constexpr (Sums::kChunks > 0) sums.clear();
    int part = 0, first = first_tile * kColumns;
    if (stream.resident && all_steps > 0) {
        for (int chunk = 0; chunk < chunks.count; ++chunk) {
            Tiles::load(shared + chunk * chunk_rows, stream.rows, sample, first_row, block_rows, chunks,
                        chunk, copier);
        }
    }
    if (all_steps > 0) fetch(shared + layout.rows, part, first);
    commit_copies();

    Tiles product;
    for (int step = 0; step < all_steps; ++step) {
        unsigned char* const stages = shared + layout.rows;
        unsigned char* const stage = stages + step % 2 * layout.stage;
        const bool last_part = part + 1 == steps;
        const int next_part = last_part ? 0 : part + 1, next_first = last_part ? first + kColumns : first;
        if (step + 1 < all_steps) fetch(stages + (step + 1) % 2 * layout.stage, next_part, next_first);
        commit_copies();
        wait_copies<1>();
        __syncthreads();
        if (part < chunks.count) {
            if (part == 0) product.clear();
            product.add(stream.resident ? shared + part * chunk_rows : stage + column_bytes, block_rows,
                        warp * kWarpRows, stage, chunks.width);
        }
        if (part == chunks.count - 1) {
            Tile<T> tile;
            product.distances(tile, stream.scale);
            const TilePlace<Stream> place{stream,      sample, own_row, row_count, first + lane_column(),
                                          column_count};
            pass.limits(state, tile);
            if constexpr (Tiles::kRefines) refine(place, pass, state, tile);
            complete(place, tile);
            if (first + kColumns <= column_count) {
                visit<true>(place, pass, state, tile);
            } else {
                visit<false>(place, pass, state, tile);
            }
            pass.flush(state);
            if constexpr (Sums::kChunks > 0) {
                sums.take(tile, shared + layout.weights);
                if (!again) sums.template add<0>(stage, chunks.width, shared + layout.weights);
            }
        } else if (part >= chunks.count) {
            if constexpr (Sums::kChunks > 0) {
                if (part == chunks.count) {
                    sums.template add<0>(stage, chunks.width, shared + layout.weights);
                } else {
                    sums.template add<1>(stage, chunks.width, shared + layout.weights);
                }
            }
        }
        __syncthreads();  // until all have read the stage, which the next but one step overwrites
        part = next_part;
        first = next_first;
    }
    pass.end(state, sample, split, own_row, row_count, group);
    if constexpr (Sums::kChunks > 0) {
        const auto write = [&](int chunk, int row, int channel, T sum) {
            const int at = first_row + warp * kWarpRows + row;
            const int c = (first_sum + chunk) * chunks.width + channel;
            if (at < row_count) pass.write(sample, split, at, c, sum);
        };
        sums.template each<0>(chunks.width, [&](int r, int c, T sum) { write(0, r, c, sum); });
        if (sum_chunks > 1) {
            sums.template each<1>(chunks.width, [&](int r, int c, T sum) { write(1, r, c, sum); });
        }
    }
}

}  // namespace

// How a pass is cut into blocks. The same for the size of the workspace and for the launch.
struct Shape {
    int warps, splits, groups;
    bool resident;
    size_t shared;

    template <typename Tiles, typename Sums>
    static Shape of(Launcher& launcher, Chunks chunks, int64_t rows, int64_t columns, int64_t batch) {
        Shape shape{most_warps<Tiles, Sums>(), 1, 1, true, 0};
        const size_t limit = launcher.shared_limit();
        const auto fit = [&](size_t available) {
            const SharedLayout<Tiles> layout(chunks, shape.resident, shape.warps,
                                             Sums::shared_bytes(shape.warps));
            shape.shared = layout.total;
            return layout.total <= available;
        };
        // Two blocks of eight warps, else of four, on a multiprocessor; then one; then rows are read again.
        if (!fit(limit / 2)) shape.warps = 4;
        if (!fit(limit)) shape.resident = false, fit(limit);
        if (Sums::kChunks > 0) shape.groups = int(ceil_div(chunks.count, Sums::kChunks));
        // Enough blocks to fill the device a few times over, so that the last ones matter little.
        const int64_t blocks = ceil_div(rows, int64_t(shape.warps) * kWarpRows) * shape.groups * batch;
        const int64_t wanted = ceil_div(8 * int64_t(launcher.multiprocessors()), blocks);
        const int64_t tiles = ceil_div(columns, kColumns);
        shape.splits = int(wanted < tiles ? wanted : tiles);
        if (shape.splits > kMostSplits) shape.splits = kMostSplits;
        return shape;
    }
    static constexpr int kMostSplits = 32;
};

template <typename Sums, typename Stream, typename Pass>
void launch_stream(Launcher& launcher, const Shape& shape, Stream stream, int64_t rows, int64_t batch,
                   const Pass& pass) {
    stream.splits = shape.splits;
    stream.groups = shape.groups;
    stream.resident = shape.resident;
    const dim3 grid(unsigned(ceil_div(rows, int64_t(shape.warps) * kWarpRows)),
                    unsigned(shape.splits * shape.groups), unsigned(batch));
    launcher.launch(stream_columns<Stream, Sums, Pass>, grid, shape.warps * 32, shape.shared, stream, pass);
}

}  // namespace pe::cuda
