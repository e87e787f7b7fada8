// A CUDA device, see device.h.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "channel_distance_cuda.h"
#include "contextual_cuda.h"
#include "memory.h"

namespace pe::torch_adapter {

// The device of features, which is the current one while this lives, and torch's current stream on it.
class Device {
  public:
    // Refuses features that lie elsewhere.
    Device(const Tensor& features, const char* name);

    // For errors.
    std::string name() const;
    bool holds(const Tensor& tensor) const;

    // Calls a kernel with the arguments, a workspace and the stream. Throws what CUDA says is wrong.
    template <typename... Parameters, typename... Arguments>
    void run(const char* operation, const char* (*kernel)(Parameters...), size_t workspace_bytes,
             const Arguments&... arguments) const {
        const Workspace workspace(workspace_bytes, kCudaAlignment, features_);
        const char* const error = kernel(arguments..., workspace.get(), stream_);
        check(error == nullptr, "pe_runtime::", operation, ": ", error == nullptr ? "" : error);
    }

  private:
    Tensor features_;
    std::optional<torch::stable::accelerator::DeviceGuard> guard_;
    void* stream_ = nullptr;
};

struct Kernels {
    static constexpr bool kRowSums = false;

    // Refuses what no grid of blocks can hold: along y and z it has at most 65,535. Along one of them are the
    // samples, along the other, where the mean of the targets is taken, segments of 1,024 targets.
    static void check_grid(const ContextualProblem& problem) {
        constexpr int64_t kMostBlocks = 65535, kMostTargets = kMostBlocks * 1024;
        check(problem.batch <= kMostBlocks, "source and target: expected at most ", kMostBlocks,
              " samples in a batch on CUDA, got ", problem.batch);
        const int64_t targets = problem.target_height * problem.target_width;
        const bool centred = problem.distance == Distance::kCosine && problem.center != Center::kNone;
        check(!centred || targets <= kMostTargets, "target: expected at most ", kMostTargets,
              " positions on CUDA, unless center is 'none', got ", targets);
    }

    static constexpr auto contextual_forward = &contextual_forward_cuda;
    static constexpr auto contextual_backward = &contextual_backward_cuda;
    static constexpr auto channel_distance_forward = &channel_distance_forward_cuda;
    static constexpr auto channel_distance_backward = &channel_distance_backward_cuda;

    static size_t contextual_forward_workspace(const ContextualProblem& problem, const Device&, bool) {
        return contextual_forward_cuda_workspace(problem);
    }
    static size_t contextual_backward_workspace(const ContextualProblem& problem, const Device&, bool,
                                                bool target_gradient) {
        return contextual_backward_cuda_workspace(problem, target_gradient);
    }
    static size_t channel_distance_forward_workspace(const ChannelDistanceProblem& problem, const Device&) {
        return channel_distance_forward_cuda_workspace(problem);
    }
    static size_t channel_distance_backward_workspace(const ChannelDistanceProblem& problem, const Device&) {
        return channel_distance_backward_cuda_workspace(problem);
    }
};

}  // namespace pe::torch_adapter
