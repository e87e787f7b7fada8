#include "channel_distance.h"

#include <algorithm>

#include "channel_distance_internal.h"
#include "common_internal.h"

namespace pe {
namespace {

const ChannelDistanceSet& set_in_use() {
#ifdef PE_X86
    if (isa_level() == kAvx512) return avx512::channel_distance_set;
    if (isa_level() == kAvx2) return avx2::channel_distance_set;
#endif
    return baseline::channel_distance_set;
}

int64_t bytes_of(Type type) {
    if (type == Type::kFloat64) return 8;
    return type == Type::kFloat32 ? 4 : 2;
}

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a sample is cut: by its size only, so that no result depends on the batch or on the threads. Every
// sample makes a few tasks, if it has the positions, for the threads to share.
void cut(const ChannelDistanceProblem& problem, bool backward, ChannelDistanceJob& job) {
    constexpr int64_t kLeast = 64, kTasks = 8, kRow = 4096, kCache = 512 * 1024;
    const int64_t bytes = bytes_of(problem.type);
    // A page of each channel.
    int64_t most = std::min(kMaxBlock, kRow / bytes);
    if (backward && problem.form == DistanceForm::kUnit) {
        // The gradients need a second look at both inputs: it should find them in the cache.
        most = std::min(most, std::max(kCache / (2 * problem.channels.count * bytes), kLeast));
    }
    const int64_t positions = problem.positions();
    const int64_t blocks =
        std::max(divided_up(positions, most), std::min(kTasks, divided_up(positions, 4 * kLeast)));
    job.block = std::min(divided_up(divided_up(positions, blocks), kLeast) * kLeast, kMaxBlock);
    job.blocks = divided_up(positions, job.block);
}

int64_t span_of(const Channels& channels) {
    if (channels.indices == nullptr) return channels.count;
    return 1 + *std::max_element(channels.indices, channels.indices + channels.count);
}

// Hands out parts of the workspace; counts only where that is null.
class Arena {
  public:
    explicit Arena(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

    void* take(int64_t bytes) {
        std::byte* part = memory_ == nullptr ? nullptr : memory_ + used_;
        used_ += divided_up(bytes, int64_t(kWorkspaceAlignment)) * int64_t(kWorkspaceAlignment);
        return part;
    }
    size_t used() const { return size_t(used_); }

  private:
    std::byte* memory_;
    int64_t used_ = 0;
};

size_t assign(ChannelDistanceJob& job, void* workspace, bool with_sums) {
    Arena arena(workspace);
    // Room for vectors of any set, and of either layout: neither is known when the workspace is asked for.
    constexpr int64_t kMostLanes = 16, kLeastLanes = 2;
    const int64_t lanes = job.span + kMostLanes;
    const int64_t element = job.problem.type == Type::kFloat64 ? 8 : 4;
    job.group_offsets = static_cast<int64_t*>(arena.take(lanes / kLeastLanes * 8));
    job.group_factors = arena.take(lanes * element);
    job.group_masks = arena.take(lanes * element);
    if (with_sums) job.sums = static_cast<double*>(arena.take(job.problem.batch * job.blocks * 8));
    return arena.used();
}

ChannelDistanceJob job_of(const ChannelDistanceProblem& problem, bool backward) {
    ChannelDistanceJob job{};
    job.problem = problem;
    job.span = span_of(problem.channels);
    cut(problem, backward, job);
    return job;
}

// The way that suits both inputs and the gradients.
void choose_layout(ChannelDistanceJob& job) {
    const Layout* layouts[] = {&job.first.layout, &job.second.layout,
                               job.first_gradient.data == nullptr ? nullptr : &job.first_gradient.layout,
                               job.second_gradient.data == nullptr ? nullptr : &job.second_gradient.layout};
    // The stride of the only one there is says nothing.
    bool positions = true, channels = true;
    for (const Layout* layout : layouts) {
        if (layout == nullptr) continue;
        positions = positions && (layout->position_stride == 1 || job.problem.positions() == 1);
        channels = channels && (layout->channel_stride == 1 || job.span == 1);
    }
    job.contiguous = positions;
    job.interleaved = channels && (!positions || job.problem.positions() == 1);
}

template <typename T>
void average(const ChannelDistanceJob& job, void* distance) {
    for (int64_t sample = 0; sample < job.problem.batch; ++sample) {
        const double* sums = job.sums + sample * job.blocks;
        double sum = 0;
        for (int64_t block = 0; block < job.blocks; ++block) sum += sums[block];
        static_cast<T*>(distance)[sample] = T(sum / double(job.problem.positions()));
    }
}

}  // namespace

size_t channel_distance_forward_workspace(const ChannelDistanceProblem& problem, int) {
    ChannelDistanceJob job = job_of(problem, false);
    return assign(job, nullptr, true);
}

size_t channel_distance_backward_workspace(const ChannelDistanceProblem& problem, int) {
    ChannelDistanceJob job = job_of(problem, true);
    return assign(job, nullptr, false);
}

void channel_distance_forward(const ChannelDistanceProblem& problem, const Features& first,
                              const Features& second, void* distance, void* map, void* workspace,
                              const Pool& pool) {
    ChannelDistanceJob job = job_of(problem, false);
    assign(job, workspace, true);
    job.first = first;
    job.second = second;
    job.map = map;
    choose_layout(job);
    const ChannelDistanceSet& set = set_in_use();
    if (job.interleaved) set.prepare(job);
    pool.run(pool.context, int(problem.batch * job.blocks), set.forward, &job);
    if (problem.type == Type::kFloat64) {
        average<double>(job, distance);
    } else {
        average<float>(job, distance);
    }
}

void channel_distance_backward(const ChannelDistanceProblem& problem, const Features& first,
                               const Features& second, const void* distance_gradient,
                               const void* map_gradient, const Gradient& first_gradient,
                               const Gradient& second_gradient, void* workspace, const Pool& pool) {
    ChannelDistanceJob job = job_of(problem, true);
    assign(job, workspace, false);
    job.first = first;
    job.second = second;
    job.distance_gradient = distance_gradient;
    job.map_gradient = map_gradient;
    job.first_gradient = first_gradient;
    job.second_gradient = second_gradient;
    choose_layout(job);
    const ChannelDistanceSet& set = set_in_use();
    if (job.interleaved) set.prepare(job);
    pool.run(pool.context, int(problem.batch * job.blocks), set.backward, &job);
}

}  // namespace pe
