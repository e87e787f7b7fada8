#include <algorithm>
#include <mutex>
#include <numeric>
#include <random>

#include "block.h"

namespace pe::cuda {
namespace emulation {

Settings& settings() {
    static Settings value;
    return value;
}

const char* run(dim3 grid, int threads, size_t shared_bytes, void (*body)(const void*),
                const void* argument) {
    constexpr unsigned kMostBlocks = 0x7fffffff, kMostOtherBlocks = 65535;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return nullptr;
    if (threads < 1 || unsigned(threads) > kMostThreads || unsigned(threads) % kLanes != 0) {
        return "invalid configuration argument: threads";
    }
    if (grid.x > kMostBlocks || grid.y > kMostOtherBlocks || grid.z > kMostOtherBlocks) {
        return "invalid configuration argument: grid";
    }
    if (shared_bytes > settings().shared_limit) return "invalid argument: shared memory";
    // There is one set of threadIdx and its kin.
    static std::mutex one_kernel;
    const std::lock_guard<std::mutex> guard(one_kernel);
    std::vector<uint64_t> order(size_t(grid.x) * grid.y * grid.z);
    std::iota(order.begin(), order.end(), uint64_t{0});
    std::mt19937_64 random(settings().seed);
    std::shuffle(order.begin(), order.end(), random);
    gridDim = grid;
    blockDim = dim3(unsigned(threads));
    threadIdx = {};
    for (const uint64_t index : order) {
        blockIdx.x = unsigned(index % grid.x);
        blockIdx.y = unsigned(index / grid.x % grid.y);
        blockIdx.z = unsigned(index / grid.x / grid.y);
        Block::current().run(unsigned(threads), shared_bytes, body, argument, random());
    }
    return nullptr;
}

bool barrier(const char* operation, bool predicate) { return Block::current().barrier(operation, predicate); }

void wait_copies(int pending) {
    Thread& thread = Block::current().thread();
    const int last = thread.groups - pending;
    size_t done = 0;
    for (; done < thread.copies.size() && thread.copies[done].group < last; ++done) {
        const Copy& copy = thread.copies[done];
        copy.inside ? std::memcpy(copy.shared, copy.global, 16) : std::memset(copy.shared, 0, 16);
    }
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + ptrdiff_t(done));
}

}  // namespace emulation

unsigned char* dynamic_shared() { return emulation::Block::current().shared(); }

void copy_async16(void* shared, const void* global, bool inside) {
    emulation::Block& block = emulation::Block::current();
    block.check_shared("copy_async16", shared, 16, 16);
    if (inside && reinterpret_cast<uintptr_t>(global) % 16 != 0) {
        block.fail("copy_async16: address %p is not aligned to 16", global);
    }
    std::memset(shared, 0xff, 16);
    emulation::Thread& thread = block.thread();
    thread.copies.push_back({shared, global, inside, thread.groups});
}

void commit_copies() { ++emulation::Block::current().thread().groups; }

}  // namespace pe::cuda
