#include "ops_contextual.h"

#include "contextual_cuda.h"

namespace pe::ort_adapter {

ContextualLoss::ContextualLoss(const Node& node, Type type) {
    settings_.type = type;
    settings_.bandwidth = node.number("bandwidth", 0.5);
    settings_.distance = Distance(choose(node.text("distance", "cosine"), "distance", {"cosine", "l2"}));
    settings_.center = Center(choose(node.text("center", "sample"), "center", {"sample", "batch", "none"}));
    settings_.spatial_weight = node.number("spatial_weight", 0);
    settings_.form = Form(choose(node.text("form", "log"), "form", {"log", "one_minus"}));
    settings_.eps = node.number("eps", 1e-5);
    settings_.eps_log = node.number("eps_log", 0);
    check_numbers(settings_);
}

void ContextualLoss::run(const Run& run) const {
    const Tensor source = run.required(0, "source"), target = run.required(1, "target");
    check_pair(source.shape, target.shape, "source", "target", false);
    const ChannelConstants channels(run.input(2), run.input(3), "weights", source.shape[1]);
    ContextualProblem problem = settings_;
    problem.batch = source.shape[0];
    problem.source_height = source.shape[2];
    problem.source_width = source.shape[3];
    problem.target_height = target.shape[2];
    problem.target_width = target.shape[3];
    problem.channels = {channels.count(), channels.indices(), channels.factors()};

    void* const loss = run.output(0, {problem.batch});
    void* const map = run.output(1, {problem.batch, 1, problem.target_height, problem.target_width});
    const size_t real = problem.type == Type::kFloat64 ? sizeof(double) : sizeof(float);
    const size_t sources = size_t(problem.batch * problem.source_positions());
    const size_t targets = size_t(problem.batch * problem.target_positions());
    const auto compute = [&](size_t kernel_bytes, const auto& kernel) {
        // What only a gradient needs goes to the workspace.
        const Workspace workspace(
            run, {kernel_bytes, map == nullptr ? targets * real : 0, targets * sizeof(int32_t),
                  sources * real, sources * sizeof(int32_t), sources * real});
        const ContextualStatistics statistics{map == nullptr ? workspace.part(1) : map,
                                              workspace.part<int32_t>(2),
                                              workspace.part(3),
                                              workspace.part<int32_t>(4),
                                              workspace.part(5),
                                              nullptr};
        kernel(statistics, workspace.part(0));
    };
#ifdef PE_CUDA
    if (run.resources().device == Device::kCuda) {
        return compute(contextual_forward_cuda_workspace(problem), [&](const auto& statistics, void* memory) {
            check_cuda(contextual_forward_cuda(problem, features_of(source), features_of(target), loss,
                                               statistics, memory, run.stream()));
        });
    }
#endif
    const auto bytes = [&](int tasks) { return contextual_forward_workspace(problem, tasks, false); };
    run.on_session_threads(run.tasks_for(bytes), [&](const Pool& pool) {
        compute(bytes(pool.threads), [&](const auto& statistics, void* memory) {
            contextual_forward(problem, features_of(source), features_of(target), loss, statistics, memory,
                               pool);
        });
    });
}

}  // namespace pe::ort_adapter
