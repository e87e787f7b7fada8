#include "device_cpu.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>

namespace pe::torch_adapter {
namespace {

Pool torch_pool() {
    const auto run = [](void*, int tasks, void (*body)(void*, int), void* argument) {
        // Whoever is free takes the next: tasks differ in length, and torch cuts a range into equal parts.
        std::atomic<int> next{0};
        torch::stable::parallel_for(0, tasks, 1, [&](int64_t, int64_t) {
            for (int task = next++; task < tasks; task = next++) body(argument, task);
        });
    };
    return {int(torch::stable::get_num_threads()), run, nullptr};
}

}  // namespace

Device::Device(const Tensor& features, const char* name) : features_(features), pool_(torch_pool()) {
    check(features.is_cpu(), name, ": expected features on the CPU, got ", device_text(features));
}

}  // namespace pe::torch_adapter
