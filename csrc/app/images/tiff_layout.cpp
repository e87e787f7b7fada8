#include "tiff_layout.h"

#include <tiff.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "../text.h"
#include "image.h"

namespace pe::gate {
namespace {

using namespace std::string_view_literals;

constexpr uint64_t kMaxSide = 0x7FFFFFFF;
// More would take more memory than the pixels.
constexpr uint64_t kMaxParts = uint64_t(1) << 20;

// Compressions of which libtiff says that data are missing: none, CCITT run lengths, LZW, JPEG, Deflate
// (twice), PackBits, LZMA, Zstandard. Rows of others it fills up, and says nothing that Pillow passes on.
constexpr uint64_t kCompressions[] = {COMPRESSION_NONE,     COMPRESSION_CCITTRLE,      COMPRESSION_LZW,
                                      COMPRESSION_JPEG,     COMPRESSION_ADOBE_DEFLATE, COMPRESSION_DEFLATE,
                                      COMPRESSION_PACKBITS, COMPRESSION_LZMA,          COMPRESSION_ZSTD};

uint64_t divide_up(uint64_t value, uint64_t by) { return (value + by - 1) / by; }

std::string got(const std::string& expected, uint64_t value) {
    return expected + ", got " + std::to_string(value);
}

std::vector<uint64_t> integers(const TagDirectory& directory, uint16_t tag) {
    if (!directory.has(tag)) return {};
    std::optional<std::vector<uint64_t>> values = directory.integers(tag);
    if (!values) throw Error("tag " + std::to_string(tag) + ": expected integers inside the file");
    return *std::move(values);
}

// The single value of a tag, or `otherwise` where it is missing.
uint64_t integer(const TagDirectory& directory, uint16_t tag, uint64_t otherwise) {
    if (!directory.has(tag)) return otherwise;
    const std::vector<uint64_t> values = integers(directory, tag);
    if (values.size() != 1) {
        throw Error(got("tag " + std::to_string(tag) + ": expected one value", values.size()));
    }
    if (values[0] > UINT32_MAX) {
        throw Error(got("tag " + std::to_string(tag) + ": expected at most 32 bits", values[0]));
    }
    return values[0];
}

uint64_t side(const TagDirectory& directory, uint16_t tag) {
    const uint64_t value = integer(directory, tag, 0);
    if (value == 0 || value > kMaxSide) {
        throw Error(got("tag " + std::to_string(tag) + ": expected 1 to 2^31 - 1 pixels", value));
    }
    return value;
}

// Of every sample.
uint64_t bits_of(const TagDirectory& directory) {
    const std::vector<uint64_t> formats = integers(directory, TIFFTAG_SAMPLEFORMAT);
    if (std::any_of(formats.begin(), formats.end(), [](uint64_t f) { return f != SAMPLEFORMAT_UINT; })) {
        throw Error("expected unsigned integer samples, got a floating-point or signed TIFF");
    }
    const std::vector<uint64_t> all = integers(directory, TIFFTAG_BITSPERSAMPLE);
    const uint64_t bits = all.empty() ? 1 : all[0];
    const bool known = bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 16;
    if (!known || std::any_of(all.begin(), all.end(), [&](uint64_t other) { return other != bits; })) {
        throw Error(got("expected 8 or 16 bits per sample", bits) + " or several numbers of them");
    }
    return bits;
}

struct Pixels {
    uint64_t width, height, samples, bits, compression;
    bool planar;
};

Pixels pixels_of(const TagDirectory& directory) {
    Pixels pixels;
    pixels.width = side(directory, TIFFTAG_IMAGEWIDTH);
    pixels.height = side(directory, TIFFTAG_IMAGELENGTH);
    check_size(int64_t(pixels.width), int64_t(pixels.height));
    pixels.bits = bits_of(directory);
    pixels.samples = integer(directory, TIFFTAG_SAMPLESPERPIXEL, 1);
    pixels.compression = integer(directory, TIFFTAG_COMPRESSION, COMPRESSION_NONE);
    // Damaged ones are refused here; libtiff would go on without them.
    const uint64_t photometric = integer(directory, TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISWHITE);
    const std::size_t colours = integers(directory, TIFFTAG_COLORMAP).size(), values = std::size_t(3)
                                                                                       << pixels.bits;
    const bool shorts = directory.bytes(TIFFTAG_COLORMAP).value_or("").size() == 2 * values;
    if (photometric == PHOTOMETRIC_PALETTE && (colours != values || !shorts)) {
        throw Error(got("expected a palette of " + std::to_string(values) + " values of 16 bits", colours));
    }
    if (pixels.bits == 16 && !directory.has(TIFFTAG_PHOTOMETRIC)) {
        throw Error("tag " + std::to_string(TIFFTAG_PHOTOMETRIC) + ": expected a value, got none");
    }
    const std::size_t extra = integers(directory, TIFFTAG_EXTRASAMPLES).size();
    const uint64_t of_colour = photometric == PHOTOMETRIC_RGB || photometric == PHOTOMETRIC_YCBCR ? 3
                               : photometric == PHOTOMETRIC_SEPARATED                             ? 4
                                                                                                  : 1;
    if (extra != 0 && extra + of_colour > pixels.samples) {
        throw Error(got("expected fewer extra samples than " + std::to_string(pixels.samples), extra));
    }
    const uint64_t order = integer(directory, TIFFTAG_FILLORDER, FILLORDER_MSB2LSB);
    if (order != FILLORDER_MSB2LSB && order != FILLORDER_LSB2MSB) {
        throw Error(got("fill order: expected 1 or 2", order));
    }
    const uint64_t planes = integer(directory, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
    pixels.planar = planes == PLANARCONFIG_SEPARATE;
    if (pixels.samples == 0 || pixels.samples > UINT16_MAX ||
        (planes != PLANARCONFIG_CONTIG && planes != PLANARCONFIG_SEPARATE)) {
        throw Error(got("expected a TIFF of pixels", pixels.samples) +
                    " samples per pixel, planar configuration " + std::to_string(planes));
    }
    if (std::find(std::begin(kCompressions), std::end(kCompressions), pixels.compression) ==
        std::end(kCompressions)) {
        throw Error(got("expected a TIFF whose strips can be checked", pixels.compression) +
                    " as its compression");
    }
    return pixels;
}

// The parts that an image is stored in: strips, which are as wide as it, or tiles.
struct Parts {
    bool tiled;
    uint64_t width, height;  // of a part, in pixels
    uint64_t across, down;   // how many
};

Parts parts_of(const TagDirectory& directory, const Pixels& pixels) {
    const bool strips = directory.has(TIFFTAG_STRIPOFFSETS) || directory.has(TIFFTAG_STRIPBYTECOUNTS);
    const bool tiles = directory.has(TIFFTAG_TILEWIDTH) || directory.has(TIFFTAG_TILELENGTH) ||
                       directory.has(TIFFTAG_TILEOFFSETS) || directory.has(TIFFTAG_TILEBYTECOUNTS);
    if (strips && tiles) throw Error("expected strips or tiles, got both");
    if (!tiles) {
        const uint64_t asked = integer(directory, TIFFTAG_ROWSPERSTRIP, pixels.height);
        if (asked == 0) throw Error("rows per strip: expected at least 1, got 0");
        const uint64_t rows = std::min(asked, pixels.height);
        return {false, pixels.width, rows, 1, divide_up(pixels.height, rows)};
    }
    const uint64_t across = side(directory, TIFFTAG_TILEWIDTH), down = side(directory, TIFFTAG_TILELENGTH);
    return {true, across, down, divide_up(pixels.width, across), divide_up(pixels.height, down)};
}

std::vector<uint64_t> list(const TagDirectory& directory, uint16_t tag, uint64_t expected,
                           const std::string& name) {
    std::vector<uint64_t> values = integers(directory, tag);
    if (values.size() != expected) {
        throw Error(got(name + ": expected " + std::to_string(expected), values.size()));
    }
    return values;
}

// A JPEG of at least so many columns and rows, from its first marker to its last. Where pixels are missing,
// decoders make them up.
bool is_whole_jpeg(std::string_view part, uint64_t width, uint64_t height) {
    const std::optional<Size> size = size_of_jpeg(part);
    constexpr std::string_view kEnd = "\xff\xd9"sv;
    // Strips begin at even offsets: a byte may follow the last marker.
    const bool ends = part.ends_with(kEnd) || part.substr(0, part.size() - 1).ends_with(kEnd);
    return part.starts_with("\xff\xd8"sv) && ends && size && uint64_t(size->width) >= width &&
           uint64_t(size->height) >= height;
}

void check_parts(std::string_view data, const TagDirectory& directory, const Pixels& pixels) {
    const Parts parts = parts_of(directory, pixels);
    const std::string name = parts.tiled ? "tile" : "strip";
    const uint64_t in_plane = parts.across * parts.down,
                   expected = in_plane * (pixels.planar ? pixels.samples : 1);
    if (expected > kMaxParts) {
        throw Error(got("expected at most " + std::to_string(kMaxParts) + " " + name + "s", expected));
    }
    const std::vector<uint64_t> offsets = list(
        directory, parts.tiled ? TIFFTAG_TILEOFFSETS : TIFFTAG_STRIPOFFSETS, expected, name + " offsets");
    const std::vector<uint64_t> counts =
        list(directory, parts.tiled ? TIFFTAG_TILEBYTECOUNTS : TIFFTAG_STRIPBYTECOUNTS, expected,
             name + " byte counts");
    const uint64_t row_bytes = divide_up(parts.width * pixels.bits * (pixels.planar ? 1 : pixels.samples), 8);
    for (std::size_t i = 0; i < expected; ++i) {
        const uint64_t offset = offsets[i], count = counts[i];
        const std::string part = name + " " + std::to_string(i);
        if (count == 0 || offset > data.size() || count > data.size() - offset) {
            throw Error(got(part + ": expected bytes inside the file", count) + " from " +
                        std::to_string(offset) + " on");
        }
        const uint64_t row = i % in_plane / parts.across * parts.height;
        const uint64_t rows = parts.tiled ? parts.height : std::min(parts.height, pixels.height - row);
        if (pixels.compression == COMPRESSION_NONE && count / row_bytes < rows) {
            throw Error(got(part + ": expected at least " + std::to_string(rows) + " rows of " +
                                std::to_string(row_bytes) + " bytes",
                            count));
        }
        if (pixels.compression == COMPRESSION_JPEG &&
            !is_whole_jpeg(data.substr(offset, count), parts.width, rows)) {
            throw Error(part + ": expected a whole JPEG, got a part of one");
        }
    }
}

}  // namespace

void check_tiff(std::string_view data, const TagDirectory& directory) {
    if (directory.is_damaged()) throw Error("expected a TIFF image, got a damaged directory");
    if (const std::optional<uint16_t> tag = directory.repeated()) {
        throw Error("tag " + std::to_string(*tag) + ": expected once, got twice");
    }
    if (const std::optional<uint16_t> tag = directory.outside()) {
        throw Error("tag " + std::to_string(*tag) + ": expected values inside the file");
    }
    if (directory.next() != 0) throw Error("expected a single image, got a document of several pages");
    check_parts(data, directory, pixels_of(directory));
}

}  // namespace pe::gate
