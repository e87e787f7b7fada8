// The block that runs: its threads, their warps, what they wait for.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda_language.h"
#include "fibers.h"

namespace pe::cuda::emulation {

constexpr unsigned kLanes = 32;
constexpr unsigned kMostThreads = 1024;

// What a lane brings to what a warp does together, and takes from it.
struct Lane {
    const char* operation;
    unsigned mask;
    uint64_t value;
    unsigned source;  // lane
    const void* row;
    uint32_t a[4], b[2];
    float c[4];
    uint32_t result[4];
};

struct Warp {
    unsigned arrived;  // lanes that wait
    Lane lanes[kLanes];
};

struct Copy {
    void* shared;
    const void* global;
    bool inside;
    int group;
};

struct Thread {
    std::unique_ptr<Fiber> fiber;
    const char* waits_for;  // null: runs or may run; otherwise the name
    bool finished;
    std::vector<Copy> copies;
    int groups;  // of copies, committed
};

class Block {
  public:
    static Block& current();

    // Runs one block; its indices are set.
    void run(unsigned threads, size_t shared_bytes, void (*body)(const void*), const void* argument,
             uint64_t seed);

    unsigned self() const { return self_; }
    Thread& thread() { return threads_[self_]; }
    Warp& warp() { return warps_[self_ / kLanes]; }
    unsigned char* shared() { return shared_; }
    // Ends the program where these bytes are not in shared memory, or not aligned so.
    void check_shared(const char* operation, const void* address, size_t bytes, size_t alignment);

    // Waits until every lane of the mask has come; the last one calls complete(warp, mask).
    Lane& meet(const char* operation, unsigned mask, void (*complete)(Warp& warp, unsigned mask));
    bool barrier(const char* operation, bool predicate);

    [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));

  private:
    // In which order threads that may run do so. The first lets one warp run ahead of the others as far as it
    // can, the second keeps them together.
    enum class Schedule { kAhead, kInTurn, kRandom };

    static void thread_body();
    void suspend(const char* operation);
    void release(unsigned thread);
    void resume_next();
    unsigned take_next();
    [[noreturn]] void report_deadlock();
    uint64_t random();

    Fiber main_;
    Fiber* running_ = &main_;
    std::vector<Thread> threads_;
    std::vector<Warp> warps_;
    unsigned count_ = 0, self_ = 0, unfinished_ = 0;
    unsigned char* shared_ = nullptr;
    size_t shared_bytes_ = 0;
    void (*body_)(const void*) = nullptr;
    const void* argument_ = nullptr;
    uint64_t state_ = 1;
    Schedule schedule_ = Schedule::kRandom;

    // Threads that may run: a ring of thread numbers, [head, tail).
    unsigned short ring_[kMostThreads];
    unsigned head_ = 0, tail_ = 0;

    unsigned at_barrier_ = 0;
    const char* barrier_operation_ = nullptr;
    bool barrier_any_ = false, barrier_result_ = false;
};

}  // namespace pe::cuda::emulation
