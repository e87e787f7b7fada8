// The contextual loss against its definition (contextual_definition.h), its gradients against that and against
// finite differences: cases for whoever computes it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "contextual.h"
#include "contextual_definition.h"

namespace contextual_cases {

struct Shape {
    int64_t batch, channels, source_height, source_width, target_height, target_width;
    int64_t nx() const { return source_height * source_width; }
    int64_t ny() const { return target_height * target_width; }
};

inline pe::ContextualProblem problem_of(const Shape& shape, pe::Type type) {
    return {shape.batch,
            shape.source_height,
            shape.source_width,
            shape.target_height,
            shape.target_width,
            {shape.channels, nullptr, nullptr},
            type,
            pe::Distance::kCosine,
            pe::Center::kSample,
            pe::Form::kLog,
            0.5,
            1e-5,
            0,
            0};
}

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
inline std::unique_ptr<void, Free> workspace(size_t bytes) {
    const size_t rounded =
        (bytes + pe::kWorkspaceAlignment - 1) / pe::kWorkspaceAlignment * pe::kWorkspaceAlignment;
    return std::unique_ptr<void, Free>(std::aligned_alloc(pe::kWorkspaceAlignment, rounded));
}

template <typename T>
struct Result {
    std::vector<T> loss, similarity, row_min, row_log_sum, row_sums;
    std::vector<int32_t> similarity_arg, row_min_arg;
    std::vector<T> source_gradient, target_gradient;
};

inline pe::Layout planar(int64_t channels, int64_t positions) { return {channels * positions, positions, 1}; }
inline pe::Layout interleaved(int64_t channels, int64_t positions) {
    return {channels * positions, 1, channels};
}

// Forward and backward of whoever is tested.
//   row_sums: whether forward keeps them
using Run = std::function<void(const pe::ContextualProblem& problem, const pe::Features& source,
                               const pe::Features& target, void* loss,
                               const pe::ContextualStatistics& statistics, const void* loss_gradient,
                               const pe::Gradient& source_gradient, const pe::Gradient& target_gradient)>;

template <typename T>
Result<T> run(const Run& runner, const pe::ContextualProblem& problem, const std::vector<T>& x,
              const std::vector<T>& y, pe::Layout x_layout, pe::Layout y_layout, bool row_sums = false) {
    const int64_t nx = problem.source_positions(), ny = problem.target_positions(), batch = problem.batch;
    Result<T> result;
    result.loss.resize(batch);
    result.similarity.resize(batch * ny);
    result.similarity_arg.resize(batch * ny);
    result.row_min.resize(batch * nx);
    result.row_min_arg.resize(batch * nx);
    result.row_log_sum.resize(batch * nx);
    if (row_sums) result.row_sums.resize(batch * nx * (problem.channels.count + 1));
    result.source_gradient.assign(x.size(), T(0));
    result.target_gradient.assign(y.size(), T(0));
    const pe::ContextualStatistics statistics{
        result.similarity.data(),  result.similarity_arg.data(), result.row_min.data(),
        result.row_min_arg.data(), result.row_log_sum.data(),    row_sums ? result.row_sums.data() : nullptr};
    const std::vector<T> upstream(batch, T(1));
    runner(problem, {x.data(), x_layout}, {y.data(), y_layout}, result.loss.data(), statistics,
           upstream.data(), {result.source_gradient.data(), x_layout},
           {result.target_gradient.data(), y_layout});
    return result;
}

inline std::vector<double> features(int64_t count, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    std::vector<double> values(count);
    for (double& value : values) value = std::max(0.0, normal(generator));
    return values;
}

inline void check_values(const Run& runner, const pe::ContextualProblem& problem, const Shape& shape) {
    const auto x = features(shape.batch * shape.channels * shape.nx(), 1);
    const auto y = features(shape.batch * shape.channels * shape.ny(), 2);
    const pe::Layout xl = planar(shape.channels, shape.nx()), yl = planar(shape.channels, shape.ny());
    const Result<double> got = run<double>(runner, problem, x, y, xl, yl);
    pe::ContextualProblem narrow = problem;
    narrow.type = pe::Type::kFloat32;
    const std::vector<float> xf(x.begin(), x.end()), yf(y.begin(), y.end());
    const Result<float> rounded = run<float>(runner, narrow, xf, yf, xl, yl);
    for (int64_t b = 0; b < shape.batch; ++b) {
        const double expected = plain_loss(problem, &x[b * xl.batch_stride], &y[b * yl.batch_stride]);
        CHECK_RELATIVE(got.loss[b], expected, 1e-9);
        CHECK_RELATIVE(rounded.loss[b], expected, 1e-5);
    }
}

// Central differences of the double loss at a few places of both maps.
inline void check_gradients(const Run& runner, const pe::ContextualProblem& problem, const Shape& shape,
                            bool row_sums = false) {
    auto x = features(shape.channels * shape.nx(), 3), y = features(shape.channels * shape.ny(), 4);
    const pe::Layout xl = planar(shape.channels, shape.nx()), yl = planar(shape.channels, shape.ny());
    const Result<double> got = run<double>(runner, problem, x, y, xl, yl, row_sums);
    for (auto* map : {&x, &y}) {
        const auto& gradient = map == &x ? got.source_gradient : got.target_gradient;
        double scale = 0;
        for (const double value : gradient) scale = std::max(scale, std::abs(value));
        CHECK(scale > 0);
        for (size_t n = 0; n < map->size(); n += 1 + map->size() / 12) {
            const double before = (*map)[n], step = 1e-6;
            (*map)[n] = before + step;
            const double above = plain_loss(problem, x.data(), y.data());
            (*map)[n] = before - step;
            const double below = plain_loss(problem, x.data(), y.data());
            (*map)[n] = before;
            CHECK_CLOSE(gradient[n], (above - below) / (2 * step), 1e-5 * scale);
        }
    }
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// The same features the other way round in memory.
template <typename T>
std::vector<T> turned(const std::vector<T>& map, int64_t batch, int64_t channels, int64_t positions) {
    std::vector<T> result(map.size());
    for (int64_t b = 0; b < batch; ++b) {
        const int64_t first = b * channels * positions;
        for (int64_t c = 0; c < channels; ++c) {
            for (int64_t p = 0; p < positions; ++p) {
                result[first + p * channels + c] = map[first + c * positions + p];
            }
        }
    }
    return result;
}

// Every setting of the loss in double, on small maps and on some that end within a tile.
inline void check_settings(const Run& runner, const std::vector<bool>& row_sums) {
    const Shape small{2, 3, 4, 5, 3, 7}, single{1, 2, 1, 1, 1, 1}, wide{2, 37, 9, 11, 13, 7};
    for (const Shape& shape : {small, single, wide}) {
        for (const pe::Distance distance : {pe::Distance::kCosine, pe::Distance::kL2}) {
            for (const double spatial : {0.0, 0.3}) {
                for (const pe::Form form : {pe::Form::kLog, pe::Form::kOneMinus}) {
                    pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat64);
                    problem.distance = distance;
                    problem.spatial_weight = spatial;
                    problem.form = form;
                    check_values(runner, problem, shape);
                    if (shape.nx() == 1) continue;
                    problem.batch = 1;
                    Shape one = shape;
                    one.batch = 1;
                    for (const bool kept : row_sums) check_gradients(runner, problem, one, kept);
                }
            }
        }
    }
}

inline void check_hard_inputs(const Run& runner) {
    const Shape shape{1, 4, 5, 7, 5, 7};
    const pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat32);
    const pe::Layout layout = planar(shape.channels, shape.nx());
    const auto wide = features(shape.channels * shape.nx(), 7);
    const std::vector<float> varied(wide.begin(), wide.end());
    std::vector<float> flat(varied.size(), 0.5f), huge = varied, tiny = varied;
    for (float& value : huge) value *= 1e30f;
    for (float& value : tiny) value *= 1e-30f;
    const std::vector<std::vector<float>> maps{varied, flat, std::vector<float>(varied.size(), 0.0f), huge,
                                               tiny};
    for (const auto& x : maps) {
        for (const auto& y : maps) {
            const Result<float> got = run<float>(runner, problem, x, y, layout, layout);
            CHECK(got.loss[0] >= 0 && got.loss[0] <= std::log(float(shape.ny())) * 1.000001f);
            for (const auto* gradient : {&got.source_gradient, &got.target_gradient}) {
                for (const float value : *gradient) CHECK(std::isfinite(value));
            }
        }
    }
    const Result<float> same = run<float>(runner, problem, varied, varied, layout, layout);
    for (int64_t i = 0; i < shape.nx(); ++i) CHECK(same.row_min[i] == 0);
    // All features alike: every tie goes to the lowest index.
    const Result<float> ties = run<float>(runner, problem, flat, flat, layout, layout);
    for (int64_t j = 0; j < shape.ny(); ++j) CHECK(ties.similarity_arg[j] == 0);
    for (int64_t i = 0; i < shape.nx(); ++i) CHECK(ties.row_min_arg[i] == 0);
    CHECK_RELATIVE(ties.loss[0], std::log(double(shape.ny())), 1e-6);
}

inline double norm(const std::vector<double>& values) {
    double square = 0;
    for (const double value : values) square += value * value;
    return std::sqrt(square);
}

// Norm of the difference.
template <typename T>
double distance_of(const std::vector<T>& got, const std::vector<double>& exact) {
    std::vector<double> difference(exact.size());
    for (size_t n = 0; n < exact.size(); ++n) difference[n] = double(got[n]) - exact[n];
    return norm(difference);
}

// Features as flat areas, bars and text have them: many of the target alike, many of the source equal to
// several of the target, some almost. The float gradients must be those of double, in which what has to
// cancel is 1e-16 of what is summed.
inline void check_equal_features(const Run& runner, const std::vector<bool>& row_sums) {
    const Shape shape{1, 7, 4, 8, 5, 8};
    const pe::Layout xl = planar(shape.channels, shape.nx()), yl = planar(shape.channels, shape.ny());
    for (unsigned seed = 0; seed < 6; ++seed) {
        // Of the target, every sixth feature is alike, but for the last few.
        std::vector<float> x(shape.channels * shape.nx()), y(shape.channels * shape.ny());
        std::mt19937 generator(seed);
        std::normal_distribution<float> normal;
        for (int64_t c = 0; c < shape.channels; ++c) {
            float kinds[6];
            for (float& kind : kinds) kind = normal(generator);
            for (int64_t j = 0; j < shape.ny(); ++j) {
                y[c * shape.ny() + j] = j < shape.ny() - 4 ? kinds[j % 6] : normal(generator);
            }
            for (int64_t i = 0; i < shape.nx(); ++i) {
                const float noise = i % 4 == 3 ? 1e-4f : i % 8 == 5 ? 1.0f : 0.0f;
                x[c * shape.nx() + i] = kinds[i % 3] + noise * normal(generator);
            }
        }
        const std::vector<double> wide_x(x.begin(), x.end()), wide_y(y.begin(), y.end());
        for (const pe::Distance distance : {pe::Distance::kCosine, pe::Distance::kL2}) {
            for (const double spatial : {0.0, 0.1}) {
                for (const double bandwidth : {0.05, 0.5, 5.0, 20.0}) {
                    pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat64);
                    problem.distance = distance;
                    problem.spatial_weight = spatial;
                    problem.bandwidth = bandwidth;
                    const Definition definition(problem, wide_x.data(), wide_y.data());
                    problem.type = pe::Type::kFloat32;
                    for (const bool kept : row_sums) {
                        const Result<float> got = run<float>(runner, problem, x, y, xl, yl, kept);
                        CHECK_RELATIVE(got.loss[0], definition.loss, 1e-5);
                        // Rows that equal some columns tie there, whatever else they differ in: any may win. So
                        // may any of equal columns be the nearest.
                        CHECK(definition.largest_deficit(got.similarity_arg) < 1e-5);
                        CHECK(definition.largest_excess(got.row_min_arg) < 1e-5);
                        const Gradients exact = definition.gradients(got.similarity_arg, got.row_min_arg);
                        // Single terms are as large as k g_j, 5,000 here: their rounding is left where all
                        // else cancels.
                        const double scale = std::max(norm(exact.source) + norm(exact.target), 1e-2);
                        CHECK(distance_of(got.source_gradient, exact.source) < 1e-4 * scale);
                        CHECK(distance_of(got.target_gradient, exact.target) < 1e-4 * scale);
                    }
                }
            }
        }
    }
    // One source feature that two of the target equal has no gradient at all.
    const Shape tiny{1, 1, 1, 2, 1, 3};
    pe::ContextualProblem problem = problem_of(tiny, pe::Type::kFloat32);
    problem.distance = pe::Distance::kL2;
    for (const bool kept : row_sums) {
        const Result<float> got =
            run<float>(runner, problem, {0.3f, 0}, {1, 0, 0}, planar(1, 2), planar(1, 3), kept);
        CHECK(got.source_gradient[0] < 0 && got.source_gradient[1] == 0);
    }
}

// L2 distances past 3e38: as the definition has them in double; NaN where all of a row overflow.
inline void check_overflow(const Run& runner) {
    const Shape shape{2, 4, 3, 5, 4, 7};
    const pe::Layout xl = planar(shape.channels, shape.nx()), yl = planar(shape.channels, shape.ny());
    pe::ContextualProblem problem = problem_of(shape, pe::Type::kFloat64);
    problem.distance = pe::Distance::kL2;
    const auto scaled = [](std::vector<double> values, double factor) {
        for (double& value : values) value *= factor;
        return values;
    };
    const auto x = features(shape.batch * shape.channels * shape.nx(), 8);
    const auto y = features(shape.batch * shape.channels * shape.ny(), 9);
    for (const double factor : {1e19, 1e20, 1e100}) {
        const auto wide_x = scaled(x, factor), wide_y = scaled(y, factor);
        const Result<double> got = run<double>(runner, problem, wide_x, wide_y, xl, yl);
        // eps is nothing beside these distances.
        problem.eps = 1e-300;
        const Result<double> same = run<double>(runner, problem, x, y, xl, yl);
        problem.eps = 1e-5;
        for (int64_t b = 0; b < shape.batch; ++b) {
            CHECK_RELATIVE(got.loss[b], same.loss[b], 1e-9);
            CHECK_RELATIVE(got.loss[b],
                           plain_loss(problem, &wide_x[b * xl.batch_stride], &wide_y[b * yl.batch_stride]),
                           1e-9);
        }
        CHECK(distance_of(scaled(got.source_gradient, factor), same.source_gradient) <
              1e-9 * norm(same.source_gradient));
        CHECK(distance_of(scaled(got.target_gradient, factor), same.target_gradient) <
              1e-9 * norm(same.target_gradient));
    }
    problem.type = pe::Type::kFloat32;
    std::vector<float> narrow_x(x.begin(), x.end()), narrow_y(y.begin(), y.end());
    const Result<float> before = run<float>(runner, problem, narrow_x, narrow_y, xl, yl);
    const auto check = [&](bool finite) {
        const Result<float> got = run<float>(runner, problem, narrow_x, narrow_y, xl, yl);
        CHECK(std::isfinite(got.loss[0]) == finite && got.loss[1] == before.loss[1]);
        for (int64_t n = 0; n < xl.batch_stride; ++n) CHECK(std::isfinite(got.source_gradient[n]) == finite);
        for (int64_t n = 0; n < yl.batch_stride; ++n) CHECK(std::isfinite(got.target_gradient[n]) == finite);
        return got.loss[0];
    };
    // Of one column: its similarity is 0.
    narrow_y[0] = 1e20f;
    pe::ContextualProblem wide = problem;
    wide.type = pe::Type::kFloat64;
    const std::vector<double> far_x(narrow_x.begin(), narrow_x.end()), far_y(narrow_y.begin(), narrow_y.end());
    CHECK_RELATIVE(run<float>(runner, problem, narrow_x, narrow_y, xl, yl).loss[0],
                   plain_loss(wide, far_x.data(), far_y.data()), 1e-5);
    // Of one row.
    narrow_y[0] = float(y[0]);
    narrow_x[0] = 1e20f;
    check(false);
    // Of all.
    for (int64_t n = 0; n < xl.batch_stride; ++n) narrow_x[n] = float(x[n]) * 1e20f;
    for (int64_t n = 0; n < yl.batch_stride; ++n) narrow_y[n] = float(y[n]) * 1e20f;
    check(false);
}

}  // namespace contextual_cases
