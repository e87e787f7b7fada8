#include "ops_channel_distance.h"

#include "channel_distance_cuda.h"

namespace pe::ort_adapter {

ChannelDistance::ChannelDistance(const Node& node, Type type)
    : type_(type), form_(DistanceForm(choose(node.text("form", "squared"), "form", {"squared", "unit"}))) {}

void ChannelDistance::run(const Run& run) const {
    const Tensor first = run.required(0, "first"), second = run.required(1, "second");
    check_pair(first.shape, second.shape, "first", "second", true);
    const bool unit = form_ == DistanceForm::kUnit;
    const std::optional<Tensor> weights = run.input(3), linear = run.input(4);
    check(!(unit && weights), "weights: expected none with form 'unit', which has linear");
    check(unit || !linear, "linear: expected none with form 'squared', which has weights");
    const ChannelConstants channels(run.input(2), unit ? linear : weights, unit ? "linear" : "weights",
                                    first.shape[1]);
    ChannelDistanceProblem problem{};
    problem.batch = first.shape[0];
    problem.height = first.shape[2];
    problem.width = first.shape[3];
    problem.channels = {channels.count(), channels.indices(), unit ? nullptr : channels.factors()};
    problem.type = type_;
    problem.form = form_;
    problem.linear = unit ? channels.factors() : nullptr;

    void* const distance = run.output(0, {problem.batch});
    void* const map = run.output(1, {problem.batch, 1, problem.height, problem.width});
#ifdef PE_CUDA
    if (run.resources().device == Device::kCuda) {
        const Workspace workspace(run, {channel_distance_forward_cuda_workspace(problem)});
        return check_cuda(channel_distance_forward_cuda(problem, features_of(first), features_of(second),
                                                        distance, map, workspace.part(0), run.stream()));
    }
#endif
    const auto bytes = [&](int tasks) { return channel_distance_forward_workspace(problem, tasks); };
    run.on_session_threads(run.tasks_for(bytes), [&](const Pool& pool) {
        const Workspace workspace(run, {bytes(pool.threads)});
        channel_distance_forward(problem, features_of(first), features_of(second), distance, map,
                                 workspace.part(0), pool);
    });
}

}  // namespace pe::ort_adapter
