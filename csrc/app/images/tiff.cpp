#include <algorithm>
#include <array>
#include <cstring>

#include "../text.h"
#include "exif.h"
#include "image.h"
#include "tiff_file.h"
#include "tiff_layout.h"

namespace pe::gate {
namespace {

constexpr uint16_t kNoAlpha = 0xFFFF, kCorelAlpha = 999;

struct Layout {
    uint16_t bits, samples, photometric, planar, compression;
    uint16_t extra;  // the first extra sample; kNoAlpha: none is named
};

Layout read_layout(const TiffFile& file, const TagDirectory& directory) {
    Layout layout;
    layout.bits = file.short_tag(TIFFTAG_BITSPERSAMPLE, 1);
    layout.samples = file.short_tag(TIFFTAG_SAMPLESPERPIXEL, 1);
    layout.photometric = file.short_tag(TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISWHITE);
    layout.planar = file.short_tag(TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
    layout.compression = file.short_tag(TIFFTAG_COMPRESSION, COMPRESSION_NONE);
    if (layout.compression == COMPRESSION_OJPEG) layout.photometric = PHOTOMETRIC_YCBCR;
    // libtiff makes the tag up where it is missing.
    const std::optional<uint32_t> extra = directory.number(TIFFTAG_EXTRASAMPLES);
    layout.extra = extra ? uint16_t(*extra) : kNoAlpha;
    return layout;
}

void check_layout(const TiffFile& file, const Layout& layout) {
    if (file.short_tag(TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT) != SAMPLEFORMAT_UINT) {
        throw Error("expected unsigned integer samples, got a floating-point or signed TIFF");
    }
    const uint16_t bits = layout.bits, photometric = layout.photometric, samples = layout.samples;
    if (bits != 1 && bits != 2 && bits != 4 && bits != 8 && bits != 16) {
        throw Error("expected 8 or 16 bits per sample, got [" + std::to_string(bits) + "]");
    }
    const bool grey = photometric <= PHOTOMETRIC_MINISBLACK, rgb = photometric == PHOTOMETRIC_RGB,
               palette = photometric == PHOTOMETRIC_PALETTE;
    if (bits == 16) {
        const bool known = (grey && samples == 1) || (rgb && (samples == 3 || samples == 4));
        if (!known || layout.planar != PLANARCONFIG_CONTIG) {
            throw Error(
                "expected a 16-bit TIFF of interleaved grey, RGB or RGBA samples, got photometric "
                "interpretation " +
                std::to_string(photometric) + ", " + std::to_string(samples) +
                " samples per pixel, planar configuration " + std::to_string(layout.planar));
        }
        return;
    }
    const bool whole = bits == 8;
    const bool known = ((grey || palette) && (samples == 1 || (samples == 2 && whole))) ||
                       (rgb && whole && samples >= 3 && samples <= 6) ||
                       (photometric == PHOTOMETRIC_SEPARATED && whole && samples >= 4 && samples <= 6) ||
                       (photometric == PHOTOMETRIC_YCBCR && whole && (samples == 1 || samples == 3));
    if (!known) {
        throw Error("expected grey, palette, RGB or CMYK pixels, got photometric interpretation " +
                    std::to_string(photometric) + ", " + std::to_string(samples) + " samples of " +
                    std::to_string(bits) + " bits per pixel");
    }
}

// Reads single samples of rows as they are stored.
class Samples {
  public:
    Samples(const TiffFile& file, const Layout& layout)
        : rows_(file.read_rows()),
          bits_(layout.bits),
          step_(layout.planar == PLANARCONFIG_SEPARATE ? 1 : layout.samples),
          row_bytes_(TIFFScanlineSize64(file.get())),
          plane_bytes_(layout.planar == PLANARCONFIG_SEPARATE ? rows_.size() / layout.samples : 0) {}

    uint32_t get(int64_t x, int64_t y, int sample) const {
        const bool planar = plane_bytes_ != 0;
        const uint8_t* row =
            rows_.data() + (planar ? plane_bytes_ * std::size_t(sample) : 0) + row_bytes_ * std::size_t(y);
        const std::size_t index = std::size_t(x) * step_ + (planar ? 0 : std::size_t(sample));
        if (bits_ == 8) return row[index];
        if (bits_ == 16) {
            uint16_t value;
            std::memcpy(&value, row + index * 2, 2);
            return value;
        }
        const std::size_t bit = index * bits_;
        return row[bit / 8] >> (8 - bits_ - bit % 8) & ((1u << bits_) - 1);
    }

  private:
    std::vector<uint8_t> rows_;
    unsigned bits_;
    std::size_t step_;
    std::size_t row_bytes_;
    std::size_t plane_bytes_;
};

template <class Convert>
void for_each_pixel(Image& image, const Convert& convert) {
    const std::size_t bytes = image.samples.size() / std::size_t(image.width * image.height);
    uint8_t* to = image.samples.data();
    for (int64_t y = 0; y < image.height; ++y) {
        for (int64_t x = 0; x < image.width; ++x, to += bytes) convert(x, y, to);
    }
}

bool is_alpha(uint16_t extra) {
    return extra == EXTRASAMPLE_ASSOCALPHA || extra == EXTRASAMPLE_UNASSALPHA || extra == kCorelAlpha;
}

// Grey or RGB, with alpha or without.
void read_direct(const TiffFile& file, const Layout& layout, Image& image) {
    const bool rgb = layout.photometric == PHOTOMETRIC_RGB;
    const int colours = rgb ? 3 : 1;
    // A fourth sample that nothing is said of is taken for alpha.
    const bool alpha =
        layout.samples > colours && (is_alpha(layout.extra) || (rgb && layout.extra == kNoAlpha));
    image.layout = rgb ? (alpha ? PE_RGBA : PE_RGB) : (alpha ? PE_GREY_ALPHA : PE_GREY);
    const bool premultiplied = alpha && layout.extra == EXTRASAMPLE_ASSOCALPHA;
    image.was_premultiplied = premultiplied;
    const uint32_t top = (1u << layout.bits) - 1;
    const uint32_t scale = layout.bits < 8 ? 255 / top : 1;
    const bool inverted = !rgb && layout.photometric == PHOTOMETRIC_MINISWHITE;
    image.sample = layout.bits == 16 ? PE_UINT16 : PE_UINT8;
    image.premultiplied = premultiplied && layout.bits == 16;
    image.allocate();
    const Samples samples(file, layout);
    const int count = colours + (alpha ? 1 : 0);
    for_each_pixel(image, [&](int64_t x, int64_t y, uint8_t* to) {
        const uint32_t opacity = premultiplied ? samples.get(x, y, colours) : top;
        for (int c = 0; c < count; ++c) {
            uint32_t value = samples.get(x, y, c);
            if (inverted && c < colours) value = top - value;
            // 8-bit colours are divided by alpha, as Pillow does; 16-bit ones are not.
            if (premultiplied && layout.bits == 8 && c < colours) {
                value = opacity == 0 ? 0 : std::min(255u, value * 255 / opacity);
            }
            if (layout.bits == 16) {
                const auto whole = uint16_t(value);
                std::memcpy(to + 2 * c, &whole, 2);
            } else {
                to[c] = uint8_t(value * scale);
            }
        }
    });
}

void read_palette(const TiffFile& file, const Layout& layout, Image& image) {
    std::array<const uint16_t*, 3> map = {};
    if (TIFFGetField(file.get(), TIFFTAG_COLORMAP, &map[0], &map[1], &map[2]) != 1) {
        throw Error("expected a TIFF with a palette, got none");
    }
    const bool alpha = layout.samples == 2 && is_alpha(layout.extra);
    image.layout = alpha ? PE_RGBA : PE_RGB;
    image.allocate();
    const Samples samples(file, layout);
    for_each_pixel(image, [&](int64_t x, int64_t y, uint8_t* to) {
        const uint32_t index = samples.get(x, y, 0);
        for (std::size_t c = 0; c < 3; ++c) to[c] = uint8_t(map[c][index] >> 8);
        if (alpha) to[3] = uint8_t(samples.get(x, y, 1));
    });
}

void read_cmyk(const TiffFile& file, const Layout& layout, Image& image) {
    image.cmyk = true;
    image.allocate();
    const Samples samples(file, layout);
    for_each_pixel(image, [&](int64_t x, int64_t y, uint8_t* to) {
        uint8_t cmyk[4];
        for (int c = 0; c < 4; ++c) cmyk[c] = uint8_t(samples.get(x, y, c));
        cmyk_to_rgb(cmyk, to);
    });
}

void read_ycbcr(const TiffFile& file, const Layout& layout, Image& image) {
    if (layout.compression == COMPRESSION_JPEG && layout.planar == PLANARCONFIG_CONTIG) {
        TIFFSetField(file.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
        Layout rgb = layout;
        rgb.photometric = PHOTOMETRIC_RGB;
        return read_direct(file, rgb, image);
    }
    if (layout.compression == COMPRESSION_NONE) {
        // Pillow writes them without subsampling and says that they have it.
        throw Error("expected grey, palette, RGB or CMYK pixels, got uncompressed YCbCr");
    }
    image.allocate();
    const std::vector<uint32_t> pixels = file.read_rgba();
    for_each_pixel(image, [&](int64_t x, int64_t y, uint8_t* to) {
        const uint32_t pixel = pixels[std::size_t(y * image.width + x)];
        to[0] = uint8_t(TIFFGetR(pixel));
        to[1] = uint8_t(TIFFGetG(pixel));
        to[2] = uint8_t(TIFFGetB(pixel));
    });
}

std::string_view block(const TagDirectory& directory, uint16_t tag) {
    const std::optional<std::string_view> bytes = directory.block(tag);
    if (!bytes) throw Error("tag " + std::to_string(tag) + ": expected bytes inside the file");
    return *bytes;
}

}  // namespace

std::optional<Size> size_of_tiff(std::string_view data) {
    const TagDirectory directory(data);
    const std::optional<uint32_t> width = directory.number(TIFFTAG_IMAGEWIDTH);
    const std::optional<uint32_t> height = directory.number(TIFFTAG_IMAGELENGTH);
    return width && height ? std::optional(Size{*width, *height}) : std::nullopt;
}

Image decode_tiff(std::string_view data) {
    const TagDirectory directory(data);
    check_tiff(data, directory);
    const TiffFile file(data);
    Image image;
    image.width = file.long_tag(TIFFTAG_IMAGEWIDTH, 0);
    image.height = file.long_tag(TIFFTAG_IMAGELENGTH, 0);
    check_size(image.width, image.height);
    const Layout layout = read_layout(file, directory);
    check_layout(file, layout);
    switch (layout.photometric) {
        case PHOTOMETRIC_PALETTE:
            read_palette(file, layout, image);
            break;
        case PHOTOMETRIC_SEPARATED:
            read_cmyk(file, layout, image);
            break;
        case PHOTOMETRIC_YCBCR:
            if (layout.samples == 3) {
                read_ycbcr(file, layout, image);
                break;
            }
            [[fallthrough]];
        default:
            read_direct(file, layout, image);
    }
    const std::optional<int> orientation = directory.orientation();
    image.orientation = orientation ? *orientation : xmp_orientation(block(directory, TIFFTAG_XMLPACKET));
    image.colours.profile = block(directory, TIFFTAG_ICCPROFILE);
    return image;
}

}  // namespace pe::gate
