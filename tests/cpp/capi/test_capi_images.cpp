// Images of every layout, sample and stride against the score of the same pixels computed here, in float64.
#include <array>
#include <functional>

#include "helpers.h"

namespace {

constexpr int64_t kWidth = 7, kHeight = 5;
using Pixel = std::array<double, 3>;
using Picture = std::function<Pixel(int64_t, int64_t)>;

double mean_square(const Picture& first, const Picture& second) {
    double sum = 0;
    for (int64_t y = 0; y < kHeight; ++y) {
        for (int64_t x = 0; x < kWidth; ++x) {
            for (int c = 0; c < 3; ++c) {
                const double difference = first(x, y)[c] - second(x, y)[c];
                sum += difference * difference;
            }
        }
    }
    return sum / (3 * kWidth * kHeight);
}

struct Metrics {
    pe_metric* floating = open_model({});
    pe_metric* bytes = open_model({.uint8 = true});
    ~Metrics() {
        pe_metric_close(floating);
        pe_metric_close(bytes);
    }
};

double score(const pe_metric* metric, const pe_image& reference, const pe_image& distorted,
             const pe_score_options* options = nullptr) {
    double value = -1;
    if (pe_metric_score(metric, &reference, &distorted, options, &value, nullptr) != PE_OK) {
        check::fail(__FILE__, __LINE__, pe_error_text(metric));
    }
    return value;
}

// Compares `image`, which shows `picture`, with a plain one.
void check_image(const Metrics& metrics, const pe_image& image, const Picture& picture, double top,
                 const pe_score_options* options = nullptr) {
    const std::vector<uint8_t> plain = samples<uint8_t>(kWidth * kHeight * 3, 99, 256);
    const pe_image other = image_of(plain, kWidth, kHeight);
    const auto plain_picture = [&](int64_t x, int64_t y) {
        const uint8_t* pixel = &plain[std::size_t(y * kWidth + x) * 3];
        return Pixel{pixel[0] / 255.0, pixel[1] / 255.0, pixel[2] / 255.0};
    };
    const auto unit = [&](int64_t x, int64_t y) {
        const Pixel pixel = picture(x, y);
        return Pixel{pixel[0] / top, pixel[1] / top, pixel[2] / top};
    };
    CHECK_RELATIVE(score(metrics.floating, image, other, options), mean_square(unit, plain_picture), 1e-5);
    const auto rounded = [&](int64_t x, int64_t y) {
        Pixel pixel = unit(x, y);
        for (double& value : pixel) value = std::floor(value * 255 + 0.5) / 255;
        return pixel;
    };
    CHECK_RELATIVE(score(metrics.bytes, image, other, options), mean_square(rounded, plain_picture), 1e-5);
}

template <class T>
void test_layouts(const Metrics& metrics, double top) {
    const struct {
        pe_layout layout;
        int channels, red, green, blue, alpha;
    } layouts[] = {{PE_GREY, 1, 0, 0, 0, -1}, {PE_GREY_ALPHA, 2, 0, 0, 0, 1}, {PE_RGB, 3, 0, 1, 2, -1},
                   {PE_RGBA, 4, 0, 1, 2, 3},  {PE_BGR, 3, 2, 1, 0, -1},       {PE_BGRA, 4, 2, 1, 0, 3}};
    pe_score_options options = PE_SCORE_OPTIONS_INIT;
    options.background[0] = 10;
    options.background[1] = 100;
    options.background[2] = 200;
    for (const auto& layout : layouts) {
        for (const bool premultiplied : {false, true}) {
            const std::size_t channels = std::size_t(layout.channels), count = kWidth * kHeight * channels;
            std::vector<T> values = samples<T>(count, 7, uint32_t(top) + 1);
            if (top == 1) {  // floating point
                const std::vector<uint16_t> fine = samples<uint16_t>(count, 7, 4097);
                for (std::size_t i = 0; i < count; ++i) values[i] = T(fine[i] / 4096.0);
            }
            const auto picture = [&](int64_t x, int64_t y) {
                const T* pixel = &values[std::size_t(y * kWidth + x) * channels];
                Pixel seen = {double(pixel[layout.red]), double(pixel[layout.green]),
                              double(pixel[layout.blue])};
                for (int c = 0; c < 3 && layout.alpha >= 0; ++c) {
                    const double alpha = double(pixel[layout.alpha]) / top;
                    const double behind = options.background[c] / 255.0 * top * (1 - alpha);
                    const double front = premultiplied ? std::min(seen[c], alpha * top) : seen[c] * alpha;
                    seen[c] = top == 1 ? front + behind : std::floor(front + behind + 0.5);
                }
                return seen;
            };
            pe_image image = image_of(values, kWidth, kHeight, layout.layout);
            image.premultiplied = premultiplied;
            check_image(metrics, image, picture, top, &options);
        }
    }
}

// One picture, laid out in many ways, has one score.
void test_strides(const Metrics& metrics) {
    const std::vector<uint16_t> values = samples<uint16_t>(kWidth * kHeight * 3, 3, 65536);
    const std::vector<uint16_t> other_values = samples<uint16_t>(kWidth * kHeight * 3, 4, 65536);
    const pe_image packed = image_of(values, kWidth, kHeight),
                   other = image_of(other_values, kWidth, kHeight);
    const double expected = score(metrics.floating, packed, other);

    constexpr int64_t kPadded = 11;
    std::vector<uint16_t> padded(kPadded * kHeight * 3, 12345), upside_down = padded, planar = padded;
    std::vector<char> unaligned(padded.size() * 2 + 1);
    for (int64_t y = 0; y < kHeight; ++y) {
        for (int64_t x = 0; x < kWidth; ++x) {
            for (int64_t c = 0; c < 3; ++c) {
                const uint16_t value = values[std::size_t((y * kWidth + x) * 3 + c)];
                padded[std::size_t((y * kPadded + x) * 3 + c)] = value;
                upside_down[std::size_t(((kHeight - 1 - y) * kPadded + x) * 3 + c)] = value;
                planar[std::size_t((c * kHeight + y) * kPadded + x)] = value;
                std::memcpy(&unaligned[std::size_t((y * kPadded + x) * 3 + c) * 2 + 1], &value, 2);
            }
        }
    }
    pe_image image = packed;
    image.samples = padded.data();
    image.row_stride = kPadded * 6;
    CHECK(score(metrics.floating, image, other) == expected);
    image.samples = unaligned.data() + 1;
    CHECK(score(metrics.floating, image, other) == expected);
    image.samples = upside_down.data() + (kHeight - 1) * kPadded * 3;
    image.row_stride = -kPadded * 6;
    CHECK(score(metrics.floating, image, other) == expected);
    image.samples = planar.data();
    image.row_stride = kPadded * 2;
    image.pixel_stride = 2;
    image.channel_stride = kPadded * kHeight * 2;
    CHECK(score(metrics.floating, image, other) == expected);
}

void test_refused(const Metrics& metrics) {
    const std::vector<uint8_t> values(64 * 3);
    const pe_image good = image_of(values, 8, 8);
    const auto refused = [&](const pe_image& reference, const pe_image& distorted, const char* text) {
        double value = -1;
        CHECK(pe_metric_score(metrics.floating, &reference, &distorted, nullptr, &value, nullptr) ==
              PE_INVALID_ARGUMENT);
        CHECK_TEXT(pe_error_text(metrics.floating), text);
        CHECK(value == -1);
    };
    pe_image bad = good;
    bad.width = 0;
    refused(bad, good, "reference: expected width and height of at least 1, got 0 x 8");
    bad.width = -3;
    refused(good, bad, "distorted: expected width and height of at least 1, got -3 x 8");
    bad.width = INT64_MAX;
    refused(good, bad, "distorted: expected at most 1073741824 pixels");
    bad.width = bad.height = int64_t(1) << 20;
    refused(bad, bad, "reference: expected at most 1073741824 pixels, got 1048576 x 1048576");
    bad = good;
    bad.samples = nullptr;
    refused(bad, good, "reference: expected samples, got NULL");
    bad = good;
    set_number(bad.layout, 9);
    refused(bad, good, "reference: layout: expected PE_GREY to PE_BGRA, got 9");
    bad = good;
    set_number(bad.sample, 0);
    refused(good, bad, "distorted: sample: expected PE_UINT8, PE_UINT16 or PE_FLOAT32, got 0");
    bad = good;
    bad.width = 4;
    refused(good, bad, "expected the same width and height, got 8 x 8 and 4 x 8");
    bad.height = 3;
    refused(bad, bad, "expected width and height of at least 4, got 4 x 3");
    bad = good;
    bad.size = 8;
    refused(bad, good, "reference: expected a structure made with its initialiser, got one whose size is 8");
    for (const float outside : {-0.01f, 1.5f, NAN, INFINITY}) {
        std::vector<float> floats(64 * 3, 0.5f);
        floats[(2 * 8 + 3) * 3 + 1] = outside;
        refused(good, image_of(floats, 8, 8), "distorted: expected floating-point samples in [0, 1], got");
        CHECK_TEXT(pe_error_text(metrics.floating), "in row 2, column 3");
        // Alpha is a sample like the others; what lies between rows is none.
        std::vector<float> with_alpha(8 * 9 * 4, 0.5f);
        pe_image image = image_of(with_alpha, 8, 8, PE_RGBA);
        image.row_stride = 9 * 4 * sizeof(float);
        with_alpha[(5 * 9 + 8) * 4] = outside;
        double score = 0;
        CHECK(pe_metric_score(metrics.floating, &good, &image, nullptr, &score, nullptr) == PE_OK);
        with_alpha[(5 * 9 + 7) * 4 + 3] = outside;
        refused(good, image, "distorted: expected floating-point samples in [0, 1], got");
        CHECK_TEXT(pe_error_text(metrics.floating), "in row 5, column 7");
    }
}

}  // namespace

int main() {
    const Metrics metrics;
    test_layouts<uint8_t>(metrics, 255);
    test_layouts<uint16_t>(metrics, 65535);
    test_layouts<float>(metrics, 1);
    test_strides(metrics);
    test_refused(metrics);
    return 0;
}
