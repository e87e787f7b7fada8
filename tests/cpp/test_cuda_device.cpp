// The CUDA kernels on a GPU: the cases of the CPU kernels, larger maps against these in double, the same bits
// each time, on any stream and from a CUDA graph. Exits with 77, and says why, where there is no GPU for
// them.
//
//   test_cuda_device [small] [raw]
//
// small: few cases, for tools that make kernels slow. raw: device memory is left as it was allocated, for a
// tool that looks for what is read before it is written; else it is filled with NaN.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "channel_distance_cases.h"
#include "channel_distance_cuda.h"
#include "contextual_cases.h"
#include "contextual_cuda.h"

namespace {

constexpr int kSkipped = 77;
bool fill_memory = true;
cudaStream_t stream = nullptr;

void succeed(cudaError_t error) {
    if (error != cudaSuccess) check::fail(__FILE__, __LINE__, cudaGetErrorString(error));
}

void succeed(const char* error) {
    if (error != nullptr) check::fail(__FILE__, __LINE__, error);
}

// Memory of the device that stands for some of the host; of just that size, so that tools see what passes its
// end.
class DeviceCopy {
  public:
    // contents: null: none. Copied back by fetch().
    DeviceCopy(const void* contents, size_t bytes) : bytes_(bytes) {
        if (bytes == 0) return;
        succeed(cudaMalloc(&data_, bytes));
        if (contents != nullptr) {
            succeed(cudaMemcpy(data_, contents, bytes, cudaMemcpyHostToDevice));
        } else if (fill_memory) {
            succeed(cudaMemset(data_, 0xff, bytes));
        }
        // Copies and fills use the default stream, which another one need not wait for.
        succeed(cudaDeviceSynchronize());
    }
    explicit DeviceCopy(size_t bytes) : DeviceCopy(nullptr, bytes) {}
    DeviceCopy(const DeviceCopy&) = delete;
    DeviceCopy& operator=(const DeviceCopy&) = delete;
    ~DeviceCopy() { cudaFree(data_); }

    void* get() const { return data_; }
    void fetch(void* host) const {
        if (bytes_ > 0) succeed(cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost));
    }

  private:
    void* data_ = nullptr;
    size_t bytes_;
};

// Bytes from the first element of a feature map to its last.
size_t extent(const pe::Layout& layout, int64_t batch, const pe::Channels& channels, int64_t positions,
              pe::Type type) {
    int64_t last = channels.count - 1;
    if (channels.indices != nullptr)
        last = *std::max_element(channels.indices, channels.indices + channels.count);
    const int64_t elements = 1 + (batch - 1) * layout.batch_stride + last * layout.channel_stride +
                             (positions - 1) * layout.position_stride;
    return size_t(elements) * maps::size_of(type);
}

size_t result_size(pe::Type type) { return type == pe::Type::kFloat64 ? 8 : 4; }

// Host memory that a call reads or writes, and its stand-in on the device.
struct Mirrored {
    Mirrored(void* host, size_t bytes, bool read)
        : host(host), device(read ? host : nullptr, host ? bytes : 0) {}
    void fetch() const {
        if (host != nullptr) device.fetch(host);
    }
    void* host;
    DeviceCopy device;
};

// Captures work in a CUDA graph and launches that.
void replay(const std::function<void()>& work) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    work();
    succeed(cudaStreamEndCapture(stream, &graph));
    succeed(cudaGraphInstantiate(&executable, graph, 0));
    succeed(cudaGraphLaunch(executable, stream));
    succeed(cudaStreamSynchronize(stream));
    succeed(cudaGraphExecDestroy(executable));
    succeed(cudaGraphDestroy(graph));
}

void start(const std::function<void()>& work, bool captured) {
    if (captured) {
        replay(work);
    } else {
        work();
        succeed(cudaStreamSynchronize(stream));
    }
    succeed(cudaGetLastError());
}

// contextual_cases::Run: everything to the device, forward and backward there, everything back.
void contextual_on(bool captured, const pe::ContextualProblem& p, const pe::Features& source,
                   const pe::Features& target, void* loss, const pe::ContextualStatistics& statistics,
                   const void* loss_gradient, const pe::Gradient& source_gradient,
                   const pe::Gradient& target_gradient) {
    const int64_t nx = p.source_positions(), ny = p.target_positions();
    const size_t wide = result_size(p.type);
    const auto bytes = [&](const pe::Layout& layout, int64_t positions) {
        return extent(layout, p.batch, p.channels, positions, p.type);
    };
    const DeviceCopy x(source.data, bytes(source.layout, nx)), y(target.data, bytes(target.layout, ny));
    const DeviceCopy upstream(loss_gradient, size_t(p.batch) * wide);
    const size_t rows = size_t(p.batch * nx), columns = size_t(p.batch * ny);
    const Mirrored losses(loss, size_t(p.batch) * wide, false);
    const Mirrored similarity(statistics.log_similarity, columns * wide, false);
    const Mirrored similarity_arg(statistics.log_similarity_arg, columns * 4, false);
    const Mirrored row_min(statistics.row_min, rows * wide, false);
    const Mirrored row_min_arg(statistics.row_min_arg, rows * 4, false);
    const Mirrored row_log_sum(statistics.row_log_sum, rows * wide, false);
    const Mirrored dx(source_gradient.data, bytes(source_gradient.layout, nx), true);
    const Mirrored dy(target_gradient.data, bytes(target_gradient.layout, ny), true);
    const bool target_wanted = target_gradient.data != nullptr;
    const DeviceCopy forward(pe::contextual_forward_cuda_workspace(p));
    const DeviceCopy backward(pe::contextual_backward_cuda_workspace(p, target_wanted));
    const pe::ContextualStatistics left{
        similarity.device.get(),  static_cast<int32_t*>(similarity_arg.device.get()),
        row_min.device.get(),     static_cast<int32_t*>(row_min_arg.device.get()),
        row_log_sum.device.get(), nullptr};
    const pe::Features on_x{x.get(), source.layout}, on_y{y.get(), target.layout};
    const auto work = [&] {
        succeed(pe::contextual_forward_cuda(p, on_x, on_y, losses.device.get(), left, forward.get(), stream));
        succeed(pe::contextual_backward_cuda(
            p, on_x, on_y, left, upstream.get(), nullptr, {dx.device.get(), source_gradient.layout},
            {dy.device.get(), target_gradient.layout}, backward.get(), stream));
    };
    start(work, captured);
    for (const Mirrored* result :
         {&losses, &similarity, &similarity_arg, &row_min, &row_min_arg, &row_log_sum, &dx, &dy}) {
        result->fetch();
    }
}

contextual_cases::Run contextual_run(bool captured) {
    return [captured](const auto&... arguments) { contextual_on(captured, arguments...); };
}

void contextual_on_the_cpu(const pe::ContextualProblem& problem, const pe::Features& source,
                           const pe::Features& target, void* loss, const pe::ContextualStatistics& statistics,
                           const void* loss_gradient, const pe::Gradient& source_gradient,
                           const pe::Gradient& target_gradient) {
    const pe::Pool pool = pe::sequential_pool();
    const auto forward = contextual_cases::workspace(pe::contextual_forward_workspace(problem, 1, false));
    pe::contextual_forward(problem, source, target, loss, statistics, forward.get(), pool);
    const auto backward =
        contextual_cases::workspace(pe::contextual_backward_workspace(problem, 1, false, true));
    pe::contextual_backward(problem, source, target, statistics, loss_gradient, nullptr, source_gradient,
                            target_gradient, backward.get(), pool);
}

double norm(const std::vector<double>& values) {
    double square = 0;
    for (const double value : values) square += value * value;
    return std::sqrt(square);
}

template <typename T>
double relative_error(const std::vector<T>& got, const std::vector<double>& exact) {
    std::vector<double> difference(exact.size());
    for (size_t n = 0; n < exact.size(); ++n) difference[n] = double(got[n]) - exact[n];
    return norm(difference) / norm(exact);
}

// Larger maps, and pairs as close as those of training, against the CPU kernels in double.
void check_accuracy(const contextual_cases::Shape& shape, double noise, pe::MatmulPrecision precision,
                    double of_loss, double of_gradient) {
    namespace cases = contextual_cases;
    CHECK(shape.nx() == shape.ny());
    std::vector<double> x = cases::features(shape.batch * shape.channels * shape.nx(), 21);
    const std::vector<double> other = cases::features(int64_t(x.size()), 22);
    std::vector<float> xf(x.begin(), x.end()), yf(x.size());
    for (size_t n = 0; n < x.size(); ++n) yf[n] = float(x[n] + noise * (other[n] - 0.4));
    x.assign(xf.begin(), xf.end());
    const std::vector<double> y(yf.begin(), yf.end());
    const pe::Layout layout = cases::planar(shape.channels, shape.nx());
    pe::ContextualProblem problem = cases::problem_of(shape, pe::Type::kFloat64);
    // With a small one, pairs as close as these have losses that are nothing but the last digits of double.
    problem.bandwidth = 5;
    const auto exact = cases::run<double>(contextual_on_the_cpu, problem, x, y, layout, layout);
    problem.type = pe::Type::kFloat32;
    problem.precision = precision;
    const auto got = cases::run<float>(contextual_run(false), problem, xf, yf, layout, layout);
    for (int64_t b = 0; b < shape.batch; ++b) CHECK_RELATIVE(got.loss[b], exact.loss[b], of_loss);
    CHECK_CLOSE(relative_error(got.source_gradient, exact.source_gradient), 0, of_gradient);
    CHECK_CLOSE(relative_error(got.target_gradient, exact.target_gradient), 0, of_gradient);
}

// Selected and weighted channels in half precision and channels-last, against the same values in double.
void check_storage(pe::Type type, const half::Format& format) {
    namespace cases = contextual_cases;
    const cases::Shape shape{2, 9, 11, 13, 8, 9};
    const std::vector<int64_t> indices{7, 0, 4, 2};
    const std::vector<double> weights{0.5, 2, 1, 3};
    const auto stored = [&](int64_t positions, unsigned seed) {
        std::vector<uint16_t> bits;
        for (const double value : cases::features(shape.batch * shape.channels * positions, seed)) {
            bits.push_back(half::bits(format, value));
        }
        return bits;
    };
    const auto widened = [&](const std::vector<uint16_t>& bits) {
        std::vector<double> values;
        for (const uint16_t value : bits) values.push_back(half::value(format, value));
        return values;
    };
    const std::vector<uint16_t> x = stored(shape.nx(), 31), y = stored(shape.ny(), 32);
    const pe::Layout xl = cases::interleaved(shape.channels, shape.nx());
    const pe::Layout yl = cases::interleaved(shape.channels, shape.ny());
    pe::ContextualProblem problem = cases::problem_of(shape, pe::Type::kFloat64);
    problem.channels = {int64_t(indices.size()), indices.data(), weights.data()};
    const auto exact = cases::run<double>(contextual_on_the_cpu, problem, widened(x), widened(y), xl, yl);
    problem.type = type;
    const size_t rows = size_t(shape.batch * shape.nx()), columns = size_t(shape.batch * shape.ny());
    std::vector<float> loss(2), similarity(columns), row_min(rows), row_log_sum(rows), upstream(2, 1.0f);
    std::vector<int32_t> similarity_arg(columns), row_min_arg(rows);
    std::vector<uint16_t> dx(x.size()), dy(y.size());
    contextual_on(false, problem, {x.data(), xl}, {y.data(), yl}, loss.data(),
                  {similarity.data(), similarity_arg.data(), row_min.data(), row_min_arg.data(),
                   row_log_sum.data(), nullptr},
                  upstream.data(), {dx.data(), xl}, {dy.data(), yl});
    for (size_t b = 0; b < 2; ++b) CHECK_RELATIVE(loss[b], exact.loss[b], 1e-5);
    const double step = std::ldexp(1.0, -format.mantissa);
    CHECK(relative_error(widened(dx), exact.source_gradient) < step);
    CHECK(relative_error(widened(dy), exact.target_gradient) < step);
}

// The same bits each time, on the default stream, on another one and from a CUDA graph.
void check_bits(const contextual_cases::Shape& shape) {
    namespace cases = contextual_cases;
    const auto wide_x = cases::features(shape.batch * shape.channels * shape.nx(), 5);
    const auto wide_y = cases::features(shape.batch * shape.channels * shape.ny(), 6);
    const std::vector<float> x(wide_x.begin(), wide_x.end()), y(wide_y.begin(), wide_y.end());
    const pe::ContextualProblem problem = cases::problem_of(shape, pe::Type::kFloat32);
    const pe::Layout xl = cases::planar(shape.channels, shape.nx()),
                     yl = cases::planar(shape.channels, shape.ny());
    const auto one = cases::run<float>(contextual_run(false), problem, x, y, xl, yl);
    succeed(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (const bool captured : {false, true}) {
        const auto other = cases::run<float>(contextual_run(captured), problem, x, y, xl, yl);
        CHECK(cases::same_bits(one.loss, other.loss) && cases::same_bits(one.similarity, other.similarity));
        CHECK(cases::same_bits(one.similarity_arg, other.similarity_arg));
        CHECK(cases::same_bits(one.row_min, other.row_min) &&
              cases::same_bits(one.row_log_sum, other.row_log_sum));
        CHECK(cases::same_bits(one.source_gradient, other.source_gradient));
        CHECK(cases::same_bits(one.target_gradient, other.target_gradient));
    }
    succeed(cudaStreamDestroy(stream));
    stream = nullptr;
}

channel_distance_cases::Kernels channel_distance_kernels(bool captured) {
    const auto forward = [captured](const pe::ChannelDistanceProblem& p, const pe::Features& first,
                                    const pe::Features& second, void* distance, void* map) {
        const auto copied = [&](const pe::Features& f) {
            return extent(f.layout, p.batch, p.channels, p.positions(), p.type);
        };
        const DeviceCopy f(first.data, copied(first)), g(second.data, copied(second));
        const Mirrored distances(distance, size_t(p.batch) * result_size(p.type), false);
        const Mirrored map_(map, size_t(p.batch * p.positions()) * result_size(p.type), false);
        const DeviceCopy workspace(pe::channel_distance_forward_cuda_workspace(p));
        start(
            [&] {
                succeed(pe::channel_distance_forward_cuda(p, {f.get(), first.layout},
                                                          {g.get(), second.layout}, distances.device.get(),
                                                          map_.device.get(), workspace.get(), stream));
            },
            captured);
        distances.fetch();
        map_.fetch();
    };
    const auto backward = [captured](const pe::ChannelDistanceProblem& p, const pe::Features& first,
                                     const pe::Features& second, const void* distance_gradient,
                                     const void* map_gradient, const pe::Gradient& first_gradient,
                                     const pe::Gradient& second_gradient) {
        const auto bytes = [&](const pe::Layout& layout) {
            return extent(layout, p.batch, p.channels, p.positions(), p.type);
        };
        const DeviceCopy f(first.data, bytes(first.layout)), g(second.data, bytes(second.layout));
        const size_t of_distance = size_t(p.batch) * result_size(p.type);
        const DeviceCopy distance(distance_gradient, distance_gradient ? of_distance : 0);
        const DeviceCopy map(map_gradient, map_gradient ? of_distance * size_t(p.positions()) : 0);
        const Mirrored df(first_gradient.data, bytes(first_gradient.layout), true);
        const Mirrored dg(second_gradient.data, bytes(second_gradient.layout), true);
        const DeviceCopy workspace(pe::channel_distance_backward_cuda_workspace(p));
        start(
            [&] {
                succeed(pe::channel_distance_backward_cuda(
                    p, {f.get(), first.layout}, {g.get(), second.layout}, distance.get(), map.get(),
                    {df.device.get(), first_gradient.layout}, {dg.device.get(), second_gradient.layout},
                    workspace.get(), stream));
            },
            captured);
        df.fetch();
        dg.fetch();
    };
    return {forward, backward};
}

void check_channel_distance(bool small) {
    namespace cases = channel_distance_cases;
    const cases::Kernels kernels = channel_distance_kernels(false);
    if (!small) {
        cases::check_all(kernels);
    } else {
        cases::check_near(kernels);
        cases::check_silence(kernels);
        cases::check_nan(kernels);
    }
    // Blocks that share channels, more channels than threads, more tiles than blocks.
    const int64_t shapes[][4] = {{1, 24, 16, 24}, {1, 600, 4, 4}, {1, 9, 40, 40}, {1, 40, 131, 253}};
    succeed(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (const auto& shape : shapes) {
        if (small && shape[3] > 100) continue;
        for (const pe::DistanceForm form : {pe::DistanceForm::kSquared, pe::DistanceForm::kUnit}) {
            for (const maps::Order order : {maps::kPlanar, maps::kInterleaved}) {
                cases::Case c;
                c.form = form;
                c.batch = shape[0], c.channels = shape[1], c.height = shape[2], c.width = shape[3];
                c.first_order = c.second_order = order;
                cases::check_case(c, kernels);
                cases::check_case(c, channel_distance_kernels(true));
            }
        }
    }
    succeed(cudaStreamDestroy(stream));
    stream = nullptr;
}

void check_contextual(bool small) {
    namespace cases = contextual_cases;
    cases::check_hard_inputs(contextual_run(false));
    check_bits({3, 16, 17, 19, 12, 23});
    check_storage(pe::Type::kFloat16, half::kFloat16);
    check_storage(pe::Type::kBFloat16, half::kBFloat16);
    constexpr auto kHighest = pe::MatmulPrecision::kHighest, kHigh = pe::MatmulPrecision::kHigh;
    for (const int64_t channels : {13, 70, 128, 260}) {
        const cases::Shape shape{2, channels, 11, 13, 13, 11};
        check_accuracy(shape, 0.3, kHighest, 1e-5, 1e-4);
        // Losses down to 1e-4.
        check_accuracy(shape, 0.15, kHighest, 1e-4, 2e-4);
        check_accuracy(shape, 0.5, kHigh, 1e-2, 1e-1);
    }
    if (small) return;
    cases::check_settings(contextual_run(false), {false});
    for (const int64_t channels : {13, 128}) {
        check_accuracy({2, channels, 48, 50, 50, 48}, 0.3, kHighest, 1e-5, 1e-4);
        check_accuracy({1, channels, 64, 64, 64, 64}, 0.15, kHighest, 1e-4, 2e-4);
    }
}

// Why there is no device for the kernels, empty if there is one.
std::string missing() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    if (count == 0) return "no CUDA device";
    int major = 0;
    succeed(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    return major < 8 ? "expected a device of compute capability 8.0 or more" : "";
}

}  // namespace

int main(int count, char** arguments) {
    bool small = false;
    for (int n = 1; n < count; ++n) {
        const std::string argument = arguments[n];
        if (argument == "small") {
            small = true;
        } else if (argument == "raw") {
            fill_memory = false;
        } else {
            std::fprintf(stderr, "%s: expected small or raw, got %s\n", arguments[0], arguments[n]);
            return 2;
        }
    }
    const std::string reason = missing();
    if (!reason.empty()) {
        std::printf("skipped: %s\n", reason.c_str());
        return kSkipped;
    }
    check_channel_distance(small);
    check_contextual(small);
    cudaDeviceReset();
    return 0;
}
