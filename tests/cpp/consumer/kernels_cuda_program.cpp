// What can be asked of the kernels for CUDA without a GPU: the memory that they need.
#include <pe_runtime/kernels/channel_distance_cuda.h>

int main() {
    const pe::ChannelDistanceProblem problem{
        1, 3, 5, {2, nullptr, nullptr}, pe::Type::kFloat32, pe::DistanceForm::kSquared, nullptr};
    return pe::channel_distance_forward_cuda_workspace(problem) < (size_t{1} << 30) ? 0 : 1;
}
