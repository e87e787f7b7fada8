// A reader of pe_gate on damaged files: pixels that a metric takes, or an error with a text.
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "app/images/image.h"
#include "app/text.h"
#include "capi/pixels.h"
#include "fuzz.h"

using namespace std::string_view_literals;

namespace {

struct Format {
    pe::gate::Image (*decode)(std::string_view);
    // One of these is at the front of what reaches the reader: others are told apart before.
    std::string_view starts[4];
};

[[maybe_unused]] constexpr Format png = {pe::gate::decode_png, {"\x89PNG\r\n\x1a\n"sv}};
[[maybe_unused]] constexpr Format jpeg = {pe::gate::decode_jpeg, {"\xff\xd8\xff"sv}};
[[maybe_unused]] constexpr Format webp = {pe::gate::decode_webp, {"RIFF"sv}};
[[maybe_unused]] constexpr Format bmp = {pe::gate::decode_bmp, {"BM"sv}};
[[maybe_unused]] constexpr Format tiff = {pe::gate::decode_tiff,
                                          {"II*\0"sv, "MM\0*"sv, "II+\0"sv, "MM\0+"sv}};
constexpr const Format& kFormat = PE_FUZZ_FORMAT;
constexpr bool kIsPng = kFormat.decode == pe::gate::decode_png;
constexpr bool kIsWebp = kFormat.decode == pe::gate::decode_webp;

bool reaches_reader(std::string_view data) {
    return std::any_of(std::begin(kFormat.starts), std::end(kFormat.starts), [&](std::string_view start) {
        return !start.empty() && data.substr(0, start.size()) == start;
    });
}

uint32_t big_endian(const uint8_t* at) {
    return uint32_t(at[0]) << 24 | uint32_t(at[1]) << 16 | uint32_t(at[2]) << 8 | at[3];
}

void put_big_endian(uint8_t* at, uint32_t value) {
    for (int i = 0; i < 4; ++i) at[i] = uint8_t(value >> (24 - 8 * i));
}

// Lengths of chunks that end in the file, mostly, and their checksums: libpng looks at nothing else of a
// chunk before these are right.
[[maybe_unused]] void mend_chunks(uint8_t* data, std::size_t bytes, unsigned seed) {
    for (std::size_t at = 8; at + 12 <= bytes;) {
        uint32_t length = big_endian(data + at);
        const auto rest = uint32_t(bytes - at - 12);
        if (length > rest) {
            if (seed % 3 == 0) return;
            length = rest;
            put_big_endian(data + at, length);
        }
        put_big_endian(data + at + 8 + length, uint32_t(crc32(0, data + at + 4, length + 4)));
        at += 12 + std::size_t(length);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
    static const fuzz::Counts counts;
    const std::string_view text = fuzz::text_of(data, bytes);
    if (!reaches_reader(text)) return 0;
    // Which is asked first, and of files that no reader takes; there may be none.
    const auto size = pe::gate::stored_size(text);
    try {
        const pe::gate::Image image = kFormat.decode(text);
        REQUIRE(!size || (size->width == image.width && size->height == image.height));
        REQUIRE(image.width >= 1 && image.height >= 1);
        REQUIRE(image.sample == PE_UINT8 || image.sample == PE_UINT16);
        const std::size_t pixels = std::size_t(image.width) * std::size_t(image.height);
        REQUIRE(image.samples.size() ==
                pixels * std::size_t(image.layout) * (image.sample == PE_UINT16 ? 2 : 1));
        REQUIRE(image.orientation >= 1 && image.orientation <= 8);
        const pe_image view = image.upright();
        pe::capi::check_image(view, "image");
        // Blocks of exactly the size that is to be written.
        const std::unique_ptr<uint8_t[]> rounded(new uint8_t[pixels * 3]);
        pe::capi::to_bytes(view, "image", {128, 128, 128}, rounded.get());
        const std::unique_ptr<float[]> planar(new float[pixels * 3]);
        pe::capi::to_planar(view, "image", {128, 128, 128}, planar.get());
        REQUIRE(std::all_of(planar.get(), planar.get() + pixels * 3,
                            [](float value) { return value >= 0 && value <= 1; }));
        ++counts.taken;
    } catch (const pe::gate::Error& error) {
        REQUIRE(error.what()[0] != '\0');
        ++counts.refused;
    } catch (const std::bad_alloc&) {
        ++counts.refused;
    }
    return 0;
}

extern "C" std::size_t LLVMFuzzerMutate(uint8_t* data, std::size_t bytes, std::size_t limit);

extern "C" std::size_t LLVMFuzzerCustomMutator(uint8_t* data, std::size_t bytes, std::size_t limit,
                                               unsigned seed) {
    bytes = LLVMFuzzerMutate(data, bytes, limit);
    const std::string_view start = kFormat.starts[0];
    if (!reaches_reader(fuzz::text_of(data, bytes)) && start.size() <= limit) {
        bytes = std::max(bytes, start.size());
        std::memcpy(data, start.data(), start.size());
    }
    if constexpr (kIsPng) {
        if (seed % 16 != 0) mend_chunks(data, bytes, seed);
    }
    // The length of the whole, which is compared before anything else.
    if constexpr (kIsWebp) {
        if (seed % 4 != 0 && bytes >= 12) {
            const auto length = uint32_t(bytes - 8);
            for (int i = 0; i < 4; ++i) data[4 + i] = uint8_t(length >> (8 * i));
        }
    }
    return bytes;
}
