// Windows bitmaps, of which no library is in common use: headers of every version, palettes, 16, 24 and 32
// bits, bit fields; not run-length encoded ones.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <iterator>

#include "../text.h"
#include "image.h"

namespace pe::gate {
namespace {

constexpr uint32_t kRaw = 0, kBitFields = 3;
constexpr std::size_t kFileHeader = 14;

class Bytes {
  public:
    explicit Bytes(std::string_view data) : data_(data) {}

    // A little-endian integer.
    uint32_t integer(std::size_t at, std::size_t count) const {
        if (at > data_.size() || data_.size() - at < count) throw Error("image file is truncated");
        uint32_t value = 0;
        for (std::size_t i = count; i-- > 0;) value = value << 8 | static_cast<unsigned char>(data_[at + i]);
        return value;
    }

    const uint8_t* range(uint64_t at, uint64_t count) const {
        if (at > data_.size() || data_.size() - at < count) throw Error("image file is truncated");
        return reinterpret_cast<const uint8_t*>(data_.data()) + at;
    }

    // How many of so many bytes there are.
    uint64_t there(uint64_t at, uint64_t count) const {
        return std::min<uint64_t>(count, data_.size() - std::min<uint64_t>(at, data_.size()));
    }

  private:
    std::string_view data_;
};

struct Header {
    int64_t width = 0, height = 0;
    bool top_down = false;
    uint32_t bits = 0, compression = kRaw, colours = 0, palette_entry = 4;
    std::array<uint32_t, 4> masks = {};  // red, green, blue, alpha
    std::size_t palette = 0;             // where it begins
    uint64_t pixels = 0;                 // where they begin
};

Header read_header(const Bytes& data) {
    Header header;
    const uint32_t size = data.integer(kFileHeader, 4);
    constexpr std::size_t kAt = kFileHeader;
    header.palette = kAt + size;
    if (size == 12) {
        header.width = data.integer(kAt + 4, 2);
        header.height = data.integer(kAt + 6, 2);
        header.bits = data.integer(kAt + 10, 2);
        header.palette_entry = 3;
    } else if (size == 40 || size == 52 || size == 56 || size == 64 || size == 108 || size == 124) {
        header.width = data.integer(kAt + 4, 4);
        header.height = int32_t(data.integer(kAt + 8, 4));
        header.top_down = header.height < 0;
        header.height = std::abs(header.height);
        header.bits = data.integer(kAt + 14, 2);
        header.compression = data.integer(kAt + 16, 4);
        header.colours = data.integer(kAt + 32, 4);
        if (header.compression == kBitFields) {
            const bool with_alpha = size >= 56;
            for (std::size_t i = 0; i < (with_alpha ? 4u : 3u); ++i) {
                header.masks[i] = data.integer(kAt + 40 + 4 * i, 4);
            }
            if (size == 40) header.palette += 12;
        }
    } else {
        throw Error("expected a BMP header of a known size, got " + std::to_string(size) + " bytes");
    }
    if (header.bits <= 8 && header.colours == 0) header.colours = 1u << header.bits;
    header.pixels = data.integer(10, 4);
    if (header.bits <= 8 && (header.pixels == 0 || header.pixels == kFileHeader + size)) {
        header.pixels = header.palette + uint64_t(header.palette_entry) * header.colours;
    } else if (header.pixels == 0) {
        header.pixels = header.palette;
    }
    return header;
}

using Row = void (*)(const Header&, const uint8_t* palette, const uint8_t* from, Image&, uint8_t* to);

void palette_row(const Header& header, const uint8_t* palette, const uint8_t* from, Image& image,
                 uint8_t* to) {
    const uint32_t per_byte = 8 / header.bits;
    for (int64_t x = 0; x < image.width; ++x, to += 3) {
        const uint32_t shift = 8 - header.bits * uint32_t(x % per_byte + 1);
        const uint32_t index = from[x / per_byte] >> shift & ((1u << header.bits) - 1);
        const uint8_t* entry = palette + std::size_t(index) * header.palette_entry;
        for (int c = 0; c < 3; ++c) to[c] = index < header.colours ? entry[2 - c] : 0;
    }
}

void two_byte_row(const Header& header, const uint8_t*, const uint8_t* from, Image& image, uint8_t* to) {
    const bool six_green = header.compression == kBitFields && header.masks[1] == 0x7E0;
    for (int64_t x = 0; x < image.width; ++x, from += 2, to += 3) {
        const uint32_t pixel = from[0] | uint32_t(from[1]) << 8;
        to[0] = uint8_t((pixel >> (six_green ? 11 : 10) & 31) * 255 / 31);
        to[1] = uint8_t(six_green ? (pixel >> 5 & 63) * 255 / 63 : (pixel >> 5 & 31) * 255 / 31);
        to[2] = uint8_t((pixel & 31) * 255 / 31);
    }
}

// The bit fields of whole bytes that programs write, which are all that Pillow reads, and where in a pixel
// red, green, blue and alpha are.
struct Fields {
    uint32_t bits;
    std::array<uint32_t, 4> masks;
    std::array<uint8_t, 4> order;
};
constexpr Fields kFields[] = {
    {24, {0xFF0000, 0xFF00, 0xFF, 0}, {2, 1, 0, 0}},
    {32, {0xFF0000, 0xFF00, 0xFF, 0}, {2, 1, 0, 0}},
    {32, {0xFF000000, 0xFF0000, 0xFF00, 0}, {3, 2, 1, 0}},
    {32, {0xFF000000, 0xFF00, 0xFF, 0}, {3, 1, 0, 0}},
    {32, {0xFF000000, 0xFF0000, 0xFF00, 0xFF}, {3, 2, 1, 0}},
    {32, {0xFF, 0xFF00, 0xFF0000, 0xFF000000}, {0, 1, 2, 3}},
    {32, {0xFF0000, 0xFF00, 0xFF, 0xFF000000}, {2, 1, 0, 3}},
    {32, {0xFF000000, 0xFF00, 0xFF, 0xFF0000}, {3, 1, 0, 2}},
    {32, {0, 0, 0, 0}, {2, 1, 0, 3}},
};

const Fields* find_fields(const Header& header) {
    const auto* found = std::find_if(std::begin(kFields), std::end(kFields), [&](const Fields& fields) {
        // The mask of alpha means nothing where a pixel has three bytes.
        const std::ptrdiff_t count = fields.bits == 24 ? 3 : 4;
        return fields.bits == header.bits &&
               std::equal(fields.masks.begin(), fields.masks.begin() + count, header.masks.begin());
    });
    return found == std::end(kFields) ? nullptr : found;
}

void byte_row(const Header& header, const uint8_t*, const uint8_t* from, Image& image, uint8_t* to) {
    const int bytes = int(header.bits / 8), channels = image.layout;
    std::array<uint8_t, 4> order = {2, 1, 0, 3};
    if (header.compression == kBitFields) order = find_fields(header)->order;
    for (int64_t x = 0; x < image.width; ++x, from += bytes, to += channels) {
        for (int c = 0; c < channels; ++c) to[c] = from[order[std::size_t(c)]];
    }
}

void check_kind(const Header& header) {
    const auto& masks = header.masks;
    const bool two_byte_masks = header.compression == kRaw ||
                                (masks[0] == 0xF800 && masks[1] == 0x7E0 && masks[2] == 0x1F) ||
                                (masks[0] == 0x7C00 && masks[1] == 0x3E0 && masks[2] == 0x1F);
    const bool plain = header.bits == 1 || header.bits == 4 || header.bits == 8;
    const bool known = (plain && header.compression == kRaw) || (header.bits == 16 && two_byte_masks) ||
                       ((header.bits == 24 || header.bits == 32) &&
                        (header.compression == kRaw || find_fields(header) != nullptr));
    if (!known || (header.compression != kRaw && header.compression != kBitFields)) {
        throw Error(
            "expected an uncompressed BMP of 1, 4, 8, 16, 24 or 32 bits with common bit fields, got "
            "compression " +
            std::to_string(header.compression) + " of " + std::to_string(header.bits) + " bits");
    }
    if (plain && (header.colours == 0 || header.colours > 65536)) {
        throw Error("expected a palette of 1 to 65536 colours, got " + std::to_string(header.colours));
    }
}

}  // namespace

std::optional<Size> size_of_bmp(std::string_view data) {
    try {
        const Header header = read_header(Bytes(data));
        return Size{header.width, header.height};
    } catch (const Error&) {
        return std::nullopt;
    }
}

Image decode_bmp(std::string_view data) {
    const Bytes bytes(data);
    Header header = read_header(bytes);
    check_kind(header);
    Image image;
    image.width = header.width;
    image.height = header.height;
    const bool no_masks = std::none_of(header.masks.begin(), header.masks.end(), std::identity());
    const bool alpha =
        header.bits == 32 && header.compression == kBitFields && (header.masks[3] != 0 || no_masks);
    image.layout = alpha ? PE_RGBA : PE_RGB;
    check_size(image.width, image.height);

    const Row convert = header.bits <= 8 ? &palette_row : header.bits == 16 ? &two_byte_row : &byte_row;
    const uint8_t* palette = nullptr;
    if (header.bits <= 8) {
        // Colours behind the end of the file are black, like those that the header does not count.
        const uint64_t entry = header.palette_entry;
        header.colours = uint32_t(bytes.there(header.palette, entry * header.colours) / entry);
        if (header.colours > 256) throw Error("expected a palette of up to 256 colours, got more");
        palette = bytes.range(header.palette, entry * header.colours);
    }
    const uint64_t stride = (uint64_t(header.width) * header.bits + 31) / 32 * 4;
    const uint8_t* pixels = bytes.range(header.pixels, stride * uint64_t(header.height));
    image.allocate();
    const std::size_t row_bytes = image.samples.size() / std::size_t(image.height);
    for (int64_t y = 0; y < image.height; ++y) {
        const int64_t stored = header.top_down ? y : image.height - 1 - y;
        convert(header, palette, pixels + uint64_t(stored) * stride, image,
                &image.samples[std::size_t(y) * row_bytes]);
    }
    return image;
}

}  // namespace pe::gate
