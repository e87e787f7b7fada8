#include <png.h>

#include <bit>
#include <csetjmp>
#include <cstring>
#include <new>
#include <utility>

#include "../text.h"
#include "exif.h"
#include "image.h"
#include "png_chunks.h"

namespace pe::gate {
namespace {

// libpng leaves by longjmp: what it is called from has no objects of its own, they are all members.
class PngReader {
  public:
    PngReader(std::string_view data, const PngChunks& chunks) : rest_(data), chunks_(chunks) {}
    ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
    PngReader(const PngReader&) = delete;
    PngReader& operator=(const PngReader&) = delete;

    Image read() {
        png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &on_error, &on_warning);
        if (png_ == nullptr) throw std::bad_alloc();
        info_ = png_create_info_struct(png_);
        if (info_ == nullptr) throw std::bad_alloc();
        if (!read_header()) throw Error(error_);
        describe();
        image_.allocate();
        rows_.resize(std::size_t(image_.height));
        const std::size_t row_bytes = image_.samples.size() / rows_.size();
        for (std::size_t y = 0; y < rows_.size(); ++y) rows_[y] = image_.samples.data() + y * row_bytes;
        if (!read_pixels()) throw Error(error_);
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
        // What is wanted of all chunks but those of pixels is known already.
        png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
        png_read_info(png_, info_);
        // Palettes, fewer than 8 bits and transparent colours become samples of 8 or 16 bits.
        png_set_expand(png_);
        if (std::endian::native == std::endian::little) png_set_swap(png_);
        return true;
    }

    void describe() {
        static constexpr pe_layout kLayouts[] = {PE_GREY, PE_GREY_ALPHA, PE_RGB, PE_RGBA};
        const bool grey = (chunks_.colour & PNG_COLOR_MASK_COLOR) == 0;
        const bool alpha = (chunks_.colour & PNG_COLOR_MASK_ALPHA) != 0 || chunks_.transparent;
        image_.layout = kLayouts[(grey ? 0 : 2) + (alpha ? 1 : 0)];
        image_.sample = chunks_.depth == 16 ? PE_UINT16 : PE_UINT8;
        image_.width = chunks_.width;
        image_.height = chunks_.height;
        image_.colours = chunks_.colours;
        const Orientation orientation = orientation_of(chunks_.exif, chunks_.xmp);
        image_.orientation = orientation.value;
        image_.damaged_exif = orientation.damaged_exif;
    }

    bool read_pixels() {
        if (setjmp(png_jmpbuf(png_)) != 0) return false;
        png_set_interlace_handling(png_);
        png_read_update_info(png_, info_);
        if (png_get_rowbytes(png_, info_) * rows_.size() != image_.samples.size()) {
            png_error(png_, "rows of another length than the header says");
        }
        png_read_image(png_, rows_.data());
        png_read_end(png_, nullptr);
        return true;
    }

    std::string_view rest_;
    const PngChunks& chunks_;
    std::string error_;
    png_structp png_ = nullptr;
    png_infop info_ = nullptr;
    std::vector<png_bytep> rows_;
    Image image_;
};

int64_t integer(std::string_view bytes) {
    int64_t value = 0;
    for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
    return value;
}

}  // namespace

std::optional<Size> size_of_png(std::string_view data) {
    constexpr std::size_t kHeader = 24;
    if (data.size() < kHeader || data.substr(12, 4) != "IHDR") return std::nullopt;
    return Size{integer(data.substr(16, 4)), integer(data.substr(20, 4))};
}

Image decode_png(std::string_view data) {
    const PngChunks chunks = check_png(data);
    check_frames(chunks.frames);
    return PngReader(data, chunks).read();
}

}  // namespace pe::gate
