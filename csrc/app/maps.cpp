#include "maps.h"

#include <png.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <utility>

#include "colours.h"
#include "files.h"
#include "text.h"

namespace pe::gate {
namespace {

// The weights that a new value has over old ones, from `start` on.
struct Weights {
    int64_t start;
    std::vector<double> values;
};

// The triangle filter, widened where values become fewer: that of Pillow's bilinear resize.
std::vector<Weights> triangle(int64_t size, int64_t new_size) {
    const double scale = double(size) / double(new_size), support = std::max(scale, 1.0);
    std::vector<Weights> all;
    for (int64_t i = 0; i < new_size; ++i) {
        const double centre = (double(i) + 0.5) * scale;
        const int64_t first = std::max<int64_t>(int64_t(centre - support + 0.5), 0);
        const int64_t last = std::min<int64_t>(int64_t(centre + support + 0.5), size);
        Weights weights{first, {}};
        double sum = 0;
        for (int64_t x = first; x < last; ++x) {
            weights.values.push_back(std::max(0.0, 1 - std::abs((double(x) - centre + 0.5) / support)));
            sum += weights.values.back();
        }
        for (double& weight : weights.values) weight /= sum;
        all.push_back(std::move(weights));
    }
    return all;
}

// Rows of `values` (height, width) to rows of (height, new_width).
std::vector<float> resize_rows(const float* values, int64_t width, int64_t height, int64_t new_width) {
    if (new_width == width) return {values, values + width * height};
    const std::vector<Weights> all = triangle(width, new_width);
    std::vector<float> resized(std::size_t(new_width * height));
    for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < new_width; ++x) {
            const Weights& weights = all[std::size_t(x)];
            double sum = 0;
            for (std::size_t i = 0; i < weights.values.size(); ++i) {
                sum += double(values[y * width + weights.start + int64_t(i)]) * weights.values[i];
            }
            resized[std::size_t(y * new_width + x)] = float(sum);
        }
    }
    return resized;
}

std::vector<float> transpose(const std::vector<float>& values, int64_t width, int64_t height) {
    std::vector<float> turned(values.size());
    for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
            turned[std::size_t(x * height + y)] = values[std::size_t(y * width + x)];
        }
    }
    return turned;
}

// libpng leaves by longjmp: what it is called from has no objects of its own.
class PngWriter {
  public:
    explicit PngWriter(const std::string& path) : file_(std::fopen(path.c_str(), "wb")) {
        if (file_ == nullptr) throw Error(system_error(errno, path));
        png_ = png_create_write_struct(
            PNG_LIBPNG_VER_STRING, nullptr, [](png_structp png, png_const_charp) { png_longjmp(png, 1); },
            [](png_structp, png_const_charp) {});
        info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    }
    ~PngWriter() {
        png_destroy_write_struct(&png_, &info_);
        if (file_ != nullptr) std::fclose(file_);
    }
    PngWriter(const PngWriter&) = delete;
    PngWriter& operator=(const PngWriter&) = delete;

    bool write(const std::vector<uint8_t>& rgb, int64_t width, int64_t height, std::string description) {
        if (info_ == nullptr) return false;
        png_text text = {};
        text.compression = PNG_TEXT_COMPRESSION_NONE;
        char key[] = "Description";
        text.key = key;
        text.text = description.data();
        return write_rows(rgb.data(), png_uint_32(width), png_uint_32(height), &text) && close();
    }

  private:
    bool write_rows(const uint8_t* rgb, png_uint_32 width, png_uint_32 height, png_textp text) {
        if (setjmp(png_jmpbuf(png_)) != 0) return false;
        png_init_io(png_, file_);
        png_set_IHDR(png_, info_, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                     PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
        png_set_text(png_, info_, text, 1);
        png_write_info(png_, info_);
        for (png_uint_32 y = 0; y < height; ++y) png_write_row(png_, rgb + std::size_t(y) * width * 3);
        png_write_end(png_, info_);
        return true;
    }

    bool close() {
        std::FILE* file = std::exchange(file_, nullptr);
        return std::fclose(file) == 0;
    }

    std::FILE* file_;
    png_structp png_ = nullptr;
    png_infop info_ = nullptr;
};

}  // namespace

std::vector<float> resize(const float* values, int64_t width, int64_t height, int64_t new_width,
                          int64_t new_height) {
    const std::vector<float> wide = resize_rows(values, width, height, new_width);
    const std::vector<float> turned = transpose(wide, new_width, height);
    return transpose(resize_rows(turned.data(), height, new_width, new_height), new_height, new_width);
}

void write_map(const pe_runtime::Map& map, const std::string& path, int64_t width, int64_t height,
               double top) {
    const std::vector<float> values = resize(map.values().data(), map.width(), map.height(), width, height);
    std::vector<uint8_t> rgb;
    rgb.reserve(values.size() * 3);
    for (const float value : values) {
        const Colour colour = viridis(std::clamp(value / float(top), 0.0f, 1.0f));
        rgb.insert(rgb.end(), colour.begin(), colour.end());
    }
    const std::string description = "difference map, viridis, 0 to " + general(top);
    write_atomically(path, [&](const std::string& temporary) {
        if (!PngWriter(temporary).write(rgb, width, height, description)) {
            throw Error("maps: expected to write " + path + ", but it cannot be written whole");
        }
    });
}

}  // namespace pe::gate
