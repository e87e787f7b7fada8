// The CUDA language in plain C++, for csrc/kernels/cuda_language.h, which includes this without nvcc.
//
// Threads of a block are fibers on one thread of the machine; blocks run one after another. Barriers and what
// a warp does together suspend a thread. Whatever CUDA leaves undefined and can be seen here ends the program
// with a message: a barrier that a thread does not reach, lanes that disagree, addresses outside of shared
// memory. Which thread and which block runs next is drawn from settings().seed.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include <cstring>
#include <tuple>
#include <utility>

#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// Of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace pe::cuda {

namespace emulation {

struct Settings {
    uint64_t seed = 1;
    int multiprocessors = 3;
    size_t shared_limit = 163 * 1024;
};
Settings& settings();

// Runs body(argument) in every thread; null, or what is wrong with the launch.
const char* run(dim3 grid, int threads, size_t shared_bytes, void (*body)(const void*), const void* argument);

// What the lanes of the mask do together: each gets the value of its source lane; the lanes whose predicate
// holds.
uint64_t shuffle(const char* operation, unsigned mask, uint64_t value, unsigned source_lane);
unsigned ballot(const char* operation, unsigned mask, bool predicate);
unsigned lane();
// Source lanes of the __shfl_ functions, within segments of `width` lanes: the own one where they would leave
// it.
unsigned lane_below(unsigned lane, unsigned distance, int width);
unsigned lane_above(unsigned lane, unsigned distance, int width);
unsigned lane_across(unsigned lane, unsigned bits, int width);

bool barrier(const char* operation, bool predicate);
void load_matrices(uint32_t* fragment, int matrices, bool transposed, const void* row);
void wait_copies(int pending);

template <typename T>
T shuffle_value(const char* operation, unsigned mask, T value, unsigned source_lane) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "as __shfl_sync has it");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = shuffle(operation, mask, bits, source_lane);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename To, typename From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace emulation

unsigned char* dynamic_shared();

float to_float(Half x);
float to_float(BFloat16 x);
Half to_half(float x);
BFloat16 to_bfloat16(float x);
inline uint32_t pack_halves(float low, float high) {
    return uint32_t(to_half(high).bits) << 16 | to_half(low).bits;
}
inline uint32_t pack_bfloat16s(float low, float high) {
    return uint32_t(to_bfloat16(high).bits) << 16 | to_bfloat16(low).bits;
}

inline void store16(void* global, uint4 x) { *static_cast<uint4*>(global) = x; }

inline int forgotten(int x) { return x; }

inline float exp2_fast(float x) {
    const float result = exp2f(x);
    return result < 0x1p-126f ? 0 : result;
}

// Products are exact; their sum is rounded towards zero, as tensor cores may.
void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]);

inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
    emulation::load_matrices(r, 4, false, shared_row);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
    emulation::load_matrices(r, 4, true, shared_row);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row) {
    emulation::load_matrices(r, 2, false, shared_row);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row) {
    emulation::load_matrices(r, 2, true, shared_row);
}

// From here to the wait, shared memory has NaN: whoever reads too early or writes too early shows.
void copy_async16(void* shared, const void* global, bool inside);
void commit_copies();
template <int kPending>
void wait_copies() {
    emulation::wait_copies(kPending);
}

class Launcher {
  public:
    explicit Launcher(void*) {}

    bool ok() const { return error_ == nullptr; }
    const char* error() const { return error_; }

    template <typename... P, typename... A>
    void launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, A... arguments) {
        if (!ok()) return;
        const std::pair<void (*)(P...), std::tuple<P...>> call(kernel, std::tuple<P...>(arguments...));
        error_ = emulation::run(
            grid, threads, shared_bytes,
            [](const void* argument) {
                const auto& [function, values] = *static_cast<decltype(&call)>(argument);
                std::apply(function, values);
            },
            &call);
    }
    void zero(void* memory, size_t bytes) {
        if (ok() && bytes > 0) std::memset(memory, 0, bytes);
    }
    int multiprocessors() { return emulation::settings().multiprocessors; }
    size_t shared_limit() { return emulation::settings().shared_limit; }

  private:
    const char* error_ = nullptr;
};

}  // namespace pe::cuda

inline void __syncthreads() { pe::cuda::emulation::barrier("__syncthreads", false); }
inline int __syncthreads_or(int predicate) {
    return pe::cuda::emulation::barrier("__syncthreads_or", predicate != 0);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    pe::cuda::emulation::ballot("__syncwarp", mask, false);
}
// Blocks follow one another, and a thread runs until it waits.
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    namespace e = pe::cuda::emulation;
    const unsigned first = e::lane() & ~unsigned(width - 1);
    return e::shuffle_value("__shfl_sync", mask, value, first | (unsigned(source) & unsigned(width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    namespace e = pe::cuda::emulation;
    return e::shuffle_value("__shfl_xor_sync", mask, value, e::lane_across(e::lane(), unsigned(bits), width));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    namespace e = pe::cuda::emulation;
    return e::shuffle_value("__shfl_down_sync", mask, value, e::lane_above(e::lane(), distance, width));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    namespace e = pe::cuda::emulation;
    return e::shuffle_value("__shfl_up_sync", mask, value, e::lane_below(e::lane(), distance, width));
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return pe::cuda::emulation::ballot("__ballot_sync", mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
    return pe::cuda::emulation::ballot("__any_sync", mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
    return pe::cuda::emulation::ballot("__all_sync", mask, predicate != 0) == mask;
}

template <typename T>
T atomicAdd(T* address, T value) {
    const T old = *address;
    *address = old + value;
    return old;
}
template <typename T>
T atomicMin(T* address, T value) {
    const T old = *address;
    if (value < old) *address = value;
    return old;
}
template <typename T>
T atomicMax(T* address, T value) {
    const T old = *address;
    if (value > old) *address = value;
    return old;
}
template <typename T>
T atomicOr(T* address, T value) {
    const T old = *address;
    *address = old | value;
    return old;
}

template <typename T>
T __ldg(const T* address) {
    return *address;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __float_as_uint(float x) { return pe::cuda::emulation::same_bits<unsigned>(x); }
inline int __float_as_int(float x) { return pe::cuda::emulation::same_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return pe::cuda::emulation::same_bits<float>(x); }
inline float __int_as_float(int x) { return pe::cuda::emulation::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return pe::cuda::emulation::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return pe::cuda::emulation::same_bits<double>(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
