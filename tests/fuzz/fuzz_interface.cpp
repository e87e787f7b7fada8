// The C interface on hostile structures and sizes: each call is refused with a text and writes nothing, or
// gives the score that a plain computation in double gives. Images are blocks of exactly the bytes that their
// strides reach.
#include <fuzzer/FuzzedDataProvider.h>
#include <pe_runtime.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "capi/onnx_writer.h"
#include "fuzz.h"

namespace {

constexpr double kUntouched = -7;
constexpr int64_t kHuge[] = {
    INT64_MAX,        INT64_MIN,        INT64_MAX - 1,      -1, 0, int64_t(1) << 62, (int64_t(1) << 30) + 1,
    int64_t(1) << 32, int64_t(1) << 31, -(int64_t(1) << 31)};
constexpr double kOdd[] = {0.0,
                           -0.0,
                           1.0,
                           0.5,
                           -1.0,
                           -1e-9,
                           1e308,
                           std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity(),
                           std::numeric_limits<double>::quiet_NaN()};

struct Layout {
    int channels;
    std::array<int, 4> places;  // of red, green, blue and alpha; -1: none
};
constexpr Layout kLayouts[] = {{1, {0, 0, 0, -1}}, {2, {0, 0, 0, 1}},  {3, {0, 1, 2, -1}},
                               {4, {0, 1, 2, 3}},  {3, {2, 1, 0, -1}}, {4, {2, 1, 0, 3}}};

template <class Enumeration>
void set_number(Enumeration& value, int number) {
    static_assert(sizeof value == sizeof number);
    std::memcpy(&value, &number, sizeof number);
}

struct Metric {
    std::string bytes;
    pe_metric* metric = nullptr;

    Metric(bool uint8, const char* threshold)
        : bytes(onnx_writer::write({.uint8 = uint8, .has_map = !uint8, .threshold = threshold})) {
        pe_metric_options options = PE_METRIC_OPTIONS_INIT;
        options.threads = 1;
        options.onnxruntime = PE_FUZZ_ONNXRUNTIME;
        if (pe_metric_open_memory(bytes.data(), bytes.size(), &options, &metric) != PE_OK) {
            std::fprintf(stderr, "%s\n", pe_error_text(nullptr));
            std::exit(1);
        }
    }
};

// Structures with further bytes behind them, as of a newer header, or with a size that is none.
template <class T>
class Resized {
  public:
    Resized(const T& value, FuzzedDataProvider& given) {
        const std::size_t size = given.ConsumeBool() ? given.ConsumeIntegralInRange<std::size_t>(0, 4200)
                                                     : given.ConsumeIntegral<std::size_t>();
        const bool readable = size >= sizeof(T) && size <= 4096;
        bytes_.resize(std::max(sizeof(T), readable ? size : 0));
        std::memcpy(bytes_.data(), &value, sizeof(T));
        std::memcpy(bytes_.data(), &size, sizeof size);
        if (readable && size > sizeof(T) && given.ConsumeBool()) {
            const std::size_t at = given.ConsumeIntegralInRange<std::size_t>(sizeof(T), size - 1);
            bytes_[at] = char(given.ConsumeIntegralInRange<int>(1, 255));
            valid_ = false;
        }
        valid_ = valid_ && readable;
        // At its exact size on the heap.
        copy_.reset(new char[bytes_.size()]);
        std::memcpy(copy_.get(), bytes_.data(), bytes_.size());
    }
    const T* get() const { return reinterpret_cast<const T*>(copy_.get()); }
    bool valid() const { return valid_; }

  private:
    std::vector<char> bytes_;
    std::unique_ptr<char[]> copy_;
    bool valid_ = true;
};

void open_again(const Metric& metric, FuzzedDataProvider& given) {
    pe_metric_options options = PE_METRIC_OPTIONS_INIT;
    options.onnxruntime = PE_FUZZ_ONNXRUNTIME;
    options.threads = given.PickValueInArray({1, 0, 2, -1, INT32_MIN});
    const int operators = given.PickValueInArray({0, 1, 2, 3, -1, INT32_MAX, INT32_MIN});
    set_number(options.operators, operators);
    const Resized<pe_metric_options> resized(options, given);
    const bool valid = resized.valid() && options.threads >= 0 && operators >= 0 && operators <= 2;
    // Sessions take a millisecond: most of the valid ones are passed over.
    if (valid && given.ConsumeIntegral<uint8_t>() > 8) return;
    pe_metric* opened = nullptr;
    const pe_status status =
        pe_metric_open_memory(metric.bytes.data(), metric.bytes.size(), resized.get(), &opened);
    REQUIRE((status == PE_OK) == valid && (opened != nullptr) == valid);
    if (!valid) REQUIRE(pe_error_text(nullptr)[0] != '\0');
    pe_metric_close(opened);
}

void compare(const Metric& metric, FuzzedDataProvider& given) {
    const double score =
        given.ConsumeBool() ? given.PickValueInArray(kOdd) : given.ConsumeFloatingPoint<double>();
    const double threshold =
        given.ConsumeBool() ? given.PickValueInArray(kOdd) : given.ConsumeFloatingPoint<double>();
    double limit = threshold;
    bool valid = score >= 0 && std::isfinite(score);
    if (threshold == PE_OWN_THRESHOLD) valid = valid && pe_metric_threshold(metric.metric, &limit) == 1;
    valid = valid && limit >= 0 && std::isfinite(limit);
    int passed = 9;
    const pe_status status = pe_metric_verdict(metric.metric, score, threshold, &passed);
    REQUIRE((status == PE_OK) == valid);
    REQUIRE(valid ? passed == (score <= limit) : passed == 9);
}

// Calls that must be refused before any sample is read.
void score_hostile(const Metric& metric, FuzzedDataProvider& given) {
    const std::unique_ptr<uint8_t[]> sample(new uint8_t[4 * 4 * 3]());
    pe_image images[2] = {PE_IMAGE_INIT, PE_IMAGE_INIT};
    for (pe_image& image : images) {
        image.samples = sample.get();
        image.width = image.height = 4;
    }
    pe_image& changed = images[given.ConsumeBool()];
    const pe_image *first = &images[0], *second = &images[1];
    std::unique_ptr<Resized<pe_image>> resized;
    double score = kUntouched;
    double* score_at = &score;
    switch (given.ConsumeIntegralInRange(0, 9)) {
        case 0:
            changed.samples = nullptr;
            break;
        case 1:
            changed.width = given.PickValueInArray(kHuge);
            break;
        case 2:
            changed.height = given.PickValueInArray(kHuge);
            break;
        case 3:  // the product overflows, or is over the limit
            for (pe_image& image : images) {
                image.width =
                    given.PickValueInArray<int64_t>({INT64_MAX, int64_t(1) << 32, int64_t(1) << 16});
                image.height =
                    given.PickValueInArray<int64_t>({INT64_MAX, int64_t(1) << 32, int64_t(1) << 15});
            }
            break;
        case 4: {
            const int number = given.ConsumeIntegral<int>();
            if (number >= PE_GREY && number <= PE_BGRA) return;
            set_number(changed.layout, number);
            break;
        }
        case 5: {
            const int number = given.ConsumeIntegral<int>();
            if (number >= PE_UINT8 && number <= PE_FLOAT32) return;
            set_number(changed.sample, number);
            break;
        }
        case 6:
            resized = std::make_unique<Resized<pe_image>>(changed, given);
            if (resized->valid()) return;
            (&changed == first ? first : second) = resized->get();
            break;
        case 7:
            images[0].width = images[1].width = given.ConsumeIntegralInRange<int64_t>(-4, 3);
            break;
        case 8:
            (given.ConsumeBool() ? first : second) = nullptr;
            break;
        case 9:
            score_at = nullptr;
            break;
    }
    pe_map* map = nullptr;
    const bool with_map = pe_metric_has_map(metric.metric) != 0 && given.ConsumeBool();
    const pe_status status =
        pe_metric_score(metric.metric, first, second, nullptr, score_at, with_map ? &map : nullptr);
    REQUIRE(status == PE_INVALID_ARGUMENT);
    REQUIRE(score == kUntouched && map == nullptr && pe_error_text(metric.metric)[0] != '\0');
    REQUIRE(pe_metric_score(nullptr, first, second, nullptr, score_at, nullptr) == PE_INVALID_ARGUMENT);
}

struct Side {
    pe_image image = PE_IMAGE_INIT;
    std::unique_ptr<uint8_t[]> memory;
    std::vector<double> rgb;  // as the metric should see it, in [0, 1]
    bool in_range = true;
};

double value_at(const uint8_t* at, std::ptrdiff_t bytes) {
    if (bytes == 1) return *at;
    uint16_t half;
    float single;
    if (bytes == 2) {
        std::memcpy(&half, at, sizeof half);
        return half;
    }
    std::memcpy(&single, at, sizeof single);
    return double(single);
}

// An image with any layout, samples and strides, which do not overlap.
void make_side(Side& side, int64_t width, int64_t height, const uint8_t* background,
               FuzzedDataProvider& given) {
    pe_image& image = side.image;
    image.width = width;
    image.height = height;
    image.layout = pe_layout(given.ConsumeIntegralInRange<int>(PE_GREY, PE_BGRA));
    image.sample = pe_sample(given.ConsumeIntegralInRange<int>(PE_UINT8, PE_FLOAT32));
    image.premultiplied = given.ConsumeBool() ? given.ConsumeIntegral<int32_t>() : 0;
    const Layout& layout = kLayouts[image.layout - 1];
    const std::ptrdiff_t bytes = image.sample == PE_UINT8 ? 1 : image.sample == PE_UINT16 ? 2 : 4;
    std::ptrdiff_t channel = bytes, pixel = bytes * layout.channels, row = pixel * width;
    switch (given.ConsumeIntegralInRange(0, 2)) {
        case 0:  // gaps, unaligned
            channel = image.channel_stride = bytes * given.ConsumeIntegralInRange(1, 3) + given.ConsumeBool();
            pixel = image.pixel_stride = channel * layout.channels + given.ConsumeIntegralInRange(0, 3);
            row = image.row_stride = pixel * width + given.ConsumeIntegralInRange(0, 8);
            break;
        case 1:  // planar
            pixel = image.pixel_stride = bytes;
            row = image.row_stride = bytes * width + given.ConsumeIntegralInRange(0, 4);
            channel = image.channel_stride = row * height;
            break;
    }
    if (given.ConsumeBool()) row = image.row_stride = -row;
    if (given.ConsumeBool()) {
        image.row_stride = row;
        pixel = image.pixel_stride = -pixel;
    }
    if (given.ConsumeBool()) {
        image.row_stride = row;
        image.pixel_stride = pixel;
        channel = image.channel_stride = -channel;
    }
    const auto place = [&](int64_t y, int64_t x, int c) { return y * row + x * pixel + c * channel; };
    std::ptrdiff_t low = 0, high = 0;
    for (const int64_t y : {int64_t(0), height - 1}) {
        for (const int64_t x : {int64_t(0), width - 1}) {
            for (const int c : {0, layout.channels - 1}) {
                low = std::min(low, place(y, x, c));
                high = std::max(high, place(y, x, c) + bytes);
            }
        }
    }
    side.memory.reset(new uint8_t[std::size_t(high - low)]);
    uint8_t* const base = side.memory.get() - low;
    image.samples = base;

    auto seed = given.ConsumeIntegral<uint32_t>();
    const auto next = [&] { return (seed = seed * 1664525 + 1013904223) >> 8; };
    for (std::ptrdiff_t i = 0; i < high - low; ++i) side.memory[std::size_t(i)] = uint8_t(next());
    if (image.sample == PE_FLOAT32) {
        for (int64_t y = 0; y < height; ++y) {
            for (int64_t x = 0; x < width; ++x) {
                for (int c = 0; c < layout.channels; ++c) {
                    const float value = float(next() % 1001) / 1000.0f;
                    std::memcpy(base + place(y, x, c), &value, sizeof value);
                }
            }
        }
        if (given.ConsumeIntegral<uint8_t>() < 64) {
            constexpr float kFloats[] = {-1e-30f, 1.0000001f, 1e-40f,     -0.0f,
                                         3e38f,   HUGE_VALF,  -HUGE_VALF, NAN};
            const float value = given.PickValueInArray(kFloats);
            std::memcpy(base + place(given.ConsumeIntegralInRange<int64_t>(0, height - 1),
                                     given.ConsumeIntegralInRange<int64_t>(0, width - 1),
                                     given.ConsumeIntegralInRange(0, layout.channels - 1)),
                        &value, sizeof value);
            side.in_range = value >= 0 && value <= 1;
        }
    }
    const double top = bytes == 1 ? 255 : bytes == 2 ? 65535 : 1;
    for (int c = 0; c < 3; ++c) {
        const double behind = background[c] / 255.0 * top;
        for (int64_t y = 0; y < height; ++y) {
            for (int64_t x = 0; x < width; ++x) {
                double value = value_at(base + place(y, x, layout.places[std::size_t(c)]), bytes);
                if (layout.places[3] >= 0) {
                    const double alpha = value_at(base + place(y, x, layout.places[3]), bytes);
                    const double front =
                        image.premultiplied != 0 ? std::min(value, alpha) * top : value * alpha;
                    value = (front + behind * (top - alpha)) / top;
                    if (bytes != 4) value = std::floor(value + 0.5);
                }
                side.rgb.push_back(value / top);
            }
        }
    }
}

void score_valid(const Metric& metric, FuzzedDataProvider& given) {
    const auto width = given.ConsumeIntegralInRange<int64_t>(4, 12);
    const auto height = given.ConsumeIntegralInRange<int64_t>(4, 12);
    pe_score_options options = PE_SCORE_OPTIONS_INIT;
    for (uint8_t& colour : options.background) colour = given.ConsumeIntegral<uint8_t>();
    Side sides[2];
    for (Side& side : sides) make_side(side, width, height, options.background, given);

    double score = kUntouched;
    pe_map* map = nullptr;
    const bool with_map = pe_metric_has_map(metric.metric) != 0 && given.ConsumeBool();
    const pe_status status = pe_metric_score(metric.metric, &sides[0].image, &sides[1].image, &options,
                                             &score, with_map ? &map : nullptr);
    if (!sides[0].in_range || !sides[1].in_range) {
        REQUIRE(status == PE_INVALID_ARGUMENT && score == kUntouched && map == nullptr);
        return;
    }
    REQUIRE(status == PE_OK);
    const bool rounded = pe_metric_input(metric.metric) == PE_INPUT_UINT8;
    double expected = 0;
    for (std::size_t i = 0; i < sides[0].rgb.size(); ++i) {
        double values[] = {sides[0].rgb[i], sides[1].rgb[i]};
        if (rounded) {
            for (double& value : values) value = std::floor(value * 255 + 0.5) / 255;
        }
        expected += (values[0] - values[1]) * (values[0] - values[1]);
    }
    expected /= double(sides[0].rgb.size());
    // A floating-point sample halfway between two bytes may round either way.
    const double tolerance = rounded ? 2e-4 + 2e-3 * expected : 1e-6 + 2e-5 * expected;
    REQUIRE(std::abs(score - expected) <= tolerance);
    REQUIRE((map != nullptr) == with_map);
    if (map != nullptr) {
        REQUIRE(pe_map_width(map) == width && pe_map_height(map) == height);
        for (int64_t i = 0; i < width * height; ++i) REQUIRE(std::isfinite(pe_map_values(map)[i]));
    }
    pe_map_free(map);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
    static const fuzz::Counts counts;
    static const Metric metrics[] = {{false, "0.25"}, {true, "null"}};
    FuzzedDataProvider given(data, bytes);
    const Metric& metric = metrics[given.ConsumeBool()];
    switch (given.ConsumeIntegralInRange(0, 7)) {
        case 0:
            open_again(metric, given);
            break;
        case 1:
            compare(metric, given);
            break;
        case 2:
        case 3:
        case 4:
            score_hostile(metric, given);
            ++counts.refused;
            break;
        default:
            score_valid(metric, given);
            ++counts.taken;
    }
    return 0;
}
