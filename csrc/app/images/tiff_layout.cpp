#include "tiff_layout.h"

#include <tiff.h>

#include <algorithm>
#include <string>

#include "../text.h"
#include "image.h"

namespace pe::gate {
namespace {

using namespace std::string_view_literals;

constexpr uint64_t kMaxSide = 0x7FFFFFFF;

uint64_t divide_up(uint64_t value, uint64_t by) { return (value + by - 1) / by; }

// The parts that an image is stored in: strips, which are as wide as it, or tiles.
struct Parts {
    const char* name;
    uint16_t offsets_tag, counts_tag;
    uint64_t width, height;  // of a part, in pixels
    uint64_t across, down;   // how many
    bool tiled;
};

uint64_t integer(const TagDirectory& directory, uint16_t tag, const char* name, uint64_t otherwise) {
    if (!directory.has(tag)) return otherwise;
    const std::vector<uint64_t> values = directory.numbers(tag);
    if (values.empty() || values[0] == 0 || values[0] > UINT32_MAX) {
        throw Error(std::string(name) + ": expected an integer of at least 1");
    }
    return values[0];
}

uint64_t side(const TagDirectory& directory, uint16_t tag, const char* name) {
    const uint64_t value = integer(directory, tag, name, 0);
    if (value == 0 || value > kMaxSide) throw Error(std::string(name) + ": expected 1 to 2^31 - 1 pixels");
    return value;
}

Parts parts_of(const TagDirectory& directory, uint64_t width, uint64_t height) {
    const bool strips = directory.has(TIFFTAG_STRIPOFFSETS) || directory.has(TIFFTAG_STRIPBYTECOUNTS);
    const bool tiles = directory.has(TIFFTAG_TILEWIDTH) || directory.has(TIFFTAG_TILELENGTH) ||
                       directory.has(TIFFTAG_TILEOFFSETS) || directory.has(TIFFTAG_TILEBYTECOUNTS);
    if (strips && tiles) throw Error("expected strips or tiles, got both");
    if (!tiles) {
        const uint64_t rows =
            std::min(integer(directory, TIFFTAG_ROWSPERSTRIP, "rows per strip", height), height);
        return {
            "strip", TIFFTAG_STRIPOFFSETS, TIFFTAG_STRIPBYTECOUNTS, width, rows, 1, divide_up(height, rows),
            false};
    }
    const uint64_t across = side(directory, TIFFTAG_TILEWIDTH, "tile width");
    const uint64_t down = side(directory, TIFFTAG_TILELENGTH, "tile length");
    return {"tile", TIFFTAG_TILEOFFSETS,      TIFFTAG_TILEBYTECOUNTS,  across,
            down,   divide_up(width, across), divide_up(height, down), true};
}

std::vector<uint64_t> list(const TagDirectory& directory, uint16_t tag, uint64_t expected,
                           const std::string& name) {
    std::vector<uint64_t> values = directory.numbers(tag);
    if (values.size() != expected) {
        throw Error(name + ": expected " + std::to_string(expected) + ", got " +
                    std::to_string(values.size()));
    }
    return values;
}

// A JPEG of at least so many rows and columns, from its first marker to its last. Where pixels are missing,
// decoders make them up.
bool is_whole_jpeg(std::string_view part, uint64_t width, uint64_t height) {
    const std::optional<Size> size = size_of_jpeg(part);
    constexpr std::string_view kEnd = "\xff\xd9"sv;
    const bool ends = part.ends_with(kEnd) || part.substr(0, part.size() - 1).ends_with(kEnd);
    return part.starts_with("\xff\xd8"sv) && ends && size && uint64_t(size->width) >= width &&
           uint64_t(size->height) >= height;
}

}  // namespace

void check_tiff(std::string_view data, const TagDirectory& directory) {
    if (directory.is_damaged()) throw Error("expected a TIFF image, got a damaged directory");
    if (const std::optional<uint16_t> tag = directory.repeated()) {
        throw Error("the tag " + std::to_string(*tag) + " is there twice");
    }
    if (directory.next() != 0) throw Error("expected a single image, got a document of several pages");
    const uint64_t width = side(directory, TIFFTAG_IMAGEWIDTH, "image width");
    const uint64_t height = side(directory, TIFFTAG_IMAGELENGTH, "image length");
    check_size(int64_t(width), int64_t(height));
    const uint64_t samples = integer(directory, TIFFTAG_SAMPLESPERPIXEL, "samples per pixel", 1);
    const uint64_t bits = integer(directory, TIFFTAG_BITSPERSAMPLE, "bits per sample", 1);
    const uint64_t compression = integer(directory, TIFFTAG_COMPRESSION, "compression", COMPRESSION_NONE);
    const bool planar = integer(directory, TIFFTAG_PLANARCONFIG, "planar configuration",
                                PLANARCONFIG_CONTIG) == PLANARCONFIG_SEPARATE;
    if (samples > UINT16_MAX || bits > UINT16_MAX)
        throw Error("expected samples of a TIFF, got damaged tags");

    const Parts parts = parts_of(directory, width, height);
    const uint64_t in_plane = parts.across * parts.down, expected = in_plane * (planar ? samples : 1);
    const std::string name = parts.name;
    const std::vector<uint64_t> offsets = list(directory, parts.offsets_tag, expected, name + " offsets");
    const std::vector<uint64_t> counts = list(directory, parts.counts_tag, expected, name + " byte counts");
    const uint64_t row_bytes = divide_up(parts.width * bits * (planar ? 1 : samples), 8);
    for (std::size_t i = 0; i < expected; ++i) {
        const uint64_t offset = offsets[i], count = counts[i];
        const std::string part = name + " " + std::to_string(i);
        if (count == 0 || offset > data.size() || count > data.size() - offset) {
            throw Error(part + ": expected bytes inside the file, got " + std::to_string(count) + " from " +
                        std::to_string(offset) + " on");
        }
        const uint64_t row = i % in_plane / parts.across, column = i % in_plane % parts.across;
        const uint64_t rows = std::min(parts.height, height - row * parts.height);
        const uint64_t whole = row_bytes * (parts.tiled ? parts.height : rows);
        if (compression == COMPRESSION_NONE && count < whole) {
            throw Error(part + ": expected at least " + std::to_string(whole) + " bytes, got " +
                        std::to_string(count));
        }
        const uint64_t columns = std::min(parts.width, width - column * parts.width);
        if (compression == COMPRESSION_JPEG && !is_whole_jpeg(data.substr(offset, count), columns, rows)) {
            throw Error(part + ": expected a whole JPEG, got a part of one");
        }
    }
}

}  // namespace pe::gate
