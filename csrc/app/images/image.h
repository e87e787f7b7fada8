// Image files: what the pixels of a PNG, JPEG, WebP, BMP or TIFF mean to a metric. The rules are those of
// docs/gate.md.
#pragma once

#include <pe_runtime.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "colour.h"

namespace pe::gate {

// The pixels of a file as it stores them, without padding, and what it says of them.
struct Image {
    int64_t width = 0;
    int64_t height = 0;
    pe_layout layout = PE_RGB;
    pe_sample sample = PE_UINT8;  // or PE_UINT16
    bool premultiplied = false;
    bool was_premultiplied = false;  // in the file, also where the samples are no longer
    std::vector<uint8_t> samples;

    int orientation = 1;        // of EXIF or XMP, 1 to 8; 1 is upright
    bool damaged_exif = false;  // which is ignored
    bool cmyk = false;          // it was CMYK before
    bool several = false;       // the file holds further images
    ColourDescription colours;  // what its samples mean

    bool has_alpha() const { return layout == PE_RGBA || layout == PE_GREY_ALPHA; }
    // Whether every pixel hides what is behind it.
    bool is_opaque() const;
    // Makes room for the samples. Throws Error for more pixels than the limit.
    void allocate();
    // The pixels as they are meant to be seen, upright. Valid as long as this object.
    pe_image upright() const;
};

// The bytes of an image file. Throws Error, which names the file, for what is no regular file or larger than
// 1 GiB.
std::string read_image_file(const std::string& path);

// Decodes the bytes of a file; what they are is found from them, not from its name. Throws Error.
Image decode_image(std::string_view data);

struct Size {
    int64_t width, height;
};
// Width and height as the header says, not turned, without decoding; nothing where no header is found.
std::optional<Size> stored_size(std::string_view data);

// Decoders of the formats. They throw Error for what is truncated, damaged, animated or of another kind than
// docs/gate.md lists.
Image decode_png(std::string_view data);
Image decode_jpeg(std::string_view data);
Image decode_webp(std::string_view data);
Image decode_bmp(std::string_view data);
Image decode_tiff(std::string_view data);

// What `stored_size` finds in each of them.
std::optional<Size> size_of_png(std::string_view data);
std::optional<Size> size_of_jpeg(std::string_view data);
std::optional<Size> size_of_webp(std::string_view data);
std::optional<Size> size_of_bmp(std::string_view data);
std::optional<Size> size_of_tiff(std::string_view data);

// For decoders: throw Error for more pixels than the limit, or for another number of images in the file than
// one.
void check_size(int64_t width, int64_t height);
void check_frames(int64_t frames);

// RGB of CMYK samples, 255 is full ink.
void cmyk_to_rgb(const uint8_t* cmyk, uint8_t* rgb);

}  // namespace pe::gate
