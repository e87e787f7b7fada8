// Feature maps of the tests of kernels: any storage, any layout.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "common.h"
#include "half.h"

namespace maps {

using pe::Type;

inline double stored(Type type, const void* data, int64_t i) {
    switch (type) {
        case Type::kFloat64:
            return static_cast<const double*>(data)[i];
        case Type::kFloat16:
            return half::value(half::kFloat16, static_cast<const uint16_t*>(data)[i]);
        case Type::kBFloat16:
            return half::value(half::kBFloat16, static_cast<const uint16_t*>(data)[i]);
        default:
            return static_cast<const float*>(data)[i];
    }
}

inline void put(Type type, void* data, int64_t i, double x) {
    switch (type) {
        case Type::kFloat64:
            static_cast<double*>(data)[i] = x;
            break;
        case Type::kFloat16:
            static_cast<uint16_t*>(data)[i] = half::bits(half::kFloat16, x);
            break;
        case Type::kBFloat16:
            static_cast<uint16_t*>(data)[i] = half::bits(half::kBFloat16, x);
            break;
        default:
            static_cast<float*>(data)[i] = float(x);
    }
}

inline size_t size_of(Type type) { return type == Type::kFloat64 ? 8 : type == Type::kFloat32 ? 4 : 2; }

enum Order { kPlanar, kInterleaved, kSpaced };

// Feature maps (batch, channels, positions) in memory of just their size.
struct Map {
    Type type;
    int64_t batch, channels, positions;
    pe::Layout layout;
    std::vector<unsigned char> memory;

    Map(Type type, int64_t batch, int64_t channels, int64_t positions, Order order)
        : type(type), batch(batch), channels(channels), positions(positions) {
        const int64_t step = order == kSpaced ? 2 : 1;
        layout = order == kInterleaved ? pe::Layout{channels * positions, 1, channels}
                                       : pe::Layout{step * channels * positions, step * positions, step};
        memory.resize(size_t(batch * channels * positions * step) * size_of(type));
    }
    int64_t index(int64_t b, int64_t c, int64_t p) const {
        return b * layout.batch_stride + c * layout.channel_stride + p * layout.position_stride;
    }
    double get(int64_t b, int64_t c, int64_t p) const { return stored(type, memory.data(), index(b, c, p)); }
    void set(int64_t b, int64_t c, int64_t p, double x) { put(type, memory.data(), index(b, c, p), x); }
    pe::Features features() const { return {memory.data(), layout}; }
    pe::Gradient gradient() { return {memory.data(), layout}; }
};

inline double epsilon(Type type) {
    switch (type) {
        case Type::kFloat64:
            return std::ldexp(1, -53);
        case Type::kFloat16:
            return std::ldexp(1, -11);
        case Type::kBFloat16:
            return std::ldexp(1, -8);
        default:
            return std::ldexp(1, -24);
    }
}

inline double arithmetic_epsilon(Type type) {
    return epsilon(type == Type::kFloat64 ? type : Type::kFloat32);
}

}  // namespace maps
