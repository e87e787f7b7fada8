#include "pixels.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "error.h"

namespace pe::capi {
namespace {

constexpr int64_t kMaxPixels = int64_t(1) << 30;

// The place of each sample in a pixel.
struct Layout {
    int channels;
    int red, green, blue;
    int alpha;  // -1: none
};

const Layout* find_layout(int layout) {
    static constexpr Layout kLayouts[] = {{1, 0, 0, 0, -1}, {2, 0, 0, 0, 1},  {3, 0, 1, 2, -1},
                                          {4, 0, 1, 2, 3},  {3, 2, 1, 0, -1}, {4, 2, 1, 0, 3}};
    return layout < PE_GREY || layout > PE_BGRA ? nullptr : &kLayouts[layout - PE_GREY];
}

[[noreturn]] void refuse(const char* name, const std::string& text) {
    throw Error(PE_INVALID_ARGUMENT, std::string(name) + ": " + text);
}

template <class T>
T load(const char* at) {
    T value;  // strides may leave samples unaligned
    std::memcpy(&value, at, sizeof value);
    return value;
}

template <class T>
constexpr T top() {
    return std::is_floating_point_v<T> ? T(1) : std::numeric_limits<T>::max();
}

// colour alpha + background (1 - alpha). `behind` is the background in the samples' type.
template <class T>
T composite(T colour, T alpha, T behind, bool premultiplied) {
    // Premultiplied samples above their alpha are invalid: they count as alpha.
    if constexpr (std::is_floating_point_v<T>) {
        return (premultiplied ? std::min(colour, alpha) : colour * alpha) + behind * (1 - alpha);
    } else {
        constexpr uint32_t kTop = top<T>();
        const uint32_t opacity = alpha;
        const uint32_t front =
            premultiplied ? std::min<uint32_t>(colour, opacity) * kTop : uint32_t(colour) * opacity;
        // The largest sum, 65535 * 65535 + 32767, still fits 32 bits.
        return T((front + behind * (kTop - opacity) + kTop / 2) / kTop);
    }
}

inline float as_float(uint8_t value) { return float(value) / 255.0f; }
inline float as_float(uint16_t value) { return float(value) / 65535.0f; }
inline float as_float(float value) { return value; }

inline uint8_t as_byte(uint8_t value) { return value; }
// 65535 = 255 * 257, so that this is 255 x / 65535 rounded; 257 is odd, so nothing is halfway.
inline uint8_t as_byte(uint16_t value) { return uint8_t((uint32_t(value) + 128) / 257); }
inline uint8_t as_byte(float value) { return uint8_t(value * 255.0f + 0.5f); }

struct FloatTensor {
    float* values;
    int64_t pixels;
    template <class T>
    void put(int64_t pixel, int channel, T sample) const {
        values[channel * pixels + pixel] = as_float(sample);
    }
};

struct ByteTensor {
    uint8_t* values;
    template <class T>
    void put(int64_t pixel, int channel, T sample) const {
        values[pixel * 3 + channel] = as_byte(sample);
    }
};

// Where samples are, in bytes: rows, pixels, and in a pixel red, green, blue and alpha.
struct Places {
    ptrdiff_t row, pixel, samples[4];
};

template <class T>
Places places_of(const pe_image& image, const Layout& layout) {
    const ptrdiff_t channel = image.channel_stride != 0 ? image.channel_stride : sizeof(T);
    const ptrdiff_t pixel =
        image.pixel_stride != 0 ? image.pixel_stride : ptrdiff_t(sizeof(T)) * layout.channels;
    const ptrdiff_t row = image.row_stride != 0 ? image.row_stride : pixel * image.width;
    return {row,
            pixel,
            {layout.red * channel, layout.green * channel, layout.blue * channel, layout.alpha * channel}};
}

// Written so that NaN, for which every comparison is false, is outside.
inline bool in_range(float sample) { return sample >= 0 && sample <= 1; }

// Names the first sample of a row that is out of range.
void refuse_row(const char* row, const Places& places, int samples, int64_t width, int64_t y,
                const char* name) {
    for (int64_t x = 0; x < width; ++x) {
        for (int c = 0; c < samples; ++c) {
            const auto sample = load<float>(row + x * places.pixel + places.samples[c]);
            if (in_range(sample)) continue;
            refuse(name, "expected floating-point samples in [0, 1], got " + std::to_string(sample) +
                             " in row " + std::to_string(y) + ", column " + std::to_string(x));
        }
    }
}

// A row is checked before it is converted: neither loop then has a way out, which would keep them slow.
template <class T, bool kAlpha>
void check_row(const char* row, const Places& places, int64_t width, int64_t y, const char* name) {
    if constexpr (std::is_floating_point_v<T>) {
        constexpr int kSamples = kAlpha ? 4 : 3;
        bool valid = true;
        for (int64_t x = 0; x < width; ++x) {
            for (int c = 0; c < kSamples; ++c) {
                valid &= in_range(load<T>(row + x * places.pixel + places.samples[c]));
            }
        }
        if (!valid) refuse_row(row, places, kSamples, width, y, name);
    }
}

template <class T, bool kAlpha, class Tensor>
void convert(const pe_image& image, const char* name, const Background& background, const Tensor tensor) {
    const Places places = places_of<T>(image, *find_layout(image.layout));
    T behind[3];
    for (int c = 0; c < 3; ++c) {
        behind[c] =
            std::is_floating_point_v<T> ? T(background[c] / 255.0f) : T(background[c] * (top<T>() / 255));
    }
    const int64_t width = image.width;
    const bool premultiplied = image.premultiplied != 0;
    for (int64_t y = 0; y < image.height; ++y) {
        const char* const row = static_cast<const char*>(image.samples) + y * places.row;
        check_row<T, kAlpha>(row, places, width, y, name);
        for (int64_t x = 0; x < width; ++x) {
            const char* const pixel = row + x * places.pixel;
            for (int c = 0; c < 3; ++c) {
                T sample = load<T>(pixel + places.samples[c]);
                if constexpr (kAlpha) {
                    sample = composite(sample, load<T>(pixel + places.samples[3]), behind[c], premultiplied);
                }
                tensor.put(y * width + x, c, sample);
            }
        }
    }
}

template <class T, class Tensor>
void convert(const pe_image& image, const char* name, const Background& background, const Tensor& tensor) {
    if (find_layout(image.layout)->alpha >= 0) return convert<T, true>(image, name, background, tensor);
    convert<T, false>(image, name, background, tensor);
}

template <class Tensor>
void convert_any(const pe_image& image, const char* name, const Background& background,
                 const Tensor& tensor) {
    switch (image.sample) {
        case PE_UINT8:
            return convert<uint8_t>(image, name, background, tensor);
        case PE_UINT16:
            return convert<uint16_t>(image, name, background, tensor);
        case PE_FLOAT32:
            return convert<float>(image, name, background, tensor);
    }
}

}  // namespace

void check_image(const pe_image& image, const char* name) {
    if (image.samples == nullptr) refuse(name, "expected samples, got NULL");
    const int layout = number_of(image.layout), sample = number_of(image.sample);
    if (find_layout(layout) == nullptr) {
        refuse(name, "layout: expected PE_GREY to PE_BGRA, got " + std::to_string(layout));
    }
    if (sample < PE_UINT8 || sample > PE_FLOAT32) {
        refuse(name, "sample: expected PE_UINT8, PE_UINT16 or PE_FLOAT32, got " + std::to_string(sample));
    }
    const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height);
    if (image.width < 1 || image.height < 1) {
        refuse(name, "expected width and height of at least 1, got " + size);
    }
    if (image.width > kMaxPixels / image.height) {
        refuse(name, "expected at most " + std::to_string(kMaxPixels) + " pixels, got " + size);
    }
}

void to_planar(const pe_image& image, const char* name, const Background& background, float* tensor) {
    convert_any(image, name, background, FloatTensor{tensor, image.width * image.height});
}

void to_bytes(const pe_image& image, const char* name, const Background& background, uint8_t* tensor) {
    convert_any(image, name, background, ByteTensor{tensor});
}

}  // namespace pe::capi
