// The distance of two feature maps of ones and threes, which is 4.
#include <pe_runtime/kernels/channel_distance.h>

#include <cstddef>
#include <cstdlib>
#include <vector>

int main() {
    const std::vector<float> first(2 * 3 * 5, 1.0f), second(2 * 3 * 5, 3.0f);
    const pe::Layout layout{30, 15, 1};
    const pe::ChannelDistanceProblem problem{
        1, 3, 5, {2, nullptr, nullptr}, pe::Type::kFloat32, pe::DistanceForm::kSquared, nullptr};
    const pe::Pool pool = pe::sequential_pool();
    const size_t bytes = pe::channel_distance_forward_workspace(problem, pool.threads);
    const size_t rounded = (bytes / pe::kWorkspaceAlignment + 1) * pe::kWorkspaceAlignment;
    void* workspace = std::aligned_alloc(pe::kWorkspaceAlignment, rounded);
    float distance = 0;
    pe::channel_distance_forward(problem, {first.data(), layout}, {second.data(), layout}, &distance, nullptr,
                                 workspace, pool);
    std::free(workspace);
    return distance == 4.0f ? 0 : 1;
}
