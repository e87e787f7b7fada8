// Reductions over a block of threads, in a fixed order.
#pragma once

#include "cuda_language.h"

namespace pe::cuda {

constexpr int kReduceThreads = 1024;
constexpr size_t kReduceShared = kReduceThreads * sizeof(double);

// combine() of a value of each thread, in every thread.
template <typename Combine>
__device__ double block_reduce(double value, const Combine& combine) {
    double* parts = reinterpret_cast<double*>(dynamic_shared());
    parts[threadIdx.x] = value;
    for (int half = int(blockDim.x) / 2; half > 0; half /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < half) {
            parts[threadIdx.x] = combine(parts[threadIdx.x], parts[threadIdx.x + half]);
        }
    }
    __syncthreads();
    const double result = parts[0];
    __syncthreads();
    return result;
}

__device__ inline double block_sum(double value) {
    return block_reduce(value, [](double a, double b) { return a + b; });
}
__device__ inline double block_max(double value) {
    return block_reduce(value, [](double a, double b) { return a > b ? a : b; });
}

}  // namespace pe::cuda
