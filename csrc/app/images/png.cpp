#include <png.h>

#include <algorithm>
#include <bit>
#include <csetjmp>
#include <cstring>
#include <new>
#include <utility>

#include "../text.h"
#include "exif.h"
#include "image.h"

namespace pe::gate {
namespace {

// Frames of an animation, which libpng passes over; 1 of an ordinary PNG.
int64_t count_frames(std::string_view data) {
    const auto integer = [](std::string_view bytes) {
        uint32_t value = 0;
        for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
        return value;
    };
    int64_t frames = 1;
    bool animated = false, first_is_frame = false;
    for (std::size_t at = 8; data.size() - at >= 12;) {
        const uint32_t length = integer(data.substr(at, 4));
        const std::string_view kind = data.substr(at + 4, 4);
        if (kind == "acTL" && length >= 4) {
            const int64_t count = integer(data.substr(at + 8, 4));
            animated = count > 0 && count <= 0x80000000;
            frames = animated ? count : 1;
        }
        first_is_frame |= kind == "fcTL";
        if (kind == "IDAT" || kind == "IEND" || length > data.size() - at - 12) break;
        at += 12 + std::size_t(length);
    }
    return frames + (animated && !first_is_frame ? 1 : 0);
}

std::string hex_to_bytes(std::string_view text) {
    std::string bytes;
    int high = -1;
    for (const char c : text) {
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) continue;
        if (high < 0) {
            high = digit;
        } else {
            bytes += char(high << 4 | digit);
            high = -1;
        }
    }
    return bytes;
}

// libpng leaves by longjmp: what it is called from has no objects of its own, they are all members.
class PngReader {
  public:
    explicit PngReader(std::string_view data) : rest_(data) {}
    ~PngReader() { png_destroy_read_struct(&png_, &info_, &end_); }
    PngReader(const PngReader&) = delete;
    PngReader& operator=(const PngReader&) = delete;

    Image read() {
        png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &on_error, &on_warning);
        if (png_ == nullptr) throw std::bad_alloc();
        info_ = png_create_info_struct(png_);
        end_ = png_create_info_struct(png_);
        if (info_ == nullptr || end_ == nullptr) throw std::bad_alloc();
        if (!read_header()) throw Error(error_);
        describe();
        image_.allocate();
        rows_.resize(std::size_t(image_.height));
        const std::size_t row_bytes = image_.samples.size() / rows_.size();
        for (std::size_t y = 0; y < rows_.size(); ++y) rows_[y] = image_.samples.data() + y * row_bytes;
        if (!read_pixels()) throw Error(error_);
        image_.orientation = orientation();
        return std::move(image_);
    }

  private:
    static void on_error(png_structp png, png_const_charp message) {
        auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
        reader->error_ = message;
        png_longjmp(png, 1);
    }
    static void on_warning(png_structp, png_const_charp) {}
    static void on_read(png_structp png, png_bytep to, png_size_t count) {
        auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
        if (reader->rest_.size() < count) png_error(png, "image file is truncated");
        std::memcpy(to, reader->rest_.data(), count);
        reader->rest_.remove_prefix(count);
    }

    bool read_header() {
        if (setjmp(png_jmpbuf(png_)) != 0) return false;
        png_set_read_fn(png_, this, &on_read);
        // The pixels are counted instead.
        png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
        png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
        png_read_info(png_, info_);
        // Palettes, fewer than 8 bits and transparent colours become samples of 8 or 16 bits.
        png_set_expand(png_);
        if (std::endian::native == std::endian::little) png_set_swap(png_);
        return true;
    }

    void describe() {
        static constexpr pe_layout kLayouts[] = {PE_GREY, PE_GREY_ALPHA, PE_RGB, PE_RGBA};
        const int colour = png_get_color_type(png_, info_);
        const bool grey = (colour & PNG_COLOR_MASK_COLOR) == 0;
        const bool alpha =
            (colour & PNG_COLOR_MASK_ALPHA) != 0 || png_get_valid(png_, info_, PNG_INFO_tRNS) != 0;
        image_.layout = kLayouts[(grey ? 0 : 2) + (alpha ? 1 : 0)];
        image_.sample = png_get_bit_depth(png_, info_) == 16 ? PE_UINT16 : PE_UINT8;
        image_.width = png_get_image_width(png_, info_);
        image_.height = png_get_image_height(png_, info_);
        png_charp name = nullptr;
        png_bytep profile = nullptr;
        png_uint_32 bytes = 0;
        int compression = 0;
        if (png_get_iCCP(png_, info_, &name, &compression, &profile, &bytes) != 0) {
            image_.icc.assign(reinterpret_cast<const char*>(profile), bytes);
        }
    }

    bool read_pixels() {
        if (setjmp(png_jmpbuf(png_)) != 0) return false;
        png_set_interlace_handling(png_);
        png_read_update_info(png_, info_);
        if (png_get_rowbytes(png_, info_) * rows_.size() != image_.samples.size()) {
            png_error(png_, "rows of another length than the header says");
        }
        png_read_image(png_, rows_.data());
        png_read_end(png_, end_);
        return true;
    }

    int orientation() {
        std::string exif, profile, xmp;
        for (png_infop info : {info_, end_}) {
            png_bytep block = nullptr;
            png_uint_32 bytes = 0;
            if (png_get_eXIf_1(png_, info, &bytes, &block) != 0) {
                exif.assign(reinterpret_cast<const char*>(block), bytes);
            }
            png_textp texts = nullptr;
            const int count = png_get_text(png_, info, &texts, nullptr);
            for (int i = 0; i < count; ++i) {
                const std::string_view key = texts[i].key;
                const std::size_t length = std::max(texts[i].text_length, texts[i].itxt_length);
                if (key == "XML:com.adobe.xmp") xmp.assign(texts[i].text, length);
                if (key == "Raw profile type exif") profile = raw_profile({texts[i].text, length});
            }
        }
        return orientation_of(exif.empty() ? profile : exif, xmp);
    }

    // ImageMagick's: an empty line, the name, the length, then hexadecimal digits.
    static std::string raw_profile(std::string_view text) {
        for (int line = 0; line < 3; ++line) {
            const std::size_t end = text.find('\n');
            if (end == std::string_view::npos) return {};
            text.remove_prefix(end + 1);
        }
        return hex_to_bytes(text);
    }

    std::string_view rest_;
    std::string error_;
    png_structp png_ = nullptr;
    png_infop info_ = nullptr;
    png_infop end_ = nullptr;
    std::vector<png_bytep> rows_;
    Image image_;
};

}  // namespace

Image decode_png(std::string_view data) {
    check_frames(count_frames(data));
    return PngReader(data).read();
}

}  // namespace pe::gate
