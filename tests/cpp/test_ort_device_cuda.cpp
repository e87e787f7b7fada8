// Memory of a CUDA device for ONNX Runtime's operators: only the error of too little memory is told as that.
#include <cuda_runtime_api.h>

#include <new>
#include <stdexcept>
#include <string>

#include "check.h"
#include "device.h"

namespace {

cudaError_t outcome = cudaSuccess, last = cudaSuccess;
char memory[1];

}  // namespace

cudaError_t cudaMallocAsync(void** pointer, size_t, cudaStream_t) {
    *pointer = outcome == cudaSuccess ? memory : nullptr;
    return last = outcome;
}
cudaError_t cudaFreeAsync(void*, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGetLastError() {
    const cudaError_t error = last;
    last = cudaSuccess;
    return error;
}
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : "out of memory";
}

int main() {
    using pe::ort_adapter::allocate_on_stream;
    CHECK(allocate_on_stream(1, nullptr) == memory);

    outcome = cudaErrorMemoryAllocation;
    bool exhausted = false;
    try {
        allocate_on_stream(1, nullptr);
    } catch (const std::bad_alloc&) {
        exhausted = true;
    }
    CHECK(exhausted);
    CHECK(last == cudaSuccess);

    outcome = cudaErrorIllegalAddress;
    std::string message;
    try {
        allocate_on_stream(1, nullptr);
    } catch (const std::runtime_error& error) {
        message = error.what();
    }
    CHECK(message == "CUDA: an illegal memory access was encountered");
    CHECK(last == cudaSuccess);
}
