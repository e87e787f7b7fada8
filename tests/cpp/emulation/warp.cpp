// What a warp does together.
#include <cmath>
#include <cstring>

#include "block.h"

namespace pe::cuda {
namespace emulation {
namespace {

void complete_shuffle(Warp& warp, unsigned mask) {
    uint64_t values[kLanes];
    for (unsigned lane = 0; lane < kLanes; ++lane) values[lane] = warp.lanes[lane].value;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        const unsigned source = warp.lanes[lane].source;
        if ((mask >> source & 1) == 0) {
            Block::current().fail("%s: lane %u asks lane %u, which is not in the mask %08x",
                                  warp.lanes[lane].operation, lane, source, mask);
        }
        warp.lanes[lane].value = values[source];
    }
}

void complete_ballot(Warp& warp, unsigned mask) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        if ((mask >> lane & 1) != 0 && warp.lanes[lane].value != 0) votes |= 1u << lane;
    }
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        if ((mask >> lane & 1) != 0) warp.lanes[lane].value = votes;
    }
}

// Lane 8 m + r has the address of row r of matrix m. Lane l takes, from each matrix, elements 2 (l % 4) and
// the next of row l / 4; transposed, of column l / 4.
template <int kMatrices, bool kTransposed>
void complete_load(Warp& warp, unsigned) {
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
        uint16_t elements[8][8];
        for (int row = 0; row < 8; ++row) {
            std::memcpy(elements[row], warp.lanes[8 * matrix + row].row, sizeof elements[row]);
        }
        for (unsigned lane = 0; lane < kLanes; ++lane) {
            const unsigned major = lane / 4, minor = lane % 4 * 2;
            const uint32_t low = kTransposed ? elements[minor][major] : elements[major][minor];
            const uint32_t high = kTransposed ? elements[minor + 1][major] : elements[major][minor + 1];
            warp.lanes[lane].result[matrix] = high << 16 | low;
        }
    }
}

// All halves as doubles.
const double* half_values() {
    static const double* const table = [] {
        double* values = new double[1 << 16];
        for (uint32_t bits = 0; bits < 1 << 16; ++bits) values[bits] = to_float(Half{uint16_t(bits)});
        return values;
    }();
    return table;
}

float towards_zero(double x) {
    const float nearest = float(x);
    return std::fabs(double(nearest)) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

// Fragments of mma.m16n8k16, group = lane / 4, pair = lane % 4 * 2. Register r of a has elements
// (group + 8 (r % 2), pair + 8 (r / 2)) and the next of the row; of b (pair + 8 r, group) and the next of the
// column; c and d have (group + 8 (r / 2), pair + r % 2).
void complete_mma(Warp& warp, unsigned) {
    constexpr int kRows = 16, kColumns = 8, kDepth = 16;
    const double* value = half_values();
    double a[kRows][kDepth], b[kDepth][kColumns];
    for (unsigned index = 0; index < kLanes; ++index) {
        const Lane& lane = warp.lanes[index];
        const unsigned group = index / 4, pair = index % 4 * 2;
        for (unsigned r = 0; r < 4; ++r) {
            double* place = &a[group + 8 * (r % 2)][pair + 8 * (r / 2)];
            place[0] = value[lane.a[r] & 0xffff];
            place[1] = value[lane.a[r] >> 16];
        }
        for (unsigned r = 0; r < 2; ++r) {
            b[pair + 8 * r][group] = value[lane.b[r] & 0xffff];
            b[pair + 8 * r + 1][group] = value[lane.b[r] >> 16];
        }
    }
    double sums[kRows][kColumns];
    for (int row = 0; row < kRows; ++row) {
        double sum[kColumns] = {};
        for (int k = 0; k < kDepth; ++k) {
            for (int column = 0; column < kColumns; ++column) sum[column] += a[row][k] * b[k][column];
        }
        for (int column = 0; column < kColumns; ++column) sums[row][column] = sum[column];
    }
    for (unsigned index = 0; index < kLanes; ++index) {
        Lane& lane = warp.lanes[index];
        const unsigned group = index / 4, pair = index % 4 * 2;
        for (unsigned r = 0; r < 4; ++r) {
            const double sum = sums[group + 8 * (r / 2)][pair + r % 2] + double(lane.c[r]);
            lane.result[r] = __float_as_uint(towards_zero(sum));
        }
    }
}

}  // namespace

unsigned lane() { return Block::current().self() % kLanes; }

unsigned lane_above(unsigned lane, unsigned distance, int width) {
    const unsigned end = (lane & ~unsigned(width - 1)) + unsigned(width);
    return lane + distance < end ? lane + distance : lane;
}

unsigned lane_below(unsigned lane, unsigned distance, int width) {
    const unsigned start = lane & ~unsigned(width - 1);
    return lane >= start + distance ? lane - distance : lane;
}

unsigned lane_across(unsigned lane, unsigned bits, int width) {
    const unsigned end = (lane & ~unsigned(width - 1)) + unsigned(width);
    return (lane ^ bits) < end ? lane ^ bits : lane;
}

uint64_t shuffle(const char* operation, unsigned mask, uint64_t value, unsigned source_lane) {
    Block& block = Block::current();
    Lane& lane = block.warp().lanes[block.self() % kLanes];
    lane.value = value;
    lane.source = source_lane;
    return block.meet(operation, mask, complete_shuffle).value;
}

unsigned ballot(const char* operation, unsigned mask, bool predicate) {
    Block& block = Block::current();
    block.warp().lanes[block.self() % kLanes].value = predicate ? 1 : 0;
    return unsigned(block.meet(operation, mask, complete_ballot).value);
}

void load_matrices(uint32_t* fragment, int matrices, bool transposed, const void* row) {
    Block& block = Block::current();
    Lane& lane = block.warp().lanes[block.self() % kLanes];
    lane.row = row;
    const char* operation = matrices == 4 ? transposed ? "ldmatrix_x4_trans" : "ldmatrix_x4"
                            : transposed  ? "ldmatrix_x2_trans"
                                          : "ldmatrix_x2";
    const bool brings_row = block.self() % kLanes < unsigned(8 * matrices);
    if (brings_row) block.check_shared(operation, row, 16, 16);
    if (matrices == 4) {
        block.meet(operation, kWholeWarp, transposed ? complete_load<4, true> : complete_load<4, false>);
    } else {
        block.meet(operation, kWholeWarp, transposed ? complete_load<2, true> : complete_load<2, false>);
    }
    for (int matrix = 0; matrix < matrices; ++matrix) fragment[matrix] = lane.result[matrix];
}

}  // namespace emulation

void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
    emulation::Block& block = emulation::Block::current();
    emulation::Lane& lane = block.warp().lanes[block.self() % emulation::kLanes];
    std::memcpy(lane.a, a, sizeof a);
    std::memcpy(lane.b, b, sizeof b);
    std::memcpy(lane.c, c, sizeof c);
    block.meet("mma_f16", kWholeWarp, emulation::complete_mma);
    for (int r = 0; r < 4; ++r) d[r] = __uint_as_float(lane.result[r]);
}

}  // namespace pe::cuda
