// Gradients of the channel distance on CUDA devices.
#include "channel_distance_cuda.h"
#include "channel_distance_cuda_plan.h"

namespace pe {
namespace cuda {
namespace {

template <typename S, int V>
void launch_backward(Launcher& launcher, const ChannelDistanceProblem& problem, const DistancePlan& plan,
                     const DistanceJob& job) {
    void (*kernel)(DistanceJob);
    if (problem.form == DistanceForm::kUnit) {
        kernel = plan.interleaved ? interleaved_unit_backward<S, V> : planar_unit_backward<S, V>;
    } else {
        kernel = plan.interleaved ? interleaved_squared_backward<S, V> : planar_squared_backward<S, V>;
    }
    launcher.launch(kernel, dim3(unsigned(problem.batch * plan.blocks)), int(plan.threads), plan.shared, job);
}

}  // namespace
}  // namespace cuda

size_t channel_distance_backward_cuda_workspace(const ChannelDistanceProblem& problem) {
    return cuda::distance_workspace(problem, false);
}

const char* channel_distance_backward_cuda(const ChannelDistanceProblem& problem, const Features& first,
                                           const Features& second, const void* distance_gradient,
                                           const void* map_gradient, const Gradient& first_gradient,
                                           const Gradient& second_gradient, void* workspace, void* stream) {
    cuda::Launcher launcher(stream);
    cuda::DistanceJob job = cuda::distance_job(launcher, problem, first, second, workspace, false);
    job.distance_gradient = distance_gradient;
    job.map_gradient = map_gradient;
    job.first_gradient = first_gradient;
    job.second_gradient = second_gradient;
    const cuda::DistancePlan plan = cuda::plan_of(problem, job);
    cuda::follow(plan, job);
    cuda::with_storage(problem.type, [&](auto storage) {
        using S = decltype(storage);
        if (plan.vectors) {
            cuda::launch_backward<S, cuda::kVector<S>>(launcher, problem, plan, job);
        } else {
            cuda::launch_backward<S, 1>(launcher, problem, plan, job);
        }
    });
    return launcher.error();
}

}  // namespace pe
