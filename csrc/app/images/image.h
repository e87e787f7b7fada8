// Image files: what the pixels of a PNG, JPEG, WebP, BMP or TIFF mean to a metric. The rules are those of
// docs/gate.md.
#pragma once

#include <pe_runtime.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pe::gate {

// The pixels of a file as it stores them, without padding, and what it says of them.
struct Image {
    int64_t width = 0;
    int64_t height = 0;
    pe_layout layout = PE_RGB;
    pe_sample sample = PE_UINT8;  // or PE_UINT16
    bool premultiplied = false;
    std::vector<uint8_t> samples;

    int orientation = 1;   // of EXIF, 1 to 8; 1 is upright
    bool cmyk = false;     // it was CMYK before
    bool several = false;  // the file holds further images
    std::string icc;       // its ICC profile, which is not applied; empty: none

    bool has_alpha() const { return layout == PE_RGBA || layout == PE_GREY_ALPHA; }
    // Makes room for the samples. Throws Error for more pixels than the limit.
    void allocate();
    // The pixels as they are meant to be seen, upright. Valid as long as this object.
    pe_image upright() const;
};

// Decodes a file; what it holds is found from its content, not from its name. Throws Error, which names the
// file.
Image read_image(const std::string& path);

// Decoders of the formats. They throw Error for what is truncated, damaged, animated or of another kind than
// docs/gate.md lists.
Image decode_png(std::string_view data);
Image decode_jpeg(std::string_view data);
Image decode_webp(std::string_view data);
Image decode_bmp(std::string_view data);
Image decode_tiff(std::string_view data);

// For decoders: throw Error for more pixels than the limit, or for another number of images in the file than
// one.
void check_size(int64_t width, int64_t height);
void check_frames(int64_t frames);

// RGB of CMYK samples, 255 is full ink.
void cmyk_to_rgb(const uint8_t* cmyk, uint8_t* rgb);

}  // namespace pe::gate
