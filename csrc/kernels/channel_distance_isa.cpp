// The channel distance for one instruction set: which layout, which storage.
#include "channel_distance_interleaved.h"
#include "channel_distance_planar.h"

namespace pe::PE_ISA {
namespace {

template <typename S>
double forward_block(const ChannelDistanceJob& job, int task) {
    if (job.interleaved) return Interleaved<S>(job, task).forward();
    return job.contiguous ? Planar<S, false>(job, task).forward() : Planar<S, true>(job, task).forward();
}

template <typename S>
void backward_block(const ChannelDistanceJob& job, int task) {
    if (job.interleaved) {
        Interleaved<S>(job, task).backward();
    } else {
        job.contiguous ? Planar<S, false>(job, task).backward() : Planar<S, true>(job, task).backward();
    }
}

void forward(void* argument, int task) {
    const ChannelDistanceJob& job = *static_cast<const ChannelDistanceJob*>(argument);
    switch (job.problem.type) {
        case Type::kFloat32:
            job.sums[task] = forward_block<float>(job, task);
            break;
        case Type::kFloat64:
            job.sums[task] = forward_block<double>(job, task);
            break;
        case Type::kFloat16:
            job.sums[task] = forward_block<Half>(job, task);
            break;
        case Type::kBFloat16:
            job.sums[task] = forward_block<BFloat16>(job, task);
            break;
    }
}

void backward(void* argument, int task) {
    const ChannelDistanceJob& job = *static_cast<const ChannelDistanceJob*>(argument);
    switch (job.problem.type) {
        case Type::kFloat32:
            backward_block<float>(job, task);
            break;
        case Type::kFloat64:
            backward_block<double>(job, task);
            break;
        case Type::kFloat16:
            backward_block<Half>(job, task);
            break;
        case Type::kBFloat16:
            backward_block<BFloat16>(job, task);
            break;
    }
}

// Vectors from channel 0 to the last selected one; those without a selected channel left out.
template <typename T>
void prepare_groups(ChannelDistanceJob& job) {
    constexpr int kSize = Vec<T>::size;
    const Channels& channels = job.problem.channels;
    const double* factors =
        job.problem.form == DistanceForm::kSquared ? channels.weights : job.problem.linear;
    T* group_factors = static_cast<T*>(job.group_factors);
    T* group_masks = static_cast<T*>(job.group_masks);
    const int64_t groups = (job.span + kSize - 1) / kSize;
    __builtin_memset(group_factors, 0, size_t(groups * kSize) * sizeof(T));
    __builtin_memset(group_masks, 0, size_t(groups * kSize) * sizeof(T));
    for (int64_t k = 0; k < channels.count; ++k) {
        const int64_t channel = channels.indices == nullptr ? k : channels.indices[k];
        group_factors[channel] = factors == nullptr ? T(1) : T(factors[k]);
        __builtin_memset(&group_masks[channel], 0xff, sizeof(T));
    }
    int64_t kept = 0;
    for (int64_t group = 0; group < groups; ++group) {
        const T none[kSize] = {};
        const size_t bytes = sizeof none;
        if (__builtin_memcmp(group_masks + group * kSize, none, bytes) == 0) continue;
        __builtin_memmove(group_masks + kept * kSize, group_masks + group * kSize, bytes);
        __builtin_memmove(group_factors + kept * kSize, group_factors + group * kSize, bytes);
        job.group_offsets[kept++] = group * kSize;
    }
    job.groups = kept;
}

void prepare(ChannelDistanceJob& job) {
    job.problem.type == Type::kFloat64 ? prepare_groups<double>(job) : prepare_groups<float>(job);
}

}  // namespace

const ChannelDistanceSet channel_distance_set = {prepare, forward, backward};

}  // namespace pe::PE_ISA
