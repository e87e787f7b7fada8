// The operators in ONNX Runtime: the bits of the kernels for every type, with and without what is optional,
// from several threads at once; and a message for what they refuse. Values are held to the definition in
// Python.
// Compiled with PE_CUDA, the kernels are those for CUDA, emulated, and the library is one that has them in
// the place of the CPU's.
//   test_ort LIBONNXRUNTIME LIBPE_RUNTIME_ORT
#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "channel_distance_cuda.h"
#include "contextual_cuda.h"
#include "half.h"
#include "onnx_model.h"
#include "ort_session.h"

namespace {

using namespace onnx_model;
using ort_session::Runtime;
using ort_session::Session;
using ort_session::Tensor;

// Of this machine, as the library is told: see the end of the file.
constexpr int kProcessors = 64;

constexpr int kTypes[] = {kFloat, kDouble, kFloat16, kBFloat16};
const std::vector<int64_t> kChannels{3, 0, 6};
const std::vector<float> kFactors{0.5f, 2, 1};

pe::Type type_of(int element) {
    return element == kDouble    ? pe::Type::kFloat64
           : element == kFloat16 ? pe::Type::kFloat16
           : element == kFloat   ? pe::Type::kFloat32
                                 : pe::Type::kBFloat16;
}

template <typename T>
Tensor tensor_of(int element, std::vector<int64_t> shape, const std::vector<T>& values) {
    Tensor tensor{ONNXTensorElementDataType(element), std::move(shape), {}};
    tensor.data.resize(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
    return tensor;
}

Tensor features(int element, const std::vector<int64_t>& shape, unsigned seed, double first = 0.25) {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    std::mt19937 random(seed);
    std::vector<double> values(static_cast<size_t>(count));
    for (double& value : values) value = std::uniform_real_distribution<double>(0, 1)(random);
    if (count > 0) values[0] = first;
    if (element == kDouble) return tensor_of(element, shape, values);
    if (element == kFloat) {
        return tensor_of(element, shape, std::vector<float>(values.begin(), values.end()));
    }
    std::vector<uint16_t> halves;
    for (double value : values) {
        halves.push_back(half::bits(element == kFloat16 ? half::kFloat16 : half::kBFloat16, value));
    }
    return tensor_of(element, shape, halves);
}

pe::Features planar(const Tensor& tensor) {
    const int64_t positions = tensor.shape[2] * tensor.shape[3];
    return {tensor.data.data(), {tensor.shape[1] * positions, positions, 1}};
}

void expect_none(const std::string& problem) {
    if (!problem.empty()) check::fail(__FILE__, __LINE__, problem);
}

struct Options {
    bool channels, factors, map;
};

// A model of an operator, and its inputs for a run.
struct Case {
    std::string model;
    std::vector<const char*> names, output_names;
    std::vector<Tensor> inputs;
};

Case contextual_case(int element, const Options& options, const Tensor& source, const Tensor& target,
                     const std::vector<Message>& attributes = {}) {
    const int real = element == kDouble ? kDouble : kFloat;
    std::vector<Value> inputs{{"source", element, {"b", "c", "h", "w"}},
                              {"target", element, {"b", "c", "hy", "wy"}},
                              {options.channels ? "channels" : "", kInt64, {"k"}},
                              {options.factors ? "weights" : "", kFloat, {"k"}}};
    while (inputs.back().name.empty()) inputs.pop_back();
    std::vector<Value> outputs{{"loss", real, {"b"}}};
    Case made{{}, {"source", "target"}, {"loss"}, {source, target}};
    if (options.map) {
        outputs.push_back({"map", real, {"b", "one", "hy", "wy"}});
        made.output_names.push_back("map");
    }
    if (options.channels) {
        made.names.push_back("channels");
        made.inputs.push_back(tensor_of(kInt64, {3}, kChannels));
    }
    if (options.factors) {
        made.names.push_back("weights");
        made.inputs.push_back(tensor_of(kFloat, {3}, kFactors));
    }
    made.model = of_one_node("ContextualLoss", inputs, outputs, attributes);
    return made;
}

pe::Channels channels_of(const Options& options, int64_t available, const std::vector<double>& factors) {
    return {options.channels ? int64_t(kChannels.size()) : available,
            options.channels ? kChannels.data() : nullptr, options.factors ? factors.data() : nullptr};
}

struct Aligned {
    explicit Aligned(size_t bytes)
        : memory(std::aligned_alloc(pe::kWorkspaceAlignment,
                                    (bytes / pe::kWorkspaceAlignment + 1) * pe::kWorkspaceAlignment)) {}
    ~Aligned() { std::free(memory); }
    void* memory;
};

// What the kernel itself gives, on one thread.
template <typename T>
void expect_contextual(const Tensor& source, const Tensor& target, const Options& options,
                       pe::Distance distance, const std::vector<Tensor>& outputs) {
    const std::vector<double> factors(kFactors.begin(), kFactors.end());
    const pe::ContextualProblem problem{source.shape[0],
                                        source.shape[2],
                                        source.shape[3],
                                        target.shape[2],
                                        target.shape[3],
                                        channels_of(options, source.shape[1], factors),
                                        type_of(source.type),
                                        distance,
                                        pe::Center::kSample,
                                        pe::Form::kLog,
                                        0.5,
                                        1e-5,
                                        0,
                                        0};
    const size_t nx = size_t(problem.batch * problem.source_positions());
    const size_t ny = size_t(problem.batch * problem.target_positions());
    std::vector<T> loss(size_t(problem.batch)), map(ny), row_min(nx), row_log_sum(nx);
    std::vector<int32_t> map_arg(ny), row_min_arg(nx);
    const pe::ContextualStatistics statistics{map.data(),         map_arg.data(),     row_min.data(),
                                              row_min_arg.data(), row_log_sum.data(), nullptr};
#ifdef PE_CUDA
    const Aligned workspace(contextual_forward_cuda_workspace(problem));
    CHECK(contextual_forward_cuda(problem, planar(source), planar(target), loss.data(), statistics,
                                  workspace.memory, nullptr) == nullptr);
#else
    const Aligned workspace(contextual_forward_workspace(problem, 1, false));
    contextual_forward(problem, planar(source), planar(target), loss.data(), statistics, workspace.memory,
                       pe::sequential_pool());
#endif
    CHECK(outputs[0].data.size() == loss.size() * sizeof(T));
    CHECK(std::memcmp(outputs[0].data.data(), loss.data(), outputs[0].data.size()) == 0);
    if (!options.map) return;
    CHECK((outputs[1].shape == std::vector<int64_t>{problem.batch, 1, target.shape[2], target.shape[3]}));
    CHECK(std::memcmp(outputs[1].data.data(), map.data(), map.size() * sizeof(T)) == 0);
}

void test_contextual(const Runtime& runtime, int element, const Options& options, int threads,
                     pe::Distance distance) {
    const int64_t channels = options.channels || !options.factors ? 7 : 3;
    const Tensor source = features(element, {3, channels, 9, 5}, 1);
    const Tensor target = features(element, {3, channels, 4, 13}, 2);
    std::vector<Message> attributes;
    if (distance == pe::Distance::kL2) attributes.push_back(text_attribute("distance", "l2"));
    const Case made = contextual_case(element, options, source, target, attributes);
    const Session session(runtime, made.model, threads);
    expect_none(session.problem());
    std::vector<Tensor> outputs;
    expect_none(session.run(made.names, made.inputs, made.output_names, outputs));
    if (element == kDouble) {
        expect_contextual<double>(source, target, options, distance, outputs);
    } else {
        expect_contextual<float>(source, target, options, distance, outputs);
    }
}

void test_channel_distance(const Runtime& runtime, int element, bool unit, const Options& options) {
    const int64_t channels = options.channels || !options.factors ? 7 : 3;
    const Tensor first = features(element, {3, channels, 9, 5}, 3);
    const Tensor second = features(element, {3, channels, 9, 5}, 4);
    const int real = element == kDouble ? kDouble : kFloat;
    const bool weights = options.factors && !unit, linear = options.factors && unit;
    std::vector<Value> inputs{{"first", element, {"b", "c", "h", "w"}},
                              {"second", element, {"b", "c", "h", "w"}},
                              {options.channels ? "channels" : "", kInt64, {"k"}},
                              {weights ? "factors" : "", kFloat, {"k"}},
                              {linear ? "factors" : "", kFloat, {"k"}}};
    std::vector<Value> outputs{{"distance", real, {"b"}}};
    if (options.map) outputs.push_back({"map", real, {"b", "one", "h", "w"}});
    std::vector<const char*> names{"first", "second"}, output_names{"distance"};
    std::vector<Tensor> tensors{first, second};
    if (options.channels) names.push_back("channels"), tensors.push_back(tensor_of(kInt64, {3}, kChannels));
    if (options.factors) names.push_back("factors"), tensors.push_back(tensor_of(kFloat, {3}, kFactors));
    if (options.map) output_names.push_back("map");
    const Session session(
        runtime,
        of_one_node("ChannelDistance", inputs, outputs, {text_attribute("form", unit ? "unit" : "squared")}),
        2);
    expect_none(session.problem());
    std::vector<Tensor> results;
    expect_none(session.run(names, tensors, output_names, results));

    const std::vector<double> factors(kFactors.begin(), kFactors.end());
    pe::ChannelDistanceProblem problem{3,
                                       9,
                                       5,
                                       channels_of(options, channels, factors),
                                       type_of(element),
                                       unit ? pe::DistanceForm::kUnit : pe::DistanceForm::kSquared,
                                       nullptr};
    if (unit) std::swap(problem.channels.weights, problem.linear);
    const size_t size = real == kDouble ? 8 : 4;
    std::vector<char> distance(3 * size), map(3 * 45 * size);
#ifdef PE_CUDA
    const Aligned workspace(channel_distance_forward_cuda_workspace(problem));
    CHECK(channel_distance_forward_cuda(problem, planar(first), planar(second), distance.data(), map.data(),
                                        workspace.memory, nullptr) == nullptr);
#else
    const Aligned workspace(channel_distance_forward_workspace(problem, 1));
    channel_distance_forward(problem, planar(first), planar(second), distance.data(), map.data(),
                             workspace.memory, pe::sequential_pool());
#endif
    CHECK(results[0].data == distance);
    if (options.map) CHECK(results[1].data == map);
}

void test_threads_at_once(const Runtime& runtime) {
    const Tensor source = features(kFloat, {2, 7, 20, 20}, 5), target = features(kFloat, {2, 7, 20, 20}, 6);
    const Case made = contextual_case(kFloat, {true, true, true}, source, target);
    const Session session(runtime, made.model, 2);
    std::vector<std::thread> threads;
    for (int number = 0; number < 8; ++number) {
        threads.emplace_back([&] {
            for (int run = 0; run < 4; ++run) {
                std::vector<Tensor> outputs;
                expect_none(session.run(made.names, made.inputs, made.output_names, outputs));
                expect_contextual<float>(source, target, {true, true, true}, pe::Distance::kCosine, outputs);
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
}

#ifndef PE_CUDA
// Memory that notes the largest piece it was asked for.
class NotingAllocator : public OrtAllocator {
  public:
    explicit NotingAllocator(const Runtime& runtime) : OrtAllocator{}, runtime_(runtime) {
        version = 18;
        ort_session::expect(runtime.api, runtime.api.CreateMemoryInfo("Cpu", OrtDeviceAllocator, 0,
                                                                      OrtMemTypeDefault, &info_));
        OrtAllocator::Alloc = [](OrtAllocator* self, size_t bytes) {
            return static_cast<NotingAllocator*>(self)->allocate(bytes);
        };
        OrtAllocator::Reserve = OrtAllocator::Alloc;
        OrtAllocator::Free = [](OrtAllocator*, void* memory) { std::free(memory); };
        OrtAllocator::Info = [](const OrtAllocator* self) -> const OrtMemoryInfo* {
            return static_cast<const NotingAllocator*>(self)->info_;
        };
        ort_session::expect(runtime.api, runtime.api.RegisterAllocator(runtime.env, this));
    }
    NotingAllocator(const NotingAllocator&) = delete;
    NotingAllocator& operator=(const NotingAllocator&) = delete;
    ~NotingAllocator() {
        ort_session::expect(runtime_.api, runtime_.api.UnregisterAllocator(runtime_.env, info_));
        runtime_.api.ReleaseMemoryInfo(info_);
    }

    std::atomic<size_t> largest{0};

  private:
    void* allocate(size_t bytes) {
        size_t before = largest;
        while (before < bytes && !largest.compare_exchange_weak(before, bytes)) {
        }
        return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    }

    const Runtime& runtime_;
    OrtMemoryInfo* info_ = nullptr;
};

// The workspace of a run is that of the session's threads, however many processors there are (see below): of
// two, once both have been seen.
void test_workspace(const Runtime& runtime) {
    constexpr int64_t kSide = 40;
    const Tensor source = features(kFloat, {1, 7, kSide, kSide}, 11);
    const Tensor target = features(kFloat, {1, 7, kSide, kSide}, 12);
    const Case made = contextual_case(kFloat, {false, false, true}, source, target);
    const pe::ContextualProblem problem{1,
                                        kSide,
                                        kSide,
                                        kSide,
                                        kSide,
                                        {7, nullptr, nullptr},
                                        pe::Type::kFloat32,
                                        pe::Distance::kCosine,
                                        pe::Center::kSample,
                                        pe::Form::kLog,
                                        0.5,
                                        1e-5,
                                        0,
                                        0};
    const auto bytes = [&](int tasks) { return contextual_forward_workspace(problem, tasks, false); };
    // Beside it in one piece: three numbers for each position and the ends of six parts.
    const size_t others = size_t(kSide * kSide) * 5 * 4 + 8 * 256;
    const size_t more = bytes(2) - bytes(1);
    CHECK(others < more);
    CHECK(bytes(kProcessors) > bytes(1) + 4 * more);
    NotingAllocator allocator(runtime);
    std::vector<std::vector<char>> results;
    for (int threads : {1, 2}) {
        const Session session(runtime, made.model, threads, true);
        expect_none(session.problem());
        allocator.largest = 0;
        for (int run = 0; run < 1000 && allocator.largest < bytes(threads); ++run) {
            std::vector<Tensor> outputs;
            expect_none(session.run(made.names, made.inputs, made.output_names, outputs));
            results.push_back(outputs[0].data);
            results.back().insert(results.back().end(), outputs[1].data.begin(), outputs[1].data.end());
            CHECK(results.back() == results.front());
            CHECK(allocator.largest <= bytes(threads) + others);
        }
        CHECK(allocator.largest >= bytes(threads));
    }
}
#endif

void expect_refused(const std::string& problem, const std::string& expected) {
    if (problem.find(expected) == std::string::npos) {
        check::fail(__FILE__, __LINE__, "expected a message with '" + expected + "', got '" + problem + "'");
    }
}

void test_refusals(const Runtime& runtime) {
    const Tensor good = features(kFloat, {1, 7, 4, 4}, 7);
    const auto loading = [&](const Message& attribute) {
        return Session(runtime, contextual_case(kFloat, {}, good, good, {attribute}).model, 1).problem();
    };
    expect_refused(loading(real_attribute("bandwidth", 0)), "ContextualLoss: bandwidth: expected");
    expect_refused(loading(integer_attribute("bandwidth", 1)), "bandwidth: expected a floating-point number");
    expect_refused(loading(real_attribute("distance", 1)), "distance: expected a string");
    expect_refused(loading(text_attribute("center", "mean")), "center: expected one of 'sample', 'batch'");
    const auto running = [&](const Tensor& source, const Tensor& target) {
        const Case made = contextual_case(kFloat, {true, false, false}, source, target);
        const Session session(runtime, made.model, 1);
        std::vector<Tensor> outputs;
        return session.run(made.names, made.inputs, made.output_names, outputs);
    };
    expect_refused(running(features(kFloat, {0, 7, 4, 4}, 8), good), "source: expected a non-empty shape");
    expect_refused(running(features(kFloat, {1, 7, 4, 0}, 8), good), "source: expected a non-empty shape");
    expect_refused(running(good, features(kFloat, {1, 8, 4, 4}, 8)), "source and target: expected the same");
    const Tensor few = features(kFloat, {1, 4, 4, 4}, 8);
    expect_refused(running(few, few), "channels: expected numbers from 0 to 3, got 6");
}

// An ONNX Runtime that is too old: it has the first interface only, which all have.
void test_old_runtime(const Runtime& runtime) {
    static const OrtApiBase* real;
    real = &runtime.base;
    const OrtApiBase old{[](uint32_t version) noexcept { return version == 1 ? real->GetApi(1) : nullptr; },
                         []() noexcept { return "1.17.3"; }};
    OrtSessionOptions* options = nullptr;
    ort_session::expect(runtime.api, runtime.api.CreateSessionOptions(&options));
    expect_refused(ort_session::message_of(runtime.api, runtime.register_operators(options, &old)),
                   "pe_runtime: expected ONNX Runtime 1.18 or newer, got 1.17.3");
    runtime.api.ReleaseSessionOptions(options);
}

void test_not_finite(const Runtime& runtime) {
    for (double bad : {std::nan(""), double(INFINITY), 1e30}) {
        const Tensor source = features(kFloat, {3, 7, 4, 4}, 9, bad);
        const Case made = contextual_case(kFloat, {}, source, features(kFloat, {3, 7, 4, 4}, 10));
        const Session session(runtime, made.model, 2);
        std::vector<Tensor> outputs;
        expect_none(session.run(made.names, made.inputs, made.output_names, outputs));
        CHECK(std::isnan(outputs[0].as<float>()[0]) == (bad != 1e30));
        CHECK(std::isfinite(outputs[0].as<float>()[1]));
    }
}

}  // namespace

// In the place of the standard library's, for all that this process loads.
unsigned int std::thread::hardware_concurrency() noexcept { return kProcessors; }

int main(int count, char** arguments) {
    CHECK(count == 3);
    const Runtime runtime(arguments[1], arguments[2]);
    for (int element : kTypes) {
        for (int set = 0; set < 8; ++set) {
            const Options options{(set & 1) != 0, (set & 2) != 0, (set & 4) != 0};
            test_contextual(runtime, element, options, 1 + set % 3, pe::Distance(set / 4));
            test_channel_distance(runtime, element, false, options);
            test_channel_distance(runtime, element, true, options);
        }
    }
    test_threads_at_once(runtime);
#ifndef PE_CUDA
    test_workspace(runtime);
#endif
    test_refusals(runtime);
    test_old_runtime(runtime);
    test_not_finite(runtime);
}
