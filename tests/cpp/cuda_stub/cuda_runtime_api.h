// What csrc/ort/device_cuda.cpp calls of CUDA, to be made to fail: see test_ort_device_cuda.cpp.
#pragma once

#include <cstddef>

// With CUDA's numbers.
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorIllegalAddress = 700 };
using cudaStream_t = struct CUstream_st*;

cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
