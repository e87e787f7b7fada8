// The CUDA kernels of the contextual loss, emulated on the CPU: the cases of the CPU kernels, and these
// kernels as the judge where finite differences are too coarse.
#include "contextual_cases.h"
#include "contextual_cuda.h"
#include "cuda_language.h"
#include "half.h"

namespace {

using namespace contextual_cases;
using pe::cuda::emulation::settings;

std::unique_ptr<void, Free> device_workspace(size_t bytes) {
    const size_t rounded = (bytes + pe::kCudaAlignment - 1) / pe::kCudaAlignment * pe::kCudaAlignment;
    std::unique_ptr<void, Free> memory(std::aligned_alloc(pe::kCudaAlignment, rounded));
    std::memset(memory.get(), 0xff, rounded);  // NaN, and what no kernel may rely on
    return memory;
}

void succeed(const char* error) {
    if (error != nullptr) check::fail(__FILE__, __LINE__, error);
}

void emulated(const pe::ContextualProblem& problem, const pe::Features& source, const pe::Features& target,
              void* loss, const pe::ContextualStatistics& statistics, const void* loss_gradient,
              const pe::Gradient& source_gradient, const pe::Gradient& target_gradient) {
    const auto forward = device_workspace(pe::contextual_forward_cuda_workspace(problem));
    succeed(pe::contextual_forward_cuda(problem, source, target, loss, statistics, forward.get(), nullptr));
    const bool target_wanted = target_gradient.data != nullptr;
    const auto backward = device_workspace(pe::contextual_backward_cuda_workspace(problem, target_wanted));
    succeed(pe::contextual_backward_cuda(problem, source, target, statistics, loss_gradient, nullptr,
                                         source_gradient, target_gradient, backward.get(), nullptr));
}

void on_the_cpu(const pe::ContextualProblem& problem, const pe::Features& source, const pe::Features& target,
                void* loss, const pe::ContextualStatistics& statistics, const void* loss_gradient,
                const pe::Gradient& source_gradient, const pe::Gradient& target_gradient) {
    const pe::Pool pool = pe::sequential_pool();
    const auto forward = workspace(pe::contextual_forward_workspace(problem, 1, false));
    pe::contextual_forward(problem, source, target, loss, statistics, forward.get(), pool);
    const auto backward = workspace(pe::contextual_backward_workspace(problem, 1, false, true));
    pe::contextual_backward(problem, source, target, statistics, loss_gradient, nullptr, source_gradient,
                            target_gradient, backward.get(), pool);
}

template <typename T>
double relative_error(const std::vector<T>& got, const std::vector<double>& exact) {
    return distance_of(got, exact) / norm(exact);
}

// Smooth features like those of photographs, and the same with noise.
struct Pair {
    std::vector<float> x, y;
    std::vector<double> wide_x, wide_y;

    Pair(const Shape& shape, double noise) {
        std::mt19937 generator(11);
        std::normal_distribution<double> normal;
        const int64_t waves = 6;
        for (int64_t b = 0; b < shape.batch; ++b) {
            for (int64_t c = 0; c < shape.channels; ++c) {
                std::vector<double> parameters(4 * waves);
                for (double& parameter : parameters) parameter = normal(generator);
                const auto value = [&](int64_t p, int64_t width) {
                    double sum = 0;
                    for (int64_t n = 0; n < waves; ++n) {
                        const double* at = &parameters[size_t(4 * n)];
                        sum += at[0] * std::sin(at[1] * double(p / width) * 0.3 +
                                                at[2] * double(p % width) * 0.3 + 3 * at[3]);
                    }
                    return sum;
                };
                for (int64_t p = 0; p < shape.nx(); ++p) x.push_back(float(value(p, shape.source_width)));
                for (int64_t p = 0; p < shape.ny(); ++p) {
                    y.push_back(float(value(p, shape.target_width) + noise * normal(generator)));
                }
            }
        }
        wide_x.assign(x.begin(), x.end());
        wide_y.assign(y.begin(), y.end());
    }
};

// Gives every feature of one sample this length.
void set_lengths(std::vector<float>& map, std::vector<double>& wide, int64_t channels, double length) {
    const int64_t positions = int64_t(map.size()) / channels;
    for (int64_t p = 0; p < positions; ++p) {
        double square = 0;
        for (int64_t c = 0; c < channels; ++c) square += std::pow(map[size_t(c * positions + p)], 2);
        for (int64_t c = 0; c < channels; ++c) {
            float& value = map[size_t(c * positions + p)];
            value = float(value * length / std::sqrt(square));
            wide[size_t(c * positions + p)] = value;
        }
    }
}

// Against the CPU kernels in double.
//   tolerances: of the loss and of gradients; length: of all features, 0: as they are
void check_accuracy(pe::ContextualProblem problem, const Shape& shape, double noise, double of_loss,
                    double of_gradient, double length = 0) {
    Pair pair(shape, noise);
    if (length > 0) {
        set_lengths(pair.x, pair.wide_x, shape.channels, length);
        set_lengths(pair.y, pair.wide_y, shape.channels, length);
    }
    const pe::Layout xl = planar(shape.channels, shape.nx()), yl = planar(shape.channels, shape.ny());
    problem.type = pe::Type::kFloat64;
    const Result<double> exact = run<double>(on_the_cpu, problem, pair.wide_x, pair.wide_y, xl, yl);
    problem.type = pe::Type::kFloat32;
    const Result<float> got = run<float>(emulated, problem, pair.x, pair.y, xl, yl);
    for (int64_t b = 0; b < shape.batch; ++b) {
        CHECK_CLOSE(got.loss[b], exact.loss[b], of_loss * exact.loss[b] + 1e-11);
    }
    const double of_source = relative_error(got.source_gradient, exact.source_gradient);
    const double of_target = relative_error(got.target_gradient, exact.target_gradient);
    if (std::getenv("PE_VERBOSE") != nullptr) {
        std::printf("C %d noise %g h %g: loss %g, relative error %.1e, gradients %.1e %.1e\n",
                    int(shape.channels), noise, problem.bandwidth, exact.loss[0],
                    std::abs(got.loss[0] / exact.loss[0] - 1), of_source, of_target);
    }
    CHECK(of_source < of_gradient);
    CHECK(of_target < of_gradient);
}

void check_bits(const Shape& shape) {
    const auto wide_x = features(shape.batch * shape.channels * shape.nx(), 5);
    const auto wide_y = features(shape.batch * shape.channels * shape.ny(), 6);
    const std::vector<float> x(wide_x.begin(), wide_x.end()), y(wide_y.begin(), wide_y.end());
    const pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat32);
    const pe::Layout xl = planar(shape.channels, shape.nx()), yl = planar(shape.channels, shape.ny());
    const Result<float> one = run<float>(emulated, problem, x, y, xl, yl);
    const auto same = [&](const Result<float>& other) {
        CHECK(same_bits(one.loss, other.loss) && same_bits(one.similarity, other.similarity));
        CHECK(same_bits(one.similarity_arg, other.similarity_arg) && same_bits(one.row_min, other.row_min));
        CHECK(same_bits(one.source_gradient, other.source_gradient));
        CHECK(same_bits(one.target_gradient, other.target_gradient));
    };
    // Threads and blocks in another order.
    for (const uint64_t seed : {2, 3, 4}) {
        settings().seed = seed;
        same(run<float>(emulated, problem, x, y, xl, yl));
    }
    auto spoilt = x;
    spoilt[0] = std::numeric_limits<float>::quiet_NaN();
    const Result<float> other = run<float>(emulated, problem, spoilt, y, xl, yl);
    CHECK(std::isnan(other.loss[0]) && std::isnan(other.similarity[0]) && other.similarity_arg[0] == 0);
    CHECK(std::isnan(other.row_min[0]) && std::isnan(other.row_log_sum[0]) && other.row_min_arg[0] == 0);
    CHECK(std::isnan(other.source_gradient[0]) && std::isnan(other.target_gradient[0]));
    for (int64_t b = 1; b < shape.batch; ++b) CHECK(other.loss[b] == one.loss[b]);
    CHECK(other.source_gradient.back() == one.source_gradient.back());
    CHECK(other.target_gradient.back() == one.target_gradient.back());
    const auto turn = [&](const std::vector<float>& map, int64_t positions) {
        return turned(map, shape.batch, shape.channels, positions);
    };
    Result<float> by_channels =
        run<float>(emulated, problem, turn(x, shape.nx()), turn(y, shape.ny()),
                   interleaved(shape.channels, shape.nx()), interleaved(shape.channels, shape.ny()));
    const Result<float> expected_order = one;
    CHECK(same_bits(one.loss, by_channels.loss));
    CHECK(same_bits(turn(one.source_gradient, shape.nx()), by_channels.source_gradient));
    CHECK(same_bits(turn(one.target_gradient, shape.ny()), by_channels.target_gradient));
}

// Selected and weighted channels, stored in half precision, against the same in double.
void check_storage(pe::Type type, const half::Format& format) {
    const Shape shape{2, 9, 6, 7, 5, 9};
    const std::vector<int64_t> indices{7, 0, 4, 2};
    const std::vector<double> weights{0.5, 2, 1, 3};
    const Pair pair(shape, 0.5);
    const auto narrow = [&](const std::vector<float>& values) {
        std::vector<uint16_t> bits(values.size());
        for (size_t n = 0; n < values.size(); ++n) bits[n] = half::bits(format, values[n]);
        return bits;
    };
    const auto widen = [&](const std::vector<uint16_t>& bits) {
        std::vector<double> values(bits.size());
        for (size_t n = 0; n < bits.size(); ++n) values[n] = half::value(format, bits[n]);
        return values;
    };
    const std::vector<uint16_t> x = narrow(pair.x), y = narrow(pair.y);
    const pe::Layout xl = planar(shape.channels, shape.nx()), yl = planar(shape.channels, shape.ny());
    for (const pe::Center center : {pe::Center::kSample, pe::Center::kBatch, pe::Center::kNone}) {
        pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat64);
        problem.center = center;
        problem.channels = {int64_t(indices.size()), indices.data(), weights.data()};
        const Result<double> exact = run<double>(on_the_cpu, problem, widen(x), widen(y), xl, yl);
        problem.type = type;
        // Outputs are float32: as a map of floats of which features take half.
        Result<float> got;
        got.loss.resize(2);
        got.similarity.resize(size_t(2 * shape.ny()));
        got.similarity_arg.resize(size_t(2 * shape.ny()));
        got.row_min.resize(size_t(2 * shape.nx()));
        got.row_min_arg.resize(size_t(2 * shape.nx()));
        got.row_log_sum.resize(size_t(2 * shape.nx()));
        std::vector<uint16_t> source_gradient(x.size()), target_gradient(y.size());
        const std::vector<float> upstream(2, 1.0f);
        emulated(problem, {x.data(), xl}, {y.data(), yl}, got.loss.data(),
                 {got.similarity.data(), got.similarity_arg.data(), got.row_min.data(),
                  got.row_min_arg.data(), got.row_log_sum.data(), nullptr},
                 upstream.data(), {source_gradient.data(), xl}, {target_gradient.data(), yl});
        for (int64_t b = 0; b < 2; ++b) CHECK_RELATIVE(got.loss[size_t(b)], exact.loss[size_t(b)], 1e-5);
        const double step = std::ldexp(1.0, -format.mantissa);
        CHECK(relative_error(widen(source_gradient), exact.source_gradient) < step);
        CHECK(relative_error(widen(target_gradient), exact.target_gradient) < step);
    }
}

// Statistics that are none: NaN, and nothing out of bounds is touched.
void check_bad_statistics() {
    const Shape shape{1, 4, 5, 6, 5, 6};
    const pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat32);
    const pe::Layout layout = planar(shape.channels, shape.nx());
    const Pair pair(shape, 0.3);
    Result<float> got = run<float>(emulated, problem, pair.x, pair.y, layout, layout);
    for (const int32_t bad : {-1, 30, 1 << 30}) {
        for (auto* args : {&got.similarity_arg, &got.row_min_arg}) {
            const int32_t before = (*args)[3];
            (*args)[3] = bad;
            const auto memory = device_workspace(pe::contextual_backward_cuda_workspace(problem, true));
            const float upstream = 1;
            succeed(pe::contextual_backward_cuda(
                problem, {pair.x.data(), layout}, {pair.y.data(), layout},
                {got.similarity.data(), got.similarity_arg.data(), got.row_min.data(), got.row_min_arg.data(),
                 got.row_log_sum.data(), nullptr},
                &upstream, nullptr, {got.source_gradient.data(), layout},
                {got.target_gradient.data(), layout}, memory.get(), nullptr));
            for (const float value : got.source_gradient) CHECK(std::isnan(value));
            for (const float value : got.target_gradient) CHECK(std::isnan(value));
            (*args)[3] = before;
        }
    }
    float sum = 0;
    CHECK(pe::contextual_forward_cuda(problem, {}, {}, nullptr,
                                      {nullptr, nullptr, nullptr, nullptr, nullptr, &sum}, nullptr,
                                      nullptr) != nullptr);
}

}  // namespace

int main() {
    for (const int multiprocessors : {1, 5}) {
        settings().multiprocessors = multiprocessors;
        check_settings(emulated, {false});
    }
    check_hard_inputs(emulated);
    check_equal_features(emulated, {false});
    check_overflow(emulated);
    check_bits(Shape{3, 16, 17, 19, 12, 23});
    check_storage(pe::Type::kFloat16, half::kFloat16);
    check_storage(pe::Type::kBFloat16, half::kBFloat16);
    check_bad_statistics();
    // One chunk of channels and several; sums of one group and of two.
    for (const int64_t channels : {1, 13, 70, 130, 200}) {
        const Shape shape{1, channels, 11, 13, 10, 17};
        for (const double noise : {0.01, 0.3, 3.0}) {
            if (channels == 1) continue;
            for (const double bandwidth : {0.5, 5.0}) {
                pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat32);
                problem.bandwidth = bandwidth;
                check_accuracy(problem, shape, noise, 1e-5, 1e-4);
                problem.spatial_weight = 0.2;
                check_accuracy(problem, shape, noise, 1e-5, 1e-4);
            }
        }
    }
    // Lengths just below the least one, of which the products of near-identical features know, but not their
    // differences; and far below.
    pe::ContextualProblem faint = problem_of({1, 13, 11, 13, 10, 17}, pe::Type::kFloat32);
    faint.center = pe::Center::kNone;
    for (const double length : {0.9995e-6, 0.3e-6}) {
        check_accuracy(faint, {1, 13, 11, 13, 10, 17}, 0.01, 1e-5, 1e-4, length);
    }
    // Rows for more than one round of the threads that list the winning ones.
    const Shape many{1, 5, 35, 35, 33, 37};
    check_accuracy(problem_of(many, pe::Type::kFloat32), many, 0.3, 1e-5, 1e-4);
    // Rows that do not fit into the shared memory of the smallest devices.
    settings().shared_limit = 99 * 1024;
    const Shape deep{1, 260, 11, 13, 10, 17};
    check_accuracy(problem_of(deep, pe::Type::kFloat32), deep, 0.3, 1e-5, 1e-4);
    settings().shared_limit = 163 * 1024;
    // Plain products where they do: unrelated features.
    pe::ContextualProblem plain = problem_of({1, 64, 9, 9, 9, 9}, pe::Type::kFloat32);
    plain.precision = pe::MatmulPrecision::kHigh;
    check_accuracy(plain, {1, 64, 9, 9, 9, 9}, 3, 1e-4, 2e-3);
}
