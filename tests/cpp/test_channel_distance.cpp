// The channel distance on the CPU, by every instruction set, and on any number of threads.
#include <cstring>
#include <thread>

#include "channel_distance_cases.h"

namespace {

using namespace channel_distance_cases;

void run_on_threads(void* context, int tasks, void (*body)(void*, int), void* argument) {
    std::vector<std::thread> threads;
    const int count = *static_cast<int*>(context);
    for (int thread = 0; thread < count; ++thread) {
        threads.emplace_back([=] {
            for (int task = tasks - 1 - thread; task >= 0; task -= count) body(argument, task);
        });
    }
    for (std::thread& thread : threads) thread.join();
}

struct Aligned {
    explicit Aligned(size_t bytes)
        : data(std::aligned_alloc(pe::kWorkspaceAlignment, bytes + (-bytes) % pe::kWorkspaceAlignment)) {}
    ~Aligned() { std::free(data); }
    void* data;
};

Kernels kernels_on(const pe::Pool& pool) {
    return {[pool](const pe::ChannelDistanceProblem& problem, const pe::Features& first,
                   const pe::Features& second, void* distance, void* map) {
                const Aligned workspace(pe::channel_distance_forward_workspace(problem, pool.threads));
                pe::channel_distance_forward(problem, first, second, distance, map, workspace.data, pool);
            },
            [pool](const pe::ChannelDistanceProblem& problem, const pe::Features& first,
                   const pe::Features& second, const void* distance_gradient, const void* map_gradient,
                   const pe::Gradient& first_gradient, const pe::Gradient& second_gradient) {
                const Aligned workspace(pe::channel_distance_backward_workspace(problem, pool.threads));
                pe::channel_distance_backward(problem, first, second, distance_gradient, map_gradient,
                                              first_gradient, second_gradient, workspace.data, pool);
            }};
}

// The same bits on any number of threads, and for a sample alone or in a batch.
void check_threads() {
    for (const pe::DistanceForm form : {pe::DistanceForm::kSquared, pe::DistanceForm::kUnit}) {
        for (const Order order : {kPlanar, kInterleaved}) {
            Case c;
            c.form = form;
            c.batch = 3, c.channels = 21, c.height = 61, c.width = 67;
            c.first_order = c.second_order = order;
            Map first(c.type, c.batch, c.channels, c.positions(), order), second = first;
            fill(&first, &second, 1);
            const Kernels sequential = kernels_on(pe::sequential_pool());
            const Result one = forward(c, first, second, sequential);
            Map gradient(c.type, c.batch, c.channels, c.positions(), order), other = gradient;
            backward(c, first, second, {{1, 2, 3}, {}}, &gradient, nullptr, sequential);
            for (int threads : {2, 3}) {
                const pe::Pool pool{threads, run_on_threads, &threads};
                const Result many = forward(c, first, second, kernels_on(pool));
                CHECK(many.distance_memory == one.distance_memory && many.map_memory == one.map_memory);
                backward(c, first, second, {{1, 2, 3}, {}}, &other, nullptr, kernels_on(pool));
                CHECK(other.memory == gradient.memory);
            }
            Case last = c;
            last.batch = 1;
            const auto sample = [&](const Map& map) {
                Map part(c.type, 1, c.channels, c.positions(), order);
                std::memcpy(part.memory.data(), map.memory.data() + 2 * part.memory.size(),
                            part.memory.size());
                return part;
            };
            const Result alone = forward(last, sample(first), sample(second), sequential);
            CHECK(alone.distance[0] == one.distance[2]);
        }
    }
}

}  // namespace

int main() {
    for (const char* name : {"baseline", "avx2", "avx512"}) {
        if (!pe::set_instruction_set(name)) {
            std::printf("skipped: this machine has no %s\n", name);
            continue;
        }
        check_all(kernels_on(pe::sequential_pool()));
        check_threads();
    }
    return 0;
}
