// Fibers: functions that can be left and resumed, each on a stack of its own.
#pragma once

#include <cstddef>

namespace pe::cuda::emulation {

class Fiber {
  public:
    // The one that already runs.
    Fiber() = default;
    // One that runs body() once it is switched to; body must not return.
    explicit Fiber(void (*body)());
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Leaves `from`, which runs, and resumes `to`; returns when something switches back.
    static void swap(Fiber& from, Fiber& to);

  private:
    static void enter();
    void arrived();

    void (*body_)() = nullptr;
    void* memory_ = nullptr;  // a guard page, then the stack
    void* context_ = nullptr;
    // What AddressSanitizer wants to know.
    void* fake_stack_ = nullptr;
    const void* bottom_ = nullptr;
    size_t size_ = 0;
};

}  // namespace pe::cuda::emulation
