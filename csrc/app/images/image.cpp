#include "image.h"

#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <utility>

#include "../text.h"

namespace pe::gate {
namespace {

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
constexpr int64_t kMaxPixels = 1 << 16;
#else
// Pillow's: a quarter of a gigabyte of RGB.
constexpr int64_t kMaxPixels = 1024 * 1024 * 1024 / 4 / 3;
#endif
// The pixel limit at four 16-bit samples is less than this.
constexpr int64_t kMaxFileBytes = int64_t(1) << 30;
constexpr const char* kExpected = "expected a PNG, JPEG, WebP, BMP or TIFF image";

int channels(pe_layout layout) { return layout; }  // of PE_GREY to PE_RGBA

struct Format {
    Image (*decode)(std::string_view data);
    std::optional<Size> (*size)(std::string_view data);
};

std::optional<Format> format_of(std::string_view data) {
    const auto starts = [&](std::string_view text) { return data.substr(0, text.size()) == text; };
    using namespace std::string_view_literals;
    if (starts("\x89PNG\r\n\x1a\n"sv)) return Format{&decode_png, &size_of_png};
    if (starts("\xff\xd8\xff"sv)) return Format{&decode_jpeg, &size_of_jpeg};
    if (starts("RIFF"sv) && data.size() >= 12 && data.substr(8, 4) == "WEBP"sv)
        return Format{&decode_webp, &size_of_webp};
    if (starts("BM"sv)) return Format{&decode_bmp, &size_of_bmp};
    for (const std::string_view start : {"II*\0"sv, "MM\0*"sv, "II+\0"sv, "MM\0+"sv}) {
        if (starts(start)) return Format{&decode_tiff, &size_of_tiff};
    }
    return std::nullopt;
}

}  // namespace

void Image::allocate() {
    check_size(width, height);
    const std::size_t bytes = sample == PE_UINT16 ? 2 : 1;
    samples.resize(std::size_t(width * height) * std::size_t(channels(layout)) * bytes);
}

pe_image Image::upright() const {
    pe_image view = PE_IMAGE_INIT;
    view.width = width;
    view.height = height;
    view.layout = layout;
    view.sample = sample;
    view.premultiplied = premultiplied;
    view.pixel_stride = channels(layout) * (sample == PE_UINT16 ? 2 : 1);
    view.row_stride = view.pixel_stride * width;
    // EXIF 2.32, table 6.
    if (orientation >= 5) {
        std::swap(view.width, view.height);
        std::swap(view.pixel_stride, view.row_stride);
    }
    const uint8_t* first = samples.data();
    if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8) {
        first += (view.height - 1) * view.row_stride;
        view.row_stride = -view.row_stride;
    }
    if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) {
        first += (view.width - 1) * view.pixel_stride;
        view.pixel_stride = -view.pixel_stride;
    }
    view.samples = first;
    return view;
}

bool Image::is_opaque() const {
    if (!has_alpha()) return true;
    const std::size_t bytes = sample == PE_UINT16 ? 2 : 1, pixel = std::size_t(channels(layout)) * bytes;
    for (std::size_t at = pixel - bytes; at < samples.size(); at += pixel) {
        // The largest value of either type has all bits set.
        if (samples[at] != 255 || samples[at + bytes - 1] != 255) return false;
    }
    return true;
}

std::string read_image_file(const std::string& path) {
    struct stat status;
    if (stat(path.c_str(), &status) != 0) throw Error(system_error(errno, path));
    if (!S_ISREG(status.st_mode)) {
        throw Error(path + ": " + kExpected + ", got something that is not a file");
    }
    if (status.st_size > kMaxFileBytes) {
        throw Error(path + ": expected at most " + std::to_string(kMaxFileBytes) + " bytes, got " +
                    std::to_string(status.st_size));
    }
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error(system_error(errno, path));
    std::string data(std::size_t(status.st_size), '\0');
    file.read(data.data(), std::streamsize(data.size()));
    data.resize(std::size_t(file.gcount()));
    return data;
}

Image decode_image(std::string_view data) {
    const std::optional<Format> format = format_of(data);
    if (!format) throw Error(std::string(kExpected) + ", got another kind of file or a damaged header");
    return format->decode(data);
}

std::optional<Size> stored_size(std::string_view data) {
    const std::optional<Format> format = format_of(data);
    if (!format) return std::nullopt;
    const std::optional<Size> size = format->size(data);
    return size && size->width > 0 && size->height > 0 ? size : std::nullopt;
}

void check_size(int64_t width, int64_t height) {
    if (width < 1 || height < 1) throw Error("expected at least one pixel");
    if (width > kMaxPixels / height) {
        throw Error("expected at most " + std::to_string(kMaxPixels) + " pixels, got " +
                    std::to_string(width) + " x " + std::to_string(height));
    }
}

void check_frames(int64_t frames) {
    if (frames != 1) {
        throw Error("expected a single image, got an animation or a document of " + std::to_string(frames) +
                    " pages");
    }
}

void cmyk_to_rgb(const uint8_t* cmyk, uint8_t* rgb) {
    const int light = 255 - cmyk[3];
    for (int c = 0; c < 3; ++c) {
        const int product = cmyk[c] * light + 128;
        rgb[c] = uint8_t(light - ((product + (product >> 8)) >> 8));
    }
}

}  // namespace pe::gate
