// pe_runtime in C++17: pe_runtime.h with objects that free themselves, views for pointers, and exceptions.
//
//     pe_runtime::Metric metric("metric.onnx");
//     std::vector<std::uint8_t> first = ..., second = ...;         // 640 x 480 x RGB
//     double score = metric.score(pe_runtime::Image(first, 640, 480), pe_runtime::Image(second, 640, 480));
//     if (!metric.passes(score, 0.1)) ...
//
// Everything in here is inline: a program depends on the C interface alone.
#pragma once

#include <pe_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace pe_runtime {

// What a failed call throws. PE_OUT_OF_MEMORY is std::bad_alloc instead.
class Error : public std::runtime_error {
  public:
    Error(pe_status status, const std::string& text) : std::runtime_error(text), status_(status) {}

    pe_status status() const noexcept { return status_; }

  private:
    pe_status status_;
};

// Values in somebody else's memory, as std::span has them; made of a pointer and a size or of whatever has
// data() and size(), std::span included.
template <class T>
class View {
  public:
    constexpr View() noexcept = default;
    constexpr View(T* data, std::size_t size) noexcept : data_(data), size_(size) {}

    template <class Container, class = std::enable_if_t<
                                   std::is_convertible_v<decltype(std::declval<Container&>().data()), T*>>>
    constexpr View(Container&& values) noexcept : data_(values.data()), size_(values.size()) {}

    constexpr T* data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T* begin() const noexcept { return data_; }
    constexpr T* end() const noexcept { return data_ + size_; }
    constexpr T& operator[](std::size_t index) const noexcept { return data_[index]; }

  private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

// An image in the caller's memory. For strides, alpha that is multiplied in, or planes, set the members of
// pe_image that this one has.
struct Image : pe_image {
    // The whole of `samples` without padding; `layout` tells the channels. Throws std::invalid_argument where
    // there are fewer or more than the size asks for.
    Image(View<const std::uint8_t> samples, std::int64_t width, std::int64_t height,
          pe_layout layout = PE_RGB)
        : Image(samples.data(), samples.size(), PE_UINT8, width, height, layout) {}
    Image(View<const std::uint16_t> samples, std::int64_t width, std::int64_t height,
          pe_layout layout = PE_RGB)
        : Image(samples.data(), samples.size(), PE_UINT16, width, height, layout) {}
    Image(View<const float> samples, std::int64_t width, std::int64_t height, pe_layout layout = PE_RGB)
        : Image(samples.data(), samples.size(), PE_FLOAT32, width, height, layout) {}

    // From the top left pixel's first sample on, rows `row_stride` bytes apart (0: without padding). The
    // caller sees to it that they are all there.
    Image(const void* first, pe_sample sample_type, std::int64_t image_width, std::int64_t image_height,
          pe_layout pixel_layout = PE_RGB, std::ptrdiff_t stride = 0)
        : pe_image(PE_IMAGE_INIT) {
        samples = first;
        sample = sample_type;
        width = image_width;
        height = image_height;
        layout = pixel_layout;
        row_stride = stride;
    }

  private:
    Image(const void* first, std::size_t count, pe_sample sample_type, std::int64_t image_width,
          std::int64_t image_height, pe_layout pixel_layout)
        : Image(first, sample_type, image_width, image_height, pixel_layout) {
        const std::size_t channels = pixel_layout <= PE_RGBA ? pixel_layout : pixel_layout - 2;
        const bool empty = image_width <= 0 || image_height <= 0;
        const std::size_t pixels = channels == 0 ? 0 : count / channels;
        if (empty || count % channels != 0 || pixels % static_cast<std::size_t>(image_width) != 0 ||
            pixels / static_cast<std::size_t>(image_width) != static_cast<std::size_t>(image_height)) {
            throw std::invalid_argument(
                "samples: expected " + std::to_string(image_width) + " x " + std::to_string(image_height) +
                " pixels of " + std::to_string(channels) + ", got " + std::to_string(count) + " samples");
        }
    }
};

// A difference map: height() rows of width() values, larger is worse.
class Map {
  public:
    explicit Map(pe_map* map) noexcept : map_(map) {}

    std::int64_t width() const noexcept { return pe_map_width(map_.get()); }
    std::int64_t height() const noexcept { return pe_map_height(map_.get()); }

    View<const float> values() const noexcept {
        return {pe_map_values(map_.get()), static_cast<std::size_t>(width() * height())};
    }

    float operator()(std::int64_t row, std::int64_t column) const noexcept {
        return pe_map_values(map_.get())[row * width() + column];
    }

  private:
    struct Free {
        void operator()(pe_map* map) const noexcept { pe_map_free(map); }
    };
    std::unique_ptr<pe_map, Free> map_;
};

// See pe_metric_options; an empty text or path is the default.
struct Options {
    std::string onnxruntime;
    std::string operators_library;
    pe_operators operators = PE_OPERATORS_AUTO;
    std::int32_t threads = 0;
    std::string provider;
};

struct Scored {
    double score;
    Map map;
};

// An exported metric. One may be used from any number of threads at once. A metric that has been moved from
// describes itself with empty texts and zeros, and throws Error(PE_INVALID_ARGUMENT) where it is to compute.
class Metric {
  public:
    explicit Metric(const std::string& path, const Options& options = {}) {
        const pe_metric_options given = c_options(options);
        check(nullptr, pe_metric_open(path.c_str(), &given, receive()));
    }

    // From the bytes of a file, which are not needed afterwards.
    explicit Metric(View<const std::byte> bytes, const Options& options = {}) {
        const pe_metric_options given = c_options(options);
        check(nullptr, pe_metric_open_memory(bytes.data(), bytes.size(), &given, receive()));
    }

    Metric(Metric&& other) noexcept : metric_(std::exchange(other.metric_, nullptr)) {}
    Metric& operator=(Metric&& other) noexcept {
        std::swap(metric_, other.metric_);
        return *this;
    }
    ~Metric() { pe_metric_close(metric_); }

    // Valid as long as the metric.
    std::string_view metadata() const noexcept { return view(pe_metric_metadata(metric_)); }
    std::string_view kind() const noexcept { return view(pe_metric_kind(metric_)); }
    pe_input input() const noexcept { return pe_metric_input(metric_); }
    std::int64_t min_size() const noexcept { return pe_metric_min_size(metric_); }
    bool has_map() const noexcept { return pe_metric_has_map(metric_) != 0; }

    std::optional<double> threshold() const noexcept {
        double value = 0;
        return pe_metric_threshold(metric_, &value) != 0 ? std::optional<double>(value) : std::nullopt;
    }

    double score(const pe_image& reference, const pe_image& distorted,
                 const pe_score_options& options = PE_SCORE_OPTIONS_INIT) const {
        double value = 0;
        check(metric_, pe_metric_score(metric_, &reference, &distorted, &options, &value, nullptr));
        return value;
    }

    Scored score_with_map(const pe_image& reference, const pe_image& distorted,
                          const pe_score_options& options = PE_SCORE_OPTIONS_INIT) const {
        double value = 0;
        pe_map* map = nullptr;
        check(metric_, pe_metric_score(metric_, &reference, &distorted, &options, &value, &map));
        return {value, Map(map)};
    }

    bool passes(double score, double threshold = PE_OWN_THRESHOLD) const {
        int passed = 0;
        check(metric_, pe_metric_verdict(metric_, score, threshold, &passed));
        return passed != 0;
    }

    // Owned by this object.
    const pe_metric* get() const noexcept { return metric_; }

  private:
    static pe_metric_options c_options(const Options& options) noexcept {
        const auto text = [](const std::string& value) { return value.empty() ? nullptr : value.c_str(); };
        pe_metric_options given = PE_METRIC_OPTIONS_INIT;
        given.onnxruntime = text(options.onnxruntime);
        given.operators_library = text(options.operators_library);
        given.operators = options.operators;
        given.threads = options.threads;
        given.provider = text(options.provider);
        return given;
    }

    static void check(const pe_metric* metric, pe_status status) {
        if (status == PE_OUT_OF_MEMORY) throw std::bad_alloc();
        if (status != PE_OK) throw Error(status, pe_error_text(metric));
    }

    static std::string_view view(const char* text) noexcept {
        return text == nullptr ? std::string_view() : std::string_view(text);
    }

    pe_metric** receive() noexcept { return &metric_; }

    pe_metric* metric_ = nullptr;
};

}  // namespace pe_runtime
