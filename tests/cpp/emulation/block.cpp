#include "block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace pe::cuda::emulation {

Block& Block::current() {
    // Never destroyed: kernels may run until the program ends.
    static Block* block = new Block;
    return *block;
}

void Block::run(unsigned threads, size_t shared_bytes, void (*body)(const void*), const void* argument,
                uint64_t seed) {
    count_ = unfinished_ = threads;
    body_ = body;
    argument_ = argument;
    state_ = seed | 1;
    schedule_ = Schedule(random() % 3);
    at_barrier_ = 0;
    if (threads_.size() < threads) threads_.resize(threads);
    warps_.resize(threads / kLanes);
    // Memory of its own for each block, of no byte more, is what AddressSanitizer watches.
    void* shared = nullptr;
    constexpr size_t kAlignment = 128;
    if (posix_memalign(&shared, kAlignment, shared_bytes) != 0) std::abort();
    std::memset(shared, 0xff, shared_bytes);
    shared_ = static_cast<unsigned char*>(shared);
    shared_bytes_ = shared_bytes;
    for (Warp& warp : warps_) warp.arrived = 0;
    head_ = tail_ = 0;
    const unsigned first_warp = unsigned(random() % warps_.size());
    for (unsigned i = 0; i < threads; ++i) {
        const unsigned index = (first_warp * kLanes + i) % threads;
        Thread& thread = threads_[index];
        if (!thread.fiber) thread.fiber = std::make_unique<Fiber>(thread_body);
        thread.waits_for = nullptr;
        thread.finished = false;
        thread.copies.clear();
        thread.groups = 0;
        release(index);
    }
    resume_next();
    std::free(shared);
}

void Block::thread_body() {
    Block& block = current();
    // A fiber runs the same thread of block after block.
    for (;;) {
        block.body_(block.argument_);
        block.thread().finished = true;
        if (--block.unfinished_ > 0) {
            block.resume_next();
            continue;
        }
        Fiber& self = *block.running_;
        block.running_ = &block.main_;
        Fiber::swap(self, block.main_);
    }
}

uint64_t Block::random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
}

void Block::release(unsigned thread) {
    threads_[thread].waits_for = nullptr;
    ring_[tail_++ % kMostThreads] = static_cast<unsigned short>(thread);
}

unsigned Block::take_next() {
    if (schedule_ == Schedule::kInTurn) return ring_[head_++ % kMostThreads];
    unsigned short& last = ring_[(tail_ - 1) % kMostThreads];
    if (schedule_ == Schedule::kRandom) {
        std::swap(ring_[(head_ + unsigned(random() % (tail_ - head_))) % kMostThreads], last);
    }
    --tail_;
    return last;
}

void Block::resume_next() {
    if (head_ == tail_) report_deadlock();
    self_ = take_next();
    threadIdx.x = self_;
    Fiber& from = *running_;
    running_ = threads_[self_].fiber.get();
    if (&from != running_) Fiber::swap(from, *running_);
}

void Block::suspend(const char* operation) {
    thread().waits_for = operation;
    resume_next();
}

Lane& Block::meet(const char* operation, unsigned mask, void (*complete)(Warp&, unsigned)) {
    Warp& warp = this->warp();
    const unsigned own = self_ % kLanes;
    Lane& lane = warp.lanes[own];
    if ((mask >> own & 1) == 0) fail("%s: its mask %08x is without this lane", operation, mask);
    lane.operation = operation;
    lane.mask = mask;
    warp.arrived |= 1u << own;
    if ((warp.arrived & mask) != mask) {
        suspend(operation);
        return lane;
    }
    for (unsigned other = 0; other < kLanes; ++other) {
        if ((mask >> other & 1) == 0) continue;
        const Lane& there = warp.lanes[other];
        if (there.mask != mask || (there.operation != operation && std::strcmp(there.operation, operation))) {
            fail("%s, mask %08x, while lane %u of the warp is at %s, mask %08x", operation, mask, other,
                 there.operation, there.mask);
        }
    }
    complete(warp, mask);
    warp.arrived &= ~mask;
    const unsigned first = self_ - own;
    for (unsigned other = 0; other < kLanes; ++other) {
        if ((mask >> other & 1) != 0 && other != own) release(first + other);
    }
    return lane;
}

bool Block::barrier(const char* operation, bool predicate) {
    if (at_barrier_ == 0) {
        barrier_operation_ = operation;
        barrier_any_ = false;
    } else if (std::strcmp(barrier_operation_, operation) != 0) {
        fail("%s, while other threads are at %s", operation, barrier_operation_);
    }
    barrier_any_ = barrier_any_ || predicate;
    if (++at_barrier_ < count_) {
        suspend(operation);
        return barrier_result_;
    }
    at_barrier_ = 0;
    barrier_result_ = barrier_any_;
    const unsigned turn = unsigned(random() % count_) / kLanes * kLanes;
    for (unsigned i = 0; i < count_; ++i) {
        const unsigned other = (turn + i) % count_;
        if (other != self_) release(other);
    }
    return barrier_result_;
}

void Block::check_shared(const char* operation, const void* address, size_t bytes, size_t alignment) {
    const uintptr_t place = reinterpret_cast<uintptr_t>(address),
                    start = reinterpret_cast<uintptr_t>(shared_);
    if (place % alignment != 0) fail("%s: address %p is not aligned to %zu", operation, address, alignment);
    if (place < start || place + bytes > start + shared_bytes_) {
        fail("%s: %zu bytes at %td of %zu bytes of shared memory", operation, bytes, ptrdiff_t(place - start),
             shared_bytes_);
    }
}

void Block::report_deadlock() {
    unsigned finished = 0;
    const char* operation = nullptr;
    for (unsigned i = 0; i < count_; ++i) {
        finished += threads_[i].finished ? 1 : 0;
        if (threads_[i].waits_for == nullptr) continue;
        if (operation == nullptr || operation != threads_[i].waits_for) {
            std::fprintf(stderr, "thread %u waits at %s\n", i, threads_[i].waits_for);
        }
        operation = threads_[i].waits_for;
    }
    fail("deadlock: %u threads have returned, the other %u wait", finished, count_ - finished);
}

void Block::fail(const char* format, ...) {
    std::fprintf(stderr, "CUDA emulation: block (%u, %u, %u), thread %u: ", blockIdx.x, blockIdx.y,
                 blockIdx.z, self_);
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
    std::abort();
}

}  // namespace pe::cuda::emulation
