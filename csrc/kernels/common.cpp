#include "common.h"

#include <atomic>
#include <cstring>

#include "common_internal.h"
#ifdef PE_X86
#include <cpuid.h>
#endif

namespace pe {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

#ifdef PE_X86
// Not every compiler's __builtin_cpu_supports knows it.
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

// All that the flags of a set let the compiler use (cmake/PeInstructionSets.cmake): a virtual machine may
// hide any of it. AVX and AVX-512 are said to be there only where the system saves their registers.
bool has_avx2() {
    return __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           has_f16c() && __builtin_cpu_supports("sse3") && __builtin_cpu_supports("ssse3") &&
           __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("sse4.2") &&
           __builtin_cpu_supports("popcnt");
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

int best_level() {
#ifdef PE_X86
    __builtin_cpu_init();
    if (has_avx2()) return has_avx512() ? kAvx512 : kAvx2;
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
