// The contextual loss on the CPU, for every instruction set; and that threads, layout and neighbours change
// no bit.
#include <string>
#include <thread>

#include "contextual_cases.h"

namespace {

using namespace contextual_cases;

// A thread per task: whatever order the tasks come in, the bits must be those of one thread.
pe::Pool threads(int count) {
    return {count,
            [](void*, int tasks, void (*body)(void*, int), void* argument) {
                std::vector<std::thread> started;
                for (int task = 0; task < tasks; ++task) started.emplace_back(body, argument, task);
                for (std::thread& thread : started) thread.join();
            },
            nullptr};
}

Run on(const pe::Pool& pool) {
    return
        [pool](const pe::ContextualProblem& problem, const pe::Features& source, const pe::Features& target,
               void* loss, const pe::ContextualStatistics& statistics, const void* loss_gradient,
               const pe::Gradient& source_gradient, const pe::Gradient& target_gradient) {
            const bool row_sums = statistics.row_sums != nullptr;
            const auto forward = workspace(pe::contextual_forward_workspace(problem, pool.threads, row_sums));
            pe::contextual_forward(problem, source, target, loss, statistics, forward.get(), pool);
            const auto backward =
                workspace(pe::contextual_backward_workspace(problem, pool.threads, row_sums, true));
            pe::contextual_backward(problem, source, target, statistics, loss_gradient, nullptr,
                                    source_gradient, target_gradient, backward.get(), pool);
        };
}

void check_bits(const Shape& shape) {
    const auto wide_x = features(shape.batch * shape.channels * shape.nx(), 5);
    const auto wide_y = features(shape.batch * shape.channels * shape.ny(), 6);
    const std::vector<float> x(wide_x.begin(), wide_x.end()), y(wide_y.begin(), wide_y.end());
    const pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat32);
    const pe::Layout xl = planar(shape.channels, shape.nx()), yl = planar(shape.channels, shape.ny());
    const Result<float> one = run<float>(on(pe::sequential_pool()), problem, x, y, xl, yl, true);
    for (const int count : {2, 3, 8}) {
        const Result<float> many = run<float>(on(threads(count)), problem, x, y, xl, yl, true);
        CHECK(same_bits(one.loss, many.loss) && same_bits(one.similarity, many.similarity));
        CHECK(same_bits(one.source_gradient, many.source_gradient));
        CHECK(same_bits(one.target_gradient, many.target_gradient));
    }
    const Result<float> bare = run<float>(on(threads(2)), problem, x, y, xl, yl, false);
    CHECK(same_bits(one.loss, bare.loss) && same_bits(one.similarity, bare.similarity));
    CHECK(same_bits(run<float>(on(threads(3)), problem, x, y, xl, yl, false).source_gradient,
                    bare.source_gradient));
    // A sample with a NaN does not touch its neighbours.
    auto spoilt = x;
    spoilt[0] = std::numeric_limits<float>::quiet_NaN();
    const Result<float> other = run<float>(on(threads(2)), problem, spoilt, y, xl, yl, true);
    CHECK(std::isnan(other.loss[0]) && std::isnan(other.similarity[0]) &&
          std::isnan(other.source_gradient[0]));
    for (int64_t b = 1; b < shape.batch; ++b) CHECK(other.loss[b] == one.loss[b]);
    CHECK(other.source_gradient.back() == one.source_gradient.back());
    const auto turn = [&](const std::vector<float>& map, int64_t positions) {
        return turned(map, shape.batch, shape.channels, positions);
    };
    const Result<float> interleaved_result =
        run<float>(on(threads(2)), problem, turn(x, shape.nx()), turn(y, shape.ny()),
                   interleaved(shape.channels, shape.nx()), interleaved(shape.channels, shape.ny()), true);
    CHECK(same_bits(one.loss, interleaved_result.loss) &&
          same_bits(one.similarity, interleaved_result.similarity));
    CHECK(same_bits(turn(one.source_gradient, shape.nx()), interleaved_result.source_gradient));
    CHECK(same_bits(turn(one.target_gradient, shape.ny()), interleaved_result.target_gradient));
}

}  // namespace

int main() {
    const std::string best = pe::instruction_set();
    for (const char* set : {"baseline", "avx2", "avx512"}) {
        if (!pe::set_instruction_set(set)) {
            std::printf("skipped %s: this machine does not have it\n", set);
            continue;
        }
        check_settings(on(threads(2)), {false, true});
        check_bits(Shape{3, 16, 17, 19, 12, 23});
        check_hard_inputs(on(pe::sequential_pool()));
        check_equal_features(on(threads(2)), {false, true});
        check_overflow(on(pe::sequential_pool()));
    }
    CHECK(pe::set_instruction_set(best.c_str()));
}
