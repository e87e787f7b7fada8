// How the channel distance is shared out on a CUDA device: which kernel, how many threads where. Included
// only by channel_distance_*cuda.cu.
//
// All of it follows from the sample's size and layout, never from the batch or the device: a sample's result
// has the same bits wherever it is computed.
#pragma once

#include "channel_distance_cuda_interleaved.h"
#include "channel_distance_cuda_planar.h"
#include "cuda_constants.h"

namespace pe::cuda {

// Of a sample.
constexpr int64_t kMostBlocks = 2048;
// What fills a large GPU, once or twice.
constexpr int64_t kManyBlocks = 256;

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t power_of_two_above(int64_t n) {
    int64_t power = 1;
    while (power < n) power *= 2;
    return power;
}

inline int64_t bytes_of(Type type) {
    if (type == Type::kFloat64) return 8;
    return type == Type::kFloat32 ? 4 : 2;
}

struct DistancePlan {
    bool interleaved;
    bool vectors;  // 16 bytes at a time
    int64_t lanes, slices, threads;
    int64_t blocks;  // per sample
    size_t shared;
};

// Whether every map, of those that are wanted, has vectors of so many elements along one stride.
class Layouts {
  public:
    explicit Layouts(const DistanceJob& job) {
        add(job.first.data, job.first.layout);
        add(job.second.data, job.second.layout);
        add(job.first_gradient.data, job.first_gradient.layout);
        add(job.second_gradient.data, job.second_gradient.layout);
    }
    template <typename Predicate>
    bool all(Predicate predicate) const {
        bool result = true;
        for (int i = 0; i < count_; ++i) result = result && predicate(data_[i], *layouts_[i]);
        return result;
    }

  private:
    void add(const void* data, const Layout& layout) {
        if (data == nullptr) return;
        data_[count_] = data;
        layouts_[count_++] = &layout;
    }
    const void* data_[4];
    const Layout* layouts_[4];
    int count_ = 0;
};

inline void plan_planar(DistancePlan& plan, int64_t positions, int64_t channels, int64_t element) {
    const int64_t vector = plan.vectors ? kVectorBytes / element : 1;
    // A thread's channels stay in registers where the block can have enough threads.
    const int64_t kept = !plan.vectors  ? kPlanarKept<4, 1>
                         : element == 2 ? kPlanarKept<2, 8>
                         : element == 4 ? kPlanarKept<4, 4>
                                        : kPlanarKept<8, 2>;
    const int64_t threads = 128, most = plan.vectors ? kPlanarThreads<2> : kPlanarThreads<1>;
    // A line of memory in vectors, or half of it.
    const bool wide = plan.vectors && divided_up(channels, kept) <= most / 8;
    const int64_t least_lanes = !plan.vectors ? 16 : wide ? 8 : 4;
    plan.slices = power_of_two_above(divided_up(channels, kept));
    plan.slices = plan.slices < most / least_lanes ? plan.slices : most / least_lanes;
    plan.lanes = plan.slices < threads / least_lanes ? threads / plan.slices : least_lanes;
    // Small maps: rather more blocks than more channels per thread.
    while (plan.lanes > least_lanes && plan.slices * 2 <= channels &&
           divided_up(positions, plan.lanes * vector) < kManyBlocks) {
        plan.lanes /= 2;
        plan.slices *= 2;
    }
    plan.threads = plan.lanes * plan.slices;
    const int64_t tiles = divided_up(positions, plan.lanes * vector);
    plan.blocks = divided_up(tiles, divided_up(tiles, kMostBlocks));
    const int lanes = int(plan.lanes), slices = int(plan.slices);
    plan.shared = element == 8 ? PlanarShared<double>::bytes(lanes, slices, int(vector))
                               : PlanarShared<float>::bytes(lanes, slices, int(vector));
}

inline void plan_interleaved(DistancePlan& plan, int64_t positions, int64_t channels, int64_t element) {
    const int64_t vector = plan.vectors ? kVectorBytes / element : 1;
    const int64_t kept = plan.vectors   ? kInterleavedKept<4, 4>
                         : element == 8 ? kInterleavedKept<8, 1>
                                        : kInterleavedKept<4, 1>;
    const int64_t warp = 32;
    plan.slices = 1;
    plan.lanes = power_of_two_above(divided_up(channels, vector * kept));
    plan.lanes = plan.lanes < warp ? plan.lanes : warp;
    plan.threads = 256;
    while (plan.threads > 64 && divided_up(positions * plan.lanes, plan.threads) < kManyBlocks)
        plan.threads /= 2;
    const int64_t tiles = divided_up(positions * plan.lanes, plan.threads);
    plan.blocks = divided_up(tiles, divided_up(tiles, kMostBlocks));
    plan.shared = kBlockSumBytes;
}

inline DistancePlan plan_of(const ChannelDistanceProblem& problem, const DistanceJob& job) {
    const int64_t positions = problem.positions(), channels = problem.channels.count;
    const int64_t element = bytes_of(problem.type), vector = kVectorBytes / element;
    const Layouts layouts(job);
    // The stride of the only one there is says nothing.
    const bool planar =
        layouts.all([=](const void*, const Layout& x) { return x.position_stride == 1 || positions == 1; });
    const bool one_channel = channels == 1 && job.indices == nullptr;
    const bool channels_last =
        layouts.all([=](const void*, const Layout& x) { return x.channel_stride == 1 || one_channel; });
    const auto aligned = [=](const void* data, int64_t batch_stride, int64_t stride) {
        return reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0 && stride % vector == 0 &&
               (batch_stride % vector == 0 || problem.batch == 1);
    };
    DistancePlan plan{};
    plan.interleaved = channels_last && (!planar || positions == 1);
    if (plan.interleaved) {
        plan.vectors = job.indices == nullptr && channels % vector == 0 &&
                       layouts.all([=](const void* data, const Layout& x) {
                           return aligned(data, x.batch_stride, positions == 1 ? 0 : x.position_stride);
                       });
        plan_interleaved(plan, positions, channels, element);
    } else {
        plan.vectors =
            planar && positions % vector == 0 && layouts.all([=](const void* data, const Layout& x) {
                return aligned(data, x.batch_stride, one_channel ? 0 : x.channel_stride);
            });
        plan_planar(plan, positions, channels, element);
    }
    return plan;
}

inline size_t distance_workspace(const ChannelDistanceProblem& problem, bool sums) {
    const int64_t positions = problem.positions();
    Arena arena(nullptr);
    if (sums) arena.take<double>(problem.batch * (positions < kMostBlocks ? positions : kMostBlocks));
    return arena.used() + device_channels_bytes(problem.channels.count);
}

// Fills in what both directions share and stages the channels, where there is anything to stage.
inline DistanceJob distance_job(Launcher& launcher, const ChannelDistanceProblem& problem,
                                const Features& first, const Features& second, void* workspace, bool sums) {
    DistanceJob job{};
    job.first = first;
    job.second = second;
    job.positions = problem.positions();
    job.channels = int32_t(problem.channels.count);
    Arena arena(workspace);
    if (sums) {
        job.sums =
            arena.take<double>(problem.batch * (job.positions < kMostBlocks ? job.positions : kMostBlocks));
    }
    const bool squared = problem.form == DistanceForm::kSquared;
    const double* factors = squared ? problem.channels.weights : problem.linear;
    const int64_t* indices = problem.channels.indices;
    if (indices == nullptr && factors == nullptr) return job;
    const DeviceChannels staged =
        stage_channels(launcher, {problem.channels.count, indices, factors},
                       arena.take<unsigned char>(int64_t(device_channels_bytes(problem.channels.count))));
    if (indices != nullptr) job.indices = staged.indices;
    if (factors != nullptr && problem.type == Type::kFloat64) job.factors = staged.weights;
    if (factors != nullptr && problem.type != Type::kFloat64) job.factors = staged.single_weights;
    return job;
}

inline void follow(const DistancePlan& plan, DistanceJob& job) {
    job.blocks = int32_t(plan.blocks);
    job.lanes = int32_t(plan.lanes);
    job.slices = int32_t(plan.slices);
    while (1 << job.lane_bits < job.lanes) ++job.lane_bits;
}

// Calls body(S{}) with the type of the elements.
template <typename Body>
void with_storage(Type type, Body body) {
    switch (type) {
        case Type::kFloat32:
            return body(float{});
        case Type::kFloat64:
            return body(double{});
        case Type::kFloat16:
            return body(Half{});
        case Type::kBFloat16:
            return body(BFloat16{});
    }
}

}  // namespace pe::cuda
