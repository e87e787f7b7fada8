// The CUDA language as the kernels use it, and a little more: storage types, tensor cores, asynchronous
// copies, launches.
//
// Files that include this are compiled twice: by nvcc, and as plain C++ over an emulation of the language
// (tests/cpp/emulation), so that tests run the same kernels where there is no GPU. What the emulation offers
// is what kernels may use: blocks in one dimension, a multiple of 32 threads, shared memory asked for at the
// launch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pe::cuda {

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

// What elements stored as S are computed in.
template <typename S>
struct ArithmeticOf {
    using type = float;
};
template <>
struct ArithmeticOf<double> {
    using type = double;
};
template <typename S>
using Arithmetic = typename ArithmeticOf<S>::type;

}  // namespace pe::cuda

#ifdef __CUDACC__
#include "cuda_language_device.h"
#else
#include "emulation.h"
#endif

namespace pe::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ double to_float(double x) { return x; }

template <typename S>
struct FromArithmetic;
template <>
struct FromArithmetic<float> {
    static __device__ __forceinline__ float of(double x) { return float(x); }
    static __device__ __forceinline__ float of(float x) { return x; }
};
template <>
struct FromArithmetic<double> {
    static __device__ __forceinline__ double of(double x) { return x; }
};
template <>
struct FromArithmetic<Half> {
    static __device__ __forceinline__ Half of(float x) { return to_half(x); }
};
template <>
struct FromArithmetic<BFloat16> {
    static __device__ __forceinline__ BFloat16 of(float x) { return to_bfloat16(x); }
};

template <typename S, typename T>
__device__ __forceinline__ S from_arithmetic(T x) {
    return FromArithmetic<S>::of(x);
}

// A map of all floats but NaN to integers that keeps their order, and its inverse.
__device__ __forceinline__ uint32_t ordered_bits(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ __forceinline__ float from_ordered_bits(uint32_t bits) {
    return __uint_as_float(bits ^ (bits >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

}  // namespace pe::cuda
