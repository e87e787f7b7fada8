// The CPU, see device.h.
#pragma once

#include "channel_distance.h"
#include "contextual.h"
#include "memory.h"

namespace pe::torch_adapter {

class Device {
  public:
    // Refuses features that lie elsewhere.
    Device(const Tensor& features, const char* name);

    // For errors.
    std::string name() const { return "the CPU"; }
    bool holds(const Tensor& tensor) const { return tensor.is_cpu(); }

    // Calls a kernel with the arguments, a workspace and torch's threads.
    template <typename... Parameters, typename... Arguments>
    void run(const char*, void (*kernel)(Parameters...), size_t workspace_bytes,
             const Arguments&... arguments) const {
        const Workspace workspace(workspace_bytes, kWorkspaceAlignment, features_);
        kernel(arguments..., workspace.get(), pool_);
    }

    int threads() const { return pool_.threads; }

  private:
    Tensor features_;
    Pool pool_;
};

struct Kernels {
    static constexpr bool kRowSums = true;

    static void check_grid(const ContextualProblem&) {}

    static constexpr auto contextual_forward = &pe::contextual_forward;
    static constexpr auto contextual_backward = &pe::contextual_backward;
    static constexpr auto channel_distance_forward = &pe::channel_distance_forward;
    static constexpr auto channel_distance_backward = &pe::channel_distance_backward;

    static size_t contextual_forward_workspace(const ContextualProblem& problem, const Device& device,
                                               bool row_sums) {
        return pe::contextual_forward_workspace(problem, device.threads(), row_sums);
    }
    static size_t contextual_backward_workspace(const ContextualProblem& problem, const Device& device,
                                                bool row_sums, bool target_gradient) {
        return pe::contextual_backward_workspace(problem, device.threads(), row_sums, target_gradient);
    }
    static size_t channel_distance_forward_workspace(const ChannelDistanceProblem& problem,
                                                     const Device& device) {
        return pe::channel_distance_forward_workspace(problem, device.threads());
    }
    static size_t channel_distance_backward_workspace(const ChannelDistanceProblem& problem,
                                                      const Device& device) {
        return pe::channel_distance_backward_workspace(problem, device.threads());
    }
};

}  // namespace pe::torch_adapter
