// The instruction set that is chosen on this machine is the one that is named, and its kernels run: on a
// machine that lacks what they were compiled with, they end the process. qemu's models of processors lack one
// thing at a time.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "channel_distance.h"
#include "check.h"
#include "half.h"

int main(int count, char** arguments) {
    CHECK(count <= 2);
    const std::string expected = count == 2 ? arguments[1] : pe::instruction_set();
    if (expected != pe::instruction_set()) {
        std::fprintf(stderr, "expected the set %s, got %s\n", expected.c_str(), pe::instruction_set());
        return 1;
    }
    // Half precision, whose conversions are instructions of their own.
    const int64_t channels = 5, positions = 300;
    pe::ChannelDistanceProblem problem{
        1,      1, positions, {channels, nullptr, nullptr}, pe::Type::kFloat16, pe::DistanceForm::kSquared,
        nullptr};
    std::vector<uint16_t> first(size_t(channels * positions)), second(first.size());
    for (size_t i = 0; i < first.size(); ++i) {
        first[i] = half::bits(half::kFloat16, 0.5);
        second[i] = half::bits(half::kFloat16, 0.25);
    }
    std::vector<float> map(static_cast<size_t>(positions));
    float distance = 0;
    std::vector<std::byte> memory(channel_distance_forward_workspace(problem, 1) + pe::kWorkspaceAlignment);
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    const uintptr_t aligned =
        (address + pe::kWorkspaceAlignment - 1) / pe::kWorkspaceAlignment * pe::kWorkspaceAlignment;
    const pe::Layout layout{channels * positions, positions, 1};
    channel_distance_forward(problem, {first.data(), layout}, {second.data(), layout}, &distance, map.data(),
                             reinterpret_cast<void*>(aligned), pe::sequential_pool());
    CHECK(std::isfinite(distance));
    CHECK(distance > 0);
}
