// A library with kernels for CUDA. The runtime is linked statically and opens the driver when it is first
// called, so that the library loads where there is none.
#include <cuda_runtime_api.h>

#include <new>
#include <stdexcept>
#include <string>

#include "device.h"

namespace pe::ort_adapter {

const char* provider(Device device) { return device == Device::kCuda ? "CUDAExecutionProvider" : nullptr; }

bool has_cuda() { return true; }

void* allocate_on_stream(size_t bytes, void* stream) {
    void* memory = nullptr;
    const cudaError_t status = cudaMallocAsync(&memory, bytes, static_cast<cudaStream_t>(stream));
    if (status == cudaSuccess) return memory;
    // The error is reported here: the next call to CUDA should not find it again.
    (void)cudaGetLastError();
    if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

void free_on_stream(void* memory, void* stream) noexcept {
    (void)cudaFreeAsync(memory, static_cast<cudaStream_t>(stream));
}

}  // namespace pe::ort_adapter
