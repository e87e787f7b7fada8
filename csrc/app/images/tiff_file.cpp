#include "tiff_file.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "../text.h"
#include "image.h"

namespace pe::gate {
namespace {

// libtiff's handler of errors is one for all threads.
thread_local std::string last_error;

void on_error(const char*, const char* format, va_list arguments) {
    char text[512];
    std::vsnprintf(text, sizeof text, format, arguments);
    last_error = text;
}

[[noreturn]] void fail(const char* otherwise) { throw Error(last_error.empty() ? otherwise : last_error); }

void install_handlers() {
    [[maybe_unused]] static const bool once = [] {
        TIFFSetErrorHandler(&on_error);
        TIFFSetWarningHandler(nullptr);
        return true;
    }();
    last_error.clear();
}

}  // namespace

tmsize_t TiffFile::on_read(thandle_t handle, void* to, tmsize_t count) {
    auto& file = *static_cast<TiffFile*>(handle);
    // Offsets of a damaged file may lie anywhere: no pointer is formed from them.
    if (file.position_ >= file.data_.size() || count <= 0) return 0;
    const toff_t taken = std::min<toff_t>(file.data_.size() - file.position_, toff_t(count));
    std::memcpy(to, file.data_.data() + file.position_, taken);
    file.position_ += taken;
    return tmsize_t(taken);
}

toff_t TiffFile::on_seek(thandle_t handle, toff_t offset, int whence) {
    auto& file = *static_cast<TiffFile*>(handle);
    const toff_t base = whence == SEEK_CUR ? file.position_ : whence == SEEK_END ? file.data_.size() : 0;
    return file.position_ = base + offset;
}

toff_t TiffFile::on_size(thandle_t handle) { return static_cast<TiffFile*>(handle)->data_.size(); }

TiffFile::TiffFile(std::string_view data) : data_(data), file_(nullptr, &TIFFClose) {
    install_handlers();
    const auto no_write = [](thandle_t, void*, tmsize_t) -> tmsize_t { return 0; };
    const auto no_close = [](thandle_t) { return 0; };
    // "m": without mapping the file.
    file_.reset(TIFFClientOpen("image", "rm", this, &on_read, no_write, &on_seek, no_close, &on_size, nullptr,
                               nullptr));
    if (file_ == nullptr) fail("expected a TIFF image, got a damaged header");
}

uint16_t TiffFile::short_tag(uint32_t tag, uint16_t otherwise) const {
    uint16_t value = 0;
    return TIFFGetFieldDefaulted(get(), tag, &value) == 1 ? value : otherwise;
}

uint32_t TiffFile::long_tag(uint32_t tag, uint32_t otherwise) const {
    uint32_t value = 0;
    return TIFFGetFieldDefaulted(get(), tag, &value) == 1 ? value : otherwise;
}

std::vector<uint8_t> TiffFile::read_rows() const {
    install_handlers();
    const uint64_t row_bytes = TIFFScanlineSize64(get()), height = long_tag(TIFFTAG_IMAGELENGTH, 0);
    const uint32_t planes = short_tag(TIFFTAG_PLANARCONFIG, 1) == PLANARCONFIG_SEPARATE
                                ? short_tag(TIFFTAG_SAMPLESPERPIXEL, 1)
                                : 1;
    if (row_bytes == 0 || height == 0) fail("expected rows of pixels");
    std::vector<uint8_t> rows(row_bytes * height * planes);
    for (uint32_t plane = 0; plane < planes; ++plane) {
        uint8_t* to = rows.data() + row_bytes * height * plane;
        if (TIFFIsTiled(get()) != 0) {
            read_tiles(plane, to);
        } else {
            read_strips(plane, to);
        }
    }
    return rows;
}

void TiffFile::read_strips(uint32_t plane, uint8_t* to) const {
    const uint64_t row_bytes = TIFFScanlineSize64(get());
    const uint32_t height = long_tag(TIFFTAG_IMAGELENGTH, 0);
    const uint32_t rows = std::clamp(long_tag(TIFFTAG_ROWSPERSTRIP, height), 1u, height);
    for (uint32_t y = 0; y < height; y += std::min(rows, height - y)) {
        const uint64_t bytes = row_bytes * std::min(rows, height - y);
        const uint32_t strip = TIFFComputeStrip(get(), y, uint16_t(plane));
        if (TIFFReadEncodedStrip(get(), strip, to + row_bytes * y, tmsize_t(bytes)) != tmsize_t(bytes)) {
            fail("image file is truncated");
        }
    }
}

void TiffFile::read_tiles(uint32_t plane, uint8_t* to) const {
    const uint64_t row_bytes = TIFFScanlineSize64(get()), tile_row = TIFFTileRowSize64(get()),
                   tile_bytes = TIFFTileSize64(get());
    const uint32_t width = long_tag(TIFFTAG_IMAGEWIDTH, 0), height = long_tag(TIFFTAG_IMAGELENGTH, 0);
    const uint32_t across = long_tag(TIFFTAG_TILEWIDTH, 0), down = long_tag(TIFFTAG_TILELENGTH, 0);
    // A tile of a small image is larger than it, but not without bounds.
    if (across == 0 || down == 0 || tile_row == 0 || tile_bytes / tile_row != down || across % 16 != 0) {
        fail("expected tiles of a multiple of 16 pixels");
    }
    check_size(across, down);
    std::vector<uint8_t> tile(tile_bytes);
    for (uint32_t y = 0; y < height; y += std::min(down, height - y)) {
        for (uint32_t x = 0; x < width; x += std::min(across, width - x)) {
            const uint32_t index = TIFFComputeTile(get(), x, y, 0, uint16_t(plane));
            if (TIFFReadEncodedTile(get(), index, tile.data(), tmsize_t(tile_bytes)) !=
                tmsize_t(tile_bytes)) {
                fail("image file is truncated");
            }
            const uint64_t start = uint64_t(x / across) * tile_row;
            const uint64_t count = std::min(tile_row, row_bytes - std::min(start, row_bytes));
            for (uint32_t row = 0; row < std::min(down, height - y); ++row) {
                std::memcpy(to + (y + row) * row_bytes + start, tile.data() + row * tile_row, count);
            }
        }
    }
}

std::vector<uint32_t> TiffFile::read_rgba() const {
    install_handlers();
    const uint32_t width = long_tag(TIFFTAG_IMAGEWIDTH, 0), height = long_tag(TIFFTAG_IMAGELENGTH, 0);
    std::vector<uint32_t> pixels(std::size_t(width) * height);
    const uint16_t stored = short_tag(TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);
    constexpr int kStop = 1;
    if (TIFFReadRGBAImageOriented(get(), width, height, pixels.data(), stored, kStop) != 1) {
        fail("image file is truncated or damaged");
    }
    return pixels;
}

}  // namespace pe::gate
