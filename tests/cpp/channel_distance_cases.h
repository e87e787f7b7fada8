// What every implementation of the channel distance must do, against its definition in plain double loops:
// every storage and layout, selected and weighted channels, both forms, gradients; near-identical, silent and
// huge features; NaN.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "channel_distance.h"
#include "check.h"
#include "feature_maps.h"

namespace channel_distance_cases {

using namespace maps;

struct Case {
    Type type = Type::kFloat32;
    pe::DistanceForm form = pe::DistanceForm::kSquared;
    int64_t batch = 2, channels = 7, height = 3, width = 5;
    std::vector<int64_t> indices;
    std::vector<double> factors;  // weights or linear
    Order first_order = kPlanar, second_order = kPlanar;

    int64_t count() const { return indices.empty() ? channels : int64_t(indices.size()); }
    int64_t positions() const { return height * width; }
    int64_t channel(int64_t k) const { return indices.empty() ? k : indices[k]; }
    double factor(int64_t k) const { return factors.empty() ? 1 : factors[k]; }
    pe::ChannelDistanceProblem problem() const {
        const bool squared = form == pe::DistanceForm::kSquared;
        const double* given = factors.empty() ? nullptr : factors.data();
        const int64_t* selected = indices.empty() ? nullptr : indices.data();
        return {batch,
                height,
                width,
                {count(), selected, squared ? given : nullptr},
                type,
                form,
                squared ? nullptr : given};
    }
};

// Where the kernels under test run, and on which memory.
struct Kernels {
    std::function<void(const pe::ChannelDistanceProblem& problem, const pe::Features& first,
                       const pe::Features& second, void* distance, void* map)>
        forward;
    std::function<void(const pe::ChannelDistanceProblem& problem, const pe::Features& first,
                       const pe::Features& second, const void* distance_gradient, const void* map_gradient,
                       const pe::Gradient& first_gradient, const pe::Gradient& second_gradient)>
        backward;
};

struct Result {
    std::vector<double> distance, map;
    std::vector<unsigned char> distance_memory, map_memory;
};

inline Result forward(const Case& c, const Map& first, const Map& second, const Kernels& kernels) {
    const Type type = c.type == Type::kFloat64 ? Type::kFloat64 : Type::kFloat32;
    const pe::ChannelDistanceProblem problem = c.problem();
    Result result;
    result.distance_memory.resize(size_t(c.batch) * size_of(type));
    result.map_memory.resize(size_t(c.batch * c.positions()) * size_of(type));
    kernels.forward(problem, first.features(), second.features(), result.distance_memory.data(),
                    result.map_memory.data());
    for (int64_t b = 0; b < c.batch; ++b)
        result.distance.push_back(stored(type, result.distance_memory.data(), b));
    for (int64_t i = 0; i < c.batch * c.positions(); ++i) {
        result.map.push_back(stored(type, result.map_memory.data(), i));
    }
    // Without the map: the same bits.
    std::vector<unsigned char> again(result.distance_memory.size());
    kernels.forward(problem, first.features(), second.features(), again.data(), nullptr);
    CHECK(again == result.distance_memory);
    return result;
}

struct Upstream {
    std::vector<double> distance, map;  // empty: null
};

inline void backward(const Case& c, const Map& first, const Map& second, const Upstream& upstream,
                     Map* first_gradient, Map* second_gradient, const Kernels& kernels) {
    const Type type = c.type == Type::kFloat64 ? Type::kFloat64 : Type::kFloat32;
    const pe::ChannelDistanceProblem problem = c.problem();
    const auto pack = [&](const std::vector<double>& values) {
        std::vector<unsigned char> memory(values.size() * size_of(type));
        for (size_t i = 0; i < values.size(); ++i) put(type, memory.data(), int64_t(i), values[i]);
        return memory;
    };
    const std::vector<unsigned char> distance = pack(upstream.distance), map = pack(upstream.map);
    kernels.backward(problem, first.features(), second.features(),
                     distance.empty() ? nullptr : distance.data(), map.empty() ? nullptr : map.data(),
                     first_gradient ? first_gradient->gradient() : pe::Gradient{},
                     second_gradient ? second_gradient->gradient() : pe::Gradient{});
}

// The definition at one position.
struct Expected {
    long double value = 0;
    std::vector<double> first, second;  // gradients, of the selected channels
    // What rounding is relative to. Unit vectors differ by what features differ by, and by what makes up for
    // their lengths; where those cancel, as in features that are parallel but not equal, less is left.
    double value_scale = 0, first_scale = 0, second_scale = 0;
};

inline Expected define(const Case& c, const Map& first, const Map& second, int64_t b, int64_t p,
                       double gradient) {
    const int64_t count = c.count();
    Expected result;
    std::vector<long double> f(count), g(count);
    for (int64_t k = 0; k < count; ++k)
        f[k] = first.get(b, c.channel(k), p), g[k] = second.get(b, c.channel(k), p);
    if (c.form == pe::DistanceForm::kSquared) {
        for (int64_t k = 0; k < count; ++k) {
            const long double w = c.factor(k), d = w * (f[k] - g[k]);
            result.value += d * d / count;
            result.first.push_back(double(2 * gradient * w * d / count));
            result.second.push_back(-result.first[k]);
            result.first_scale = std::max(result.first_scale, std::abs(result.first[k]));
        }
        result.value_scale = double(result.value);
        result.second_scale = result.first_scale;
        return result;
    }
    long double f_norm = 0, g_norm = 0;
    for (int64_t k = 0; k < count; ++k) f_norm += f[k] * f[k], g_norm += g[k] * g[k];
    f_norm = std::sqrt(f_norm), g_norm = std::sqrt(g_norm);
    const bool f_moves = !(f_norm < 1e-10L), g_moves = !(g_norm < 1e-10L);
    if (!f_moves) f_norm = 1e-10L;
    if (!g_moves) g_norm = 1e-10L;
    long double f_along = 0, g_along = 0, features = 0, units = 0, most = 0;
    for (int64_t k = 0; k < count; ++k) {
        const long double u = f[k] / f_norm, v = g[k] / g_norm, r = c.factor(k) * (u - v);
        result.value += r * (u - v);
        f_along += r * u, g_along += r * v;
        features += (f[k] - g[k]) * (f[k] - g[k]), units += (u - v) * (u - v);
        most = std::max(most, (long double)(c.factor(k)));
    }
    const long double longer = std::max(f_norm, g_norm), shorter = std::min(f_norm, g_norm);
    const long double terms = std::sqrt(features) / longer + (longer - shorter) / longer;
    const long double rounded = arithmetic_epsilon(c.type) * terms;
    result.value_scale = double(most * terms * (std::sqrt(units) + rounded));
    result.first_scale = double(2 * std::abs(gradient) * most * terms / f_norm);
    result.second_scale = double(2 * std::abs(gradient) * most * terms / g_norm);
    for (int64_t k = 0; k < count; ++k) {
        const long double u = f[k] / f_norm, v = g[k] / g_norm, r = 2 * gradient * c.factor(k) * (u - v);
        result.first.push_back(double((r - (f_moves ? 2 * gradient * f_along * u : 0)) / f_norm));
        result.second.push_back(double((-r + (g_moves ? 2 * gradient * g_along * v : 0)) / g_norm));
    }
    return result;
}

// Everything that the kernel gives for one pair, at each position relative to the largest gradient there.
inline void compare(const Case& c, const Map& first, const Map& second, const Kernels& kernels) {
    const double arithmetic = 32 * arithmetic_epsilon(c.type);
    // Of what is stored: below the least normal float16 only absolute steps are left.
    const double rounding = size_of(c.type) == 2 ? epsilon(c.type) : 0;
    const double least = c.type == Type::kFloat16 ? std::ldexp(1, -24) : 0;
    const auto tolerance = [=](double expected, double scale) {
        return arithmetic * scale + rounding * std::abs(expected) + least;
    };
    const Result result = forward(c, first, second, kernels);
    Upstream both;
    for (int64_t b = 0; b < c.batch; ++b) both.distance.push_back(c.positions() * (b % 2 ? -0.75 : 1.5));
    for (int64_t i = 0; i < c.batch * c.positions(); ++i) both.map.push_back(double(i % 5) / 2 - 0.75);
    Map f(c.type, c.batch, c.channels, c.positions(), c.first_order);
    Map g(c.type, c.batch, c.channels, c.positions(), c.second_order);
    for (const Upstream& upstream : {both, Upstream{both.distance, {}}, Upstream{{}, both.map}}) {
        std::fill(f.memory.begin(), f.memory.end(), 0);
        std::fill(g.memory.begin(), g.memory.end(), 0);
        backward(c, first, second, upstream, &f, &g, kernels);
        for (int64_t b = 0; b < c.batch; ++b) {
            double sum = 0, scale = 0;
            for (int64_t p = 0; p < c.positions(); ++p) {
                double gradient = upstream.distance.empty() ? 0 : upstream.distance[b] / c.positions();
                if (!upstream.map.empty()) gradient += upstream.map[b * c.positions() + p];
                const Expected expected = define(c, first, second, b, p, gradient);
                CHECK_CLOSE(result.map[b * c.positions() + p], expected.value,
                            arithmetic * expected.value_scale);
                sum += double(expected.value) / c.positions();
                scale += expected.value_scale / c.positions();
                std::vector<bool> selected(c.channels, false);
                for (int64_t k = 0; k < c.count(); ++k) {
                    const double df = expected.first[k], dg = expected.second[k];
                    CHECK_CLOSE(f.get(b, c.channel(k), p), df, tolerance(df, expected.first_scale));
                    CHECK_CLOSE(g.get(b, c.channel(k), p), dg, tolerance(dg, expected.second_scale));
                    selected[c.channel(k)] = true;
                }
                for (int64_t k = 0; k < c.channels; ++k) {
                    CHECK(selected[k] || (f.get(b, k, p) == 0 && g.get(b, k, p) == 0));
                }
            }
            CHECK_CLOSE(result.distance[b], sum, arithmetic * scale);
        }
    }
    // One gradient alone is the same.
    Map alone(c.type, c.batch, c.channels, c.positions(), c.first_order);
    backward(c, first, second, {{}, both.map}, &alone, nullptr, kernels);
    CHECK(alone.memory == f.memory);
    alone = Map(c.type, c.batch, c.channels, c.positions(), c.second_order);
    backward(c, first, second, {{}, both.map}, nullptr, &alone, kernels);
    CHECK(alone.memory == g.memory);
}

// noise: of the second map, relative to the first; 1 and above: unrelated.
inline void fill(Map* first, Map* second, double noise, double scale = 1, unsigned seed = 7) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (int64_t b = 0; b < first->batch; ++b) {
        for (int64_t c = 0; c < first->channels; ++c) {
            for (int64_t p = 0; p < first->positions; ++p) {
                const double x = normal(random), y = normal(random);
                first->set(b, c, p, scale * x);
                second->set(b, c, p, scale * (noise < 1 ? x * (1 + noise * y) : y));
            }
        }
    }
}

inline void check_case(Case c, const Kernels& kernels, double noise = 1, double scale = 1) {
    Map first(c.type, c.batch, c.channels, c.positions(), c.first_order);
    Map second(c.type, c.batch, c.channels, c.positions(), c.second_order);
    fill(&first, &second, noise, scale);
    // Channels that are not selected are not looked at.
    if (!c.indices.empty()) {
        const double nan = std::numeric_limits<double>::quiet_NaN();
        for (int64_t k = 0; k < c.channels; ++k) {
            if (std::find(c.indices.begin(), c.indices.end(), k) != c.indices.end()) continue;
            for (int64_t b = 0; b < c.batch; ++b) {
                for (int64_t p = 0; p < c.positions(); ++p) first.set(b, k, p, nan), second.set(b, k, p, nan);
            }
        }
    }
    compare(c, first, second, kernels);
}

inline std::vector<int64_t> some_of(int64_t channels) {
    std::vector<int64_t> indices;
    for (int64_t k = channels - 1; k >= 0; k -= 1 + k % 3) indices.push_back(k);
    std::swap(indices.front(), indices.back());
    return indices;
}

inline std::vector<double> factors_of(size_t count) {
    std::vector<double> factors;
    for (size_t k = 0; k < count; ++k) factors.push_back(k == 1 ? 0 : 0.25 + double(k % 7));
    return factors;
}

inline void check_everything(Case c, const Kernels& kernels) {
    const Order orders[][2] = {
        {kPlanar, kPlanar}, {kInterleaved, kInterleaved}, {kSpaced, kSpaced}, {kPlanar, kInterleaved}};
    for (const auto& order : orders) {
        c.first_order = order[0];
        c.second_order = order[1];
        for (const bool select : {false, true}) {
            c.indices = select ? some_of(c.channels) : std::vector<int64_t>();
            for (const bool weigh : {false, true}) {
                c.factors = weigh ? factors_of(size_t(c.count())) : std::vector<double>();
                check_case(c, kernels);
            }
        }
    }
}

inline void check_shapes(pe::DistanceForm form, const Kernels& kernels) {
    const int64_t shapes[][4] = {{1, 1, 1, 1},  {2, 3, 1, 2},   {1, 16, 4, 4}, {2, 17, 3, 11},
                                 {1, 40, 1, 1}, {1, 33, 17, 1}, {1, 5, 23, 50}};
    for (const auto& shape : shapes) {
        for (const Type type : {Type::kFloat32, Type::kFloat64, Type::kFloat16, Type::kBFloat16}) {
            Case c;
            c.type = type;
            c.form = form;
            c.batch = shape[0], c.channels = shape[1], c.height = shape[2], c.width = shape[3];
            // One channel scaled to unit length is 1 or -1 however it rounds: its gradient is exactly 0.
            if (form == pe::DistanceForm::kUnit && c.channels < 3) continue;
            check_everything(c, kernels);
        }
    }
}

// Near-identical maps: accurate relative to what little is left.
inline void check_near(const Kernels& kernels) {
    for (const double noise : {1e-2, 1e-4, 1e-6}) {
        for (const pe::DistanceForm form : {pe::DistanceForm::kSquared, pe::DistanceForm::kUnit}) {
            for (const Order order : {kPlanar, kInterleaved}) {
                Case c;
                c.form = form;
                c.channels = 24;
                c.first_order = c.second_order = order;
                check_case(c, kernels, noise);
            }
        }
    }
    Case c;
    c.form = pe::DistanceForm::kUnit;
    Map map(c.type, c.batch, c.channels, c.positions(), kPlanar), other = map;
    fill(&map, &other, 1);
    for (const double x : forward(c, map, map, kernels).map) CHECK(x == 0);
}

// Features that differ by their length above all, as after a change of contrast: sums over them cancel.
inline void check_contrast(const Kernels& kernels) {
    for (const double noise : {1e-1, 1e-2, 1e-4}) {
        for (const Order order : {kPlanar, kInterleaved}) {
            Case c;
            c.form = pe::DistanceForm::kUnit;
            c.channels = 24;
            c.first_order = c.second_order = order;
            Map first(c.type, c.batch, c.channels, c.positions(), order), second = first;
            fill(&first, &second, noise);
            for (int64_t k = 0; k < c.channels; ++k) {
                for (int64_t p = 0; p < c.positions(); ++p) {
                    second.set(0, k, p, 1.25 * second.get(0, k, p));
                    second.set(1, k, p, 0.8 * second.get(1, k, p));
                }
            }
            compare(c, first, second, kernels);
        }
    }
}

// Up to 1e18 in float32 and the largest float16, and where the squares of what is left are subnormal.
inline void check_scales(const Kernels& kernels) {
    for (const Order order : {kPlanar, kInterleaved}) {
        Case c;
        c.first_order = c.second_order = order;
        for (const double scale : {1e17, 1e-15}) check_case(c, kernels, 1, scale);
        c.form = pe::DistanceForm::kUnit;
        for (const double scale : {1e17, 1e-8}) check_case(c, kernels, 1, scale);
        c.type = Type::kFloat16;
        check_case(c, kernels, 1, 1.5e4);
    }
}

// Silent positions and norms below the clamp: as if divided by 1e-10, which does not move.
inline void check_silence(const Kernels& kernels) {
    for (const Order order : {kPlanar, kInterleaved}) {
        for (const double scale : {0.0, 1e-12}) {
            Case c;
            c.form = pe::DistanceForm::kUnit;
            c.channels = 20;
            c.first_order = c.second_order = order;
            Map first(c.type, c.batch, c.channels, c.positions(), order), second = first;
            fill(&first, &second, 1);
            for (int64_t k = 0; k < c.channels; ++k) {
                first.set(0, k, 2, scale * first.get(0, k, 2));
                second.set(1, k, 3, scale * second.get(1, k, 3));
                first.set(1, k, 4, scale * first.get(1, k, 4));
                second.set(1, k, 4, scale * second.get(1, k, 4));
            }
            compare(c, first, second, kernels);
        }
    }
}

// A squared length past the largest number leaves nothing to divide by: NaN there, and not a distance of 0.
inline void check_overflow(const Kernels& kernels) {
    for (const Order order : {kPlanar, kInterleaved}) {
        for (const Type type : {Type::kFloat32, Type::kFloat64}) {
            for (const bool both : {false, true}) {
                Case c;
                c.form = pe::DistanceForm::kUnit;
                c.type = type;
                c.first_order = c.second_order = order;
                Map first(c.type, c.batch, c.channels, c.positions(), order), second = first;
                fill(&first, &second, 1);
                const double huge = type == Type::kFloat32 ? 1e20 : 1e160;
                for (int64_t k = 0; k < c.channels; ++k) {
                    first.set(1, k, 3, huge * (1 + first.get(1, k, 3)));
                    if (both) second.set(1, k, 3, huge * (2 + second.get(1, k, 3)));
                }
                const Result result = forward(c, first, second, kernels);
                CHECK(std::isfinite(result.distance[0]) && std::isnan(result.distance[1]));
                for (int64_t i = 0; i < int64_t(result.map.size()); ++i) {
                    CHECK(std::isnan(result.map[i]) == (i == c.positions() + 3));
                }
                Map gradient(c.type, c.batch, c.channels, c.positions(), order);
                backward(c, first, second, {{1, 1}, {}}, &gradient, nullptr, kernels);
                for (int64_t p = 0; p < c.positions(); ++p) {
                    CHECK(std::isfinite(gradient.get(0, 2, p)));
                    CHECK(std::isnan(gradient.get(1, 2, p)) == (p == 3));
                }
            }
        }
    }
}

// They reach what depends on them, and nothing else.
inline void check_nan(const Kernels& kernels) {
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        for (const pe::DistanceForm form : {pe::DistanceForm::kSquared, pe::DistanceForm::kUnit}) {
            for (const Order order : {kPlanar, kInterleaved}) {
                Case c;
                c.form = form;
                c.first_order = c.second_order = order;
                Map first(c.type, c.batch, c.channels, c.positions(), order), second = first;
                fill(&first, &second, 1);
                first.set(1, 2, 3, bad);
                const Result result = forward(c, first, second, kernels);
                CHECK(std::isfinite(result.distance[0]) && !std::isfinite(result.distance[1]));
                for (int64_t i = 0; i < int64_t(result.map.size()); ++i) {
                    CHECK(std::isfinite(result.map[i]) == (i != c.positions() + 3));
                }
                Map gradient(c.type, c.batch, c.channels, c.positions(), order);
                backward(c, first, second, {{1, 1}, {}}, &gradient, nullptr, kernels);
                for (int64_t p = 0; p < c.positions(); ++p) {
                    CHECK(std::isfinite(gradient.get(0, 2, p)));
                    CHECK(std::isfinite(gradient.get(1, 2, p)) == (p != 3));
                }
            }
        }
    }
}

inline void check_all(const Kernels& kernels) {
    check_shapes(pe::DistanceForm::kSquared, kernels);
    check_shapes(pe::DistanceForm::kUnit, kernels);
    check_near(kernels);
    check_contrast(kernels);
    check_scales(kernels);
    check_silence(kernels);
    check_nan(kernels);
    check_overflow(kernels);
}

}  // namespace channel_distance_cases
