// The channel distance against its definition in plain double loops: every instruction set, storage and
// layout, selected and weighted channels, both forms, gradients; near-identical, silent and huge features;
// NaN; threads.
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "channel_distance.h"
#include "check.h"
#include "half.h"

namespace {

using pe::Type;

double stored(Type type, const void* data, int64_t i) {
    switch (type) {
        case Type::kFloat64:
            return static_cast<const double*>(data)[i];
        case Type::kFloat16:
            return half::value(half::kFloat16, static_cast<const uint16_t*>(data)[i]);
        case Type::kBFloat16:
            return half::value(half::kBFloat16, static_cast<const uint16_t*>(data)[i]);
        default:
            return static_cast<const float*>(data)[i];
    }
}

void put(Type type, void* data, int64_t i, double x) {
    switch (type) {
        case Type::kFloat64:
            static_cast<double*>(data)[i] = x;
            break;
        case Type::kFloat16:
            static_cast<uint16_t*>(data)[i] = half::bits(half::kFloat16, x);
            break;
        case Type::kBFloat16:
            static_cast<uint16_t*>(data)[i] = half::bits(half::kBFloat16, x);
            break;
        default:
            static_cast<float*>(data)[i] = float(x);
    }
}

size_t size_of(Type type) { return type == Type::kFloat64 ? 8 : type == Type::kFloat32 ? 4 : 2; }

enum Order { kPlanar, kInterleaved, kSpaced };

// Feature maps (batch, channels, positions) in memory of just their size.
struct Map {
    Type type;
    int64_t batch, channels, positions;
    pe::Layout layout;
    std::vector<unsigned char> memory;

    Map(Type type, int64_t batch, int64_t channels, int64_t positions, Order order)
        : type(type), batch(batch), channels(channels), positions(positions) {
        const int64_t step = order == kSpaced ? 2 : 1;
        layout = order == kInterleaved ? pe::Layout{channels * positions, 1, channels}
                                       : pe::Layout{step * channels * positions, step * positions, step};
        memory.resize(size_t(batch * channels * positions * step) * size_of(type));
    }
    int64_t index(int64_t b, int64_t c, int64_t p) const {
        return b * layout.batch_stride + c * layout.channel_stride + p * layout.position_stride;
    }
    double get(int64_t b, int64_t c, int64_t p) const { return stored(type, memory.data(), index(b, c, p)); }
    void set(int64_t b, int64_t c, int64_t p, double x) { put(type, memory.data(), index(b, c, p), x); }
    pe::Features features() const { return {memory.data(), layout}; }
    pe::Gradient gradient() { return {memory.data(), layout}; }
};

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

struct Result {
    std::vector<double> distance, map;
    std::vector<unsigned char> distance_memory, map_memory;
};

Result forward(const Case& c, const Map& first, const Map& second, const pe::Pool& pool) {
    const Type type = c.type == Type::kFloat64 ? Type::kFloat64 : Type::kFloat32;
    const pe::ChannelDistanceProblem problem = c.problem();
    Result result;
    result.distance_memory.resize(size_t(c.batch) * size_of(type));
    result.map_memory.resize(size_t(c.batch * c.positions()) * size_of(type));
    const Aligned workspace(pe::channel_distance_forward_workspace(problem, pool.threads));
    pe::channel_distance_forward(problem, first.features(), second.features(), result.distance_memory.data(),
                                 result.map_memory.data(), workspace.data, pool);
    for (int64_t b = 0; b < c.batch; ++b)
        result.distance.push_back(stored(type, result.distance_memory.data(), b));
    for (int64_t i = 0; i < c.batch * c.positions(); ++i) {
        result.map.push_back(stored(type, result.map_memory.data(), i));
    }
    // Without the map: the same bits.
    std::vector<unsigned char> again(result.distance_memory.size());
    pe::channel_distance_forward(problem, first.features(), second.features(), again.data(), nullptr,
                                 workspace.data, pool);
    CHECK(again == result.distance_memory);
    return result;
}

struct Upstream {
    std::vector<double> distance, map;  // empty: null
};

void backward(const Case& c, const Map& first, const Map& second, const Upstream& upstream,
              Map* first_gradient, Map* second_gradient, const pe::Pool& pool) {
    const Type type = c.type == Type::kFloat64 ? Type::kFloat64 : Type::kFloat32;
    const pe::ChannelDistanceProblem problem = c.problem();
    const auto pack = [&](const std::vector<double>& values) {
        std::vector<unsigned char> memory(values.size() * size_of(type));
        for (size_t i = 0; i < values.size(); ++i) put(type, memory.data(), int64_t(i), values[i]);
        return memory;
    };
    const std::vector<unsigned char> distance = pack(upstream.distance), map = pack(upstream.map);
    const Aligned workspace(pe::channel_distance_backward_workspace(problem, pool.threads));
    pe::channel_distance_backward(
        problem, first.features(), second.features(), distance.empty() ? nullptr : distance.data(),
        map.empty() ? nullptr : map.data(), first_gradient ? first_gradient->gradient() : pe::Gradient{},
        second_gradient ? second_gradient->gradient() : pe::Gradient{}, workspace.data, pool);
}

double epsilon(Type type) {
    switch (type) {
        case Type::kFloat64:
            return std::ldexp(1, -53);
        case Type::kFloat16:
            return std::ldexp(1, -11);
        case Type::kBFloat16:
            return std::ldexp(1, -8);
        default:
            return std::ldexp(1, -24);
    }
}

double arithmetic_epsilon(Type type) { return epsilon(type == Type::kFloat64 ? type : Type::kFloat32); }

// The definition at one position.
struct Expected {
    long double value = 0;
    std::vector<double> first, second;  // gradients, of the selected channels
    // What rounding is relative to. Unit vectors differ by what features differ by, and by what makes up for
    // their lengths; where those cancel, as in features that are parallel but not equal, less is left.
    double value_scale = 0, first_scale = 0, second_scale = 0;
};

Expected define(const Case& c, const Map& first, const Map& second, int64_t b, int64_t p, double gradient) {
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
void compare(const Case& c, const Map& first, const Map& second, const pe::Pool& pool) {
    const double arithmetic = 32 * arithmetic_epsilon(c.type);
    // Of what is stored: below the least normal float16 only absolute steps are left.
    const double rounding = size_of(c.type) == 2 ? epsilon(c.type) : 0;
    const double least = c.type == Type::kFloat16 ? std::ldexp(1, -24) : 0;
    const auto tolerance = [=](double expected, double scale) {
        return arithmetic * scale + rounding * std::abs(expected) + least;
    };
    const Result result = forward(c, first, second, pool);
    Upstream both;
    for (int64_t b = 0; b < c.batch; ++b) both.distance.push_back(c.positions() * (b % 2 ? -0.75 : 1.5));
    for (int64_t i = 0; i < c.batch * c.positions(); ++i) both.map.push_back(double(i % 5) / 2 - 0.75);
    Map f(c.type, c.batch, c.channels, c.positions(), c.first_order);
    Map g(c.type, c.batch, c.channels, c.positions(), c.second_order);
    for (const Upstream& upstream : {both, Upstream{both.distance, {}}, Upstream{{}, both.map}}) {
        std::fill(f.memory.begin(), f.memory.end(), 0);
        std::fill(g.memory.begin(), g.memory.end(), 0);
        backward(c, first, second, upstream, &f, &g, pool);
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
    backward(c, first, second, {{}, both.map}, &alone, nullptr, pool);
    CHECK(alone.memory == f.memory);
    alone = Map(c.type, c.batch, c.channels, c.positions(), c.second_order);
    backward(c, first, second, {{}, both.map}, nullptr, &alone, pool);
    CHECK(alone.memory == g.memory);
}

// noise: of the second map, relative to the first; 1 and above: unrelated.
void fill(Map* first, Map* second, double noise, double scale = 1, unsigned seed = 7) {
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

void check(Case c, double noise = 1, double scale = 1, const pe::Pool& pool = pe::sequential_pool()) {
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
    compare(c, first, second, pool);
}

std::vector<int64_t> some_of(int64_t channels) {
    std::vector<int64_t> indices;
    for (int64_t k = channels - 1; k >= 0; k -= 1 + k % 3) indices.push_back(k);
    std::swap(indices.front(), indices.back());
    return indices;
}

std::vector<double> factors_of(size_t count) {
    std::vector<double> factors;
    for (size_t k = 0; k < count; ++k) factors.push_back(k == 1 ? 0 : 0.25 + double(k % 7));
    return factors;
}

void check_everything(Case c) {
    const Order orders[][2] = {
        {kPlanar, kPlanar}, {kInterleaved, kInterleaved}, {kSpaced, kSpaced}, {kPlanar, kInterleaved}};
    for (const auto& order : orders) {
        c.first_order = order[0];
        c.second_order = order[1];
        for (const bool select : {false, true}) {
            c.indices = select ? some_of(c.channels) : std::vector<int64_t>();
            for (const bool weigh : {false, true}) {
                c.factors = weigh ? factors_of(size_t(c.count())) : std::vector<double>();
                check(c);
            }
        }
    }
}

void check_shapes(pe::DistanceForm form) {
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
            check_everything(c);
        }
    }
}

// Near-identical maps: accurate relative to what little is left.
void check_near() {
    for (const double noise : {1e-2, 1e-4, 1e-6}) {
        for (const pe::DistanceForm form : {pe::DistanceForm::kSquared, pe::DistanceForm::kUnit}) {
            for (const Order order : {kPlanar, kInterleaved}) {
                Case c;
                c.form = form;
                c.channels = 24;
                c.first_order = c.second_order = order;
                check(c, noise);
            }
        }
    }
    Case c;
    c.form = pe::DistanceForm::kUnit;
    Map map(c.type, c.batch, c.channels, c.positions(), kPlanar), other = map;
    fill(&map, &other, 1);
    for (const double x : forward(c, map, map, pe::sequential_pool()).map) CHECK(x == 0);
}

// Features that differ by their length above all, as after a change of contrast: sums over them cancel.
void check_contrast() {
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
            compare(c, first, second, pe::sequential_pool());
        }
    }
}

// Up to 1e18 in float32 and the largest float16, and where the squares of what is left are subnormal.
void check_scales() {
    for (const Order order : {kPlanar, kInterleaved}) {
        Case c;
        c.first_order = c.second_order = order;
        for (const double scale : {1e17, 1e-15}) check(c, 1, scale);
        c.form = pe::DistanceForm::kUnit;
        for (const double scale : {1e17, 1e-8}) check(c, 1, scale);
        c.type = Type::kFloat16;
        check(c, 1, 1.5e4);
    }
}

// Silent positions and norms below the clamp: as if divided by 1e-10, which does not move.
void check_silence() {
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
            compare(c, first, second, pe::sequential_pool());
        }
    }
}

// They reach what depends on them, and nothing else.
void check_nan() {
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
                const Result result = forward(c, first, second, pe::sequential_pool());
                CHECK(std::isfinite(result.distance[0]) && !std::isfinite(result.distance[1]));
                for (int64_t i = 0; i < int64_t(result.map.size()); ++i) {
                    CHECK(std::isfinite(result.map[i]) == (i != c.positions() + 3));
                }
                Map gradient(c.type, c.batch, c.channels, c.positions(), order);
                backward(c, first, second, {{1, 1}, {}}, &gradient, nullptr, pe::sequential_pool());
                for (int64_t p = 0; p < c.positions(); ++p) {
                    CHECK(std::isfinite(gradient.get(0, 2, p)));
                    CHECK(std::isfinite(gradient.get(1, 2, p)) == (p != 3));
                }
            }
        }
    }
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
            const Result one = forward(c, first, second, pe::sequential_pool());
            Map gradient(c.type, c.batch, c.channels, c.positions(), order), other = gradient;
            backward(c, first, second, {{1, 2, 3}, {}}, &gradient, nullptr, pe::sequential_pool());
            for (int threads : {2, 3}) {
                const pe::Pool pool{threads, run_on_threads, &threads};
                const Result many = forward(c, first, second, pool);
                CHECK(many.distance_memory == one.distance_memory && many.map_memory == one.map_memory);
                backward(c, first, second, {{1, 2, 3}, {}}, &other, nullptr, pool);
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
            const Result alone = forward(last, sample(first), sample(second), pe::sequential_pool());
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
        check_shapes(pe::DistanceForm::kSquared);
        check_shapes(pe::DistanceForm::kUnit);
        check_near();
        check_contrast();
        check_scales();
        check_silence();
        check_nan();
        check_threads();
    }
    return 0;
}
