// The operators with the CUDA kernels, emulated, in the place of those of the CPU.
#include <cstdlib>

#include "device.h"

namespace pe::ort_adapter {

// No session has the first: nodes of the CPU get the second.
const char* provider(Device device) { return device == Device::kCuda ? nullptr : "NoExecutionProvider"; }

bool has_cuda() { return true; }

void* allocate_on_stream(size_t bytes, void*) { return std::malloc(bytes); }
void free_on_stream(void* memory, void*) noexcept { std::free(memory); }

}  // namespace pe::ort_adapter
