// The chunks of a PNG, all of them checked before a pixel is decoded: libpng skips checksums of chunks that
// it does not know, and fills up rows that are missing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "colour.h"

namespace pe::gate {

// What the chunks say, other than pixels.
struct PngChunks {
    int64_t width = 0;
    int64_t height = 0;
    int depth = 0;   // bits per sample
    int colour = 0;  // colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha
    bool interlaced = false;
    bool transparent = false;  // by a tRNS chunk
    int64_t frames = 1;        // of an animation
    ColourDescription colours;
    std::optional<std::string> exif;
    std::string xmp;  // empty: none
};

// Walks all chunks to IEND. Throws Error unless the header is valid, every checksum is right, the order is
// one that the specification allows, and the pixels inflate to exactly the length that the header implies,
// with nothing behind them.
PngChunks check_png(std::string_view data);

}  // namespace pe::gate
