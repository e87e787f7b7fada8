// Forward of the channel distance on CUDA devices.
#include "channel_distance_cuda.h"
#include "channel_distance_cuda_plan.h"

namespace pe {
namespace cuda {
namespace {

// Mean of a sample's map, from the sums of its blocks: one block per sample.
template <typename T>
__global__ void __launch_bounds__(256)
    average(const double* sums, int blocks, int64_t positions, T* distance) {
    double* shared = reinterpret_cast<double*>(dynamic_shared());
    const double* own = sums + int64_t(blockIdx.x) * blocks;
    double sum = 0;
    for (int block = int(threadIdx.x); block < blocks; block += int(blockDim.x)) sum += own[block];
    double* total = shared + kBlockSumBytes / sizeof(double);
    write_block_sum(sum, shared, total);
    if (threadIdx.x == 0) distance[blockIdx.x] = T(*total / double(positions));
}

template <typename S, int V, bool kUnit>
void launch_forward(Launcher& launcher, const DistancePlan& plan, const DistanceJob& job, int64_t batch) {
    const dim3 grid(unsigned(batch * plan.blocks));
    launcher.launch(plan.interleaved ? interleaved_forward<S, V, kUnit> : planar_forward<S, V, kUnit>, grid,
                    int(plan.threads), plan.shared, job);
}

template <typename S>
void run_forward(Launcher& launcher, const ChannelDistanceProblem& problem, const DistanceJob& job,
                 const DistancePlan& plan, void* distance) {
    using T = Arithmetic<S>;
    const bool unit = problem.form == DistanceForm::kUnit;
    if (plan.vectors) {
        unit ? launch_forward<S, kVector<S>, true>(launcher, plan, job, problem.batch)
             : launch_forward<S, kVector<S>, false>(launcher, plan, job, problem.batch);
    } else {
        unit ? launch_forward<S, 1, true>(launcher, plan, job, problem.batch)
             : launch_forward<S, 1, false>(launcher, plan, job, problem.batch);
    }
    launcher.launch(average<T>, dim3(unsigned(problem.batch)), 256, kBlockSumBytes + sizeof(double), job.sums,
                    job.blocks, job.positions, static_cast<T*>(distance));
}

}  // namespace
}  // namespace cuda

size_t channel_distance_forward_cuda_workspace(const ChannelDistanceProblem& problem) {
    return cuda::distance_workspace(problem, true);
}

const char* channel_distance_forward_cuda(const ChannelDistanceProblem& problem, const Features& first,
                                          const Features& second, void* distance, void* map, void* workspace,
                                          void* stream) {
    cuda::Launcher launcher(stream);
    cuda::DistanceJob job = cuda::distance_job(launcher, problem, first, second, workspace, true);
    job.map = map;
    const cuda::DistancePlan plan = cuda::plan_of(problem, job);
    cuda::follow(plan, job);
    cuda::with_storage(problem.type, [&](auto storage) {
        cuda::run_forward<decltype(storage)>(launcher, problem, job, plan, distance);
    });
    return launcher.error();
}

}  // namespace pe
