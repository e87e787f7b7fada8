#include "common.h"

#include <atomic>
#include <cstring>

#include "common_internal.h"

namespace pe {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

int best_level() {
#ifdef PE_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        return kAvx512;
    }
    if (avx2) return kAvx2;
#endif
    return kBaseline;
}

std::atomic<int>& level() {
    static std::atomic<int> value{best_level()};
    return value;
}

}  // namespace

int isa_level() { return level().load(std::memory_order_relaxed); }

const char* instruction_set() { return kNames[isa_level()]; }

bool set_instruction_set(const char* name) {
    for (int candidate = 0; candidate <= best_level(); ++candidate) {
        if (std::strcmp(name, kNames[candidate]) == 0) {
            level().store(candidate, std::memory_order_relaxed);
            return true;
        }
    }
    return false;
}

Pool sequential_pool() {
    return {1,
            [](void*, int tasks, void (*body)(void*, int), void* argument) {
                for (int task = 0; task < tasks; ++task) body(argument, task);
            },
            nullptr};
}

}  // namespace pe
