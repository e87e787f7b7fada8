// What every kernel shares: how features lie in memory, which channels are read, whose threads run.
//
// Kernels know neither torch nor ONNX Runtime. They allocate nothing, keep no state, throw nothing and
// check nothing: adapters check shapes and settings first, bring the memory and the threads. Results have the
// same bits for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pe {

// How an element is stored. Half precision is computed in float.
enum class Type : int32_t { kFloat32, kFloat64, kFloat16, kBFloat16 };

// Where element (sample, channel, position) lies: strides count elements. NCHW has position_stride 1,
// channels-last channel_stride 1; positions run over rows, then columns.
struct Layout {
    int64_t batch_stride;
    int64_t channel_stride;
    int64_t position_stride;
};

struct Features {
    const void* data;
    Layout layout;
};

struct Gradient {
    void* data;  // null: not wanted
    Layout layout;
};

// Channel c of a computation is weights[c] times channel indices[c] of the features.
struct Channels {
    int64_t count;
    const int64_t* indices;  // distinct; null: 0, 1, ... count - 1
    const double* weights;   // >= 0; null: 1
};

// The caller's threads. run() calls body(argument, task) once for each task from 0 to tasks - 1, on any
// threads and in any order, and returns when all have returned.
struct Pool {
    int threads;  // >= 1
    void (*run)(void* context, int tasks, void (*body)(void* argument, int task), void* argument);
    void* context;
};

// Runs the tasks one after another on the calling thread.
Pool sequential_pool();

// Alignment, in bytes, of every workspace.
constexpr size_t kWorkspaceAlignment = 64;

// The instruction set that the kernels use on this machine: "avx512", "avx2" or "baseline".
const char* instruction_set();

// Chooses another one for the calling process, for tests and measurements. False, and no change, where the
// machine does not have it or the name is unknown. Not while a kernel runs.
bool set_instruction_set(const char* name);

}  // namespace pe
