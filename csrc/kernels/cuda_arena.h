// Parts of a workspace on the GPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pe::cuda {

// Hands out parts of the workspace; with a null workspace it only counts.
class Arena {
  public:
    explicit Arena(void* base) : base_(static_cast<unsigned char*>(base)) {}

    template <typename T>
    T* take(int64_t count) {
        // As cudaMalloc aligns.
        constexpr size_t kAlignment = 256;
        const size_t offset = used_;
        used_ += (size_t(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
        return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + offset);
    }
    size_t used() const { return used_; }

  private:
    unsigned char* base_;
    size_t used_ = 0;
};

}  // namespace pe::cuda
