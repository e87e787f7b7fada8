// A library without kernels for CUDA.
#include "device.h"

namespace pe::ort_adapter {

const char* provider(Device) { return nullptr; }

bool has_cuda() { return false; }

void* allocate_on_stream(size_t, void*) { return nullptr; }
void free_on_stream(void*, void*) noexcept {}

}  // namespace pe::ort_adapter
