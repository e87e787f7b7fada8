// The CUDA kernels of the channel distance, emulated on the CPU: the cases of the CPU kernels, and sizes at
// which blocks share their work in other ways.
#include <cstring>

#include "channel_distance_cases.h"
#include "channel_distance_cuda.h"
#include "cuda_language.h"

namespace {

using namespace channel_distance_cases;
using pe::cuda::emulation::settings;

struct Workspace {
    explicit Workspace(size_t bytes) {
        constexpr size_t kAlignment = 256;
        const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
        data = std::aligned_alloc(kAlignment, rounded);
        std::memset(data, 0xff, rounded);  // NaN, and what no kernel may rely on
    }
    ~Workspace() { std::free(data); }
    void* data;
};

void succeed(const char* error) {
    if (error != nullptr) check::fail(__FILE__, __LINE__, error);
}

const Kernels kEmulated = {
    [](const pe::ChannelDistanceProblem& problem, const pe::Features& first, const pe::Features& second,
       void* distance, void* map) {
        const Workspace workspace(pe::channel_distance_forward_cuda_workspace(problem));
        succeed(pe::channel_distance_forward_cuda(problem, first, second, distance, map, workspace.data,
                                                  nullptr));
    },
    [](const pe::ChannelDistanceProblem& problem, const pe::Features& first, const pe::Features& second,
       const void* distance_gradient, const void* map_gradient, const pe::Gradient& first_gradient,
       const pe::Gradient& second_gradient) {
        const Workspace workspace(pe::channel_distance_backward_cuda_workspace(problem));
        succeed(pe::channel_distance_backward_cuda(problem, first, second, distance_gradient, map_gradient,
                                                   first_gradient, second_gradient, workspace.data, nullptr));
    }};

Case sized(int64_t batch, int64_t channels, int64_t height, int64_t width, Order order) {
    Case c;
    c.batch = batch, c.channels = channels, c.height = height, c.width = width;
    c.first_order = c.second_order = order;
    return c;
}

// Blocks that share channels, more of them than their threads keep, and more tiles than blocks.
void check_sizes() {
    const int64_t shapes[][4] = {{2, 64, 8, 8},  {1, 24, 16, 24}, {1, 9, 40, 40},  {2, 3, 40, 136},
                                 {1, 300, 4, 8}, {1, 600, 4, 4},  {1, 1040, 2, 8}, {1, 300, 3, 3},
                                 {1, 301, 3, 1}, {1, 520, 2, 2}};
    for (const pe::DistanceForm form : {pe::DistanceForm::kSquared, pe::DistanceForm::kUnit}) {
        for (const auto& shape : shapes) {
            for (const Order order : {kPlanar, kInterleaved}) {
                Case c = sized(shape[0], shape[1], shape[2], shape[3], order);
                c.form = form;
                c.factors = factors_of(size_t(c.count()));
                for (const Type type : {Type::kFloat32, Type::kFloat64, Type::kFloat16, Type::kBFloat16}) {
                    c.type = type;
                    check_case(c, kEmulated);
                }
            }
        }
        // In vectors, and one by one.
        for (Case c : {sized(1, 129, 260, 256, kPlanar), sized(1, 40, 131, 253, kPlanar),
                       sized(1, 130, 131, 127, kInterleaved)}) {
            c.form = form;
            if (form == pe::DistanceForm::kUnit || c.positions() < 50000) check_case(c, kEmulated);
        }
    }
}

// The same bits in whatever order threads and blocks run, on any device, and for a sample alone or in a
// batch.
void check_order() {
    for (const pe::DistanceForm form : {pe::DistanceForm::kSquared, pe::DistanceForm::kUnit}) {
        for (const Order order : {kPlanar, kInterleaved}) {
            for (const int64_t width : {12, 17}) {
                Case c = sized(3, 44, 9, width, order);
                c.form = form;
                Map first(c.type, c.batch, c.channels, c.positions(), order), second = first;
                fill(&first, &second, 1);
                const Result result = forward(c, first, second, kEmulated);
                Map gradient(c.type, c.batch, c.channels, c.positions(), order), other = gradient;
                backward(c, first, second, {{1, 2, 3}, {}}, &gradient, nullptr, kEmulated);
                for (const uint64_t seed : {2, 3, 4, 5, 6}) {
                    settings().seed = seed;
                    settings().multiprocessors = int(1 + seed * seed);
                    const Result again = forward(c, first, second, kEmulated);
                    CHECK(again.distance_memory == result.distance_memory);
                    CHECK(again.map_memory == result.map_memory);
                    backward(c, first, second, {{1, 2, 3}, {}}, &other, nullptr, kEmulated);
                    CHECK(other.memory == gradient.memory);
                }
                settings() = {};
                Case last = c;
                last.batch = 1;
                const auto sample = [&](const Map& map) {
                    Map part(c.type, 1, c.channels, c.positions(), order);
                    std::memcpy(part.memory.data(), map.memory.data() + 2 * part.memory.size(),
                                part.memory.size());
                    return part;
                };
                CHECK(forward(last, sample(first), sample(second), kEmulated).distance[0] ==
                      result.distance[2]);
            }
        }
    }
}

// Maps that suit vectors but for where they begin.
void check_offset() {
    for (const Order order : {kPlanar, kInterleaved}) {
        Case c = sized(2, 16, 4, 8, order);
        c.form = pe::DistanceForm::kUnit;
        Map first(c.type, c.batch, c.channels, c.positions(), order), second = first;
        fill(&first, &second, 1);
        const Result result = forward(c, first, second, kEmulated);
        std::vector<unsigned char> moved(first.memory.size() + sizeof(float));
        std::memcpy(moved.data() + sizeof(float), first.memory.data(), first.memory.size());
        float distance[2];
        kEmulated.forward(c.problem(), {moved.data() + sizeof(float), first.layout}, second.features(),
                          distance, nullptr);
        for (int b = 0; b < 2; ++b) CHECK_RELATIVE(distance[b], result.distance[size_t(b)], 1e-6);
    }
}

}  // namespace

int main() {
    check_all(kEmulated);
    check_sizes();
    check_order();
    check_offset();
    return 0;
}
