// Where the kernels of an operator run, and how they get memory there.
#pragma once

#include <cstddef>

namespace pe::ort_adapter {

enum class Device { kCpu, kCuda };

// What ONNX Runtime calls the provider of a device; null: that of the CPU.
const char* provider(Device device);

// Whether the library has kernels for CUDA devices.
bool has_cuda();

// Of kernels' workspaces on any device, in bytes.
constexpr size_t kDeviceAlignment = 256;

// Memory of the current CUDA device, in the order of a stream: it may be freed while kernels that use it are
// still to run. The arena of a session does not wait for other sessions' and runs' streams. Throws
// std::bad_alloc where there is no memory left, and std::runtime_error with CUDA's own text where it fails
// otherwise.
void* allocate_on_stream(size_t bytes, void* stream);
void free_on_stream(void* memory, void* stream) noexcept;

}  // namespace pe::ort_adapter
