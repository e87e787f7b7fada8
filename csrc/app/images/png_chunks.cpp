#include "png_chunks.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <iterator>
#include <new>
#include <optional>
#include <vector>

#include "../text.h"
#include "image.h"

namespace pe::gate {
namespace {

constexpr std::size_t kSignature = 8, kChunkOverhead = 12;
constexpr uint32_t kMaxLength = 0x7FFFFFFF;
// Of a profile or a text, once inflated.
constexpr std::size_t kMaxInflated = std::size_t(1) << 24;
constexpr std::size_t kMaxKeyword = 79;

uint32_t integer(std::string_view bytes) {
    uint32_t value = 0;
    for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
    return value;
}

unsigned char byte(std::string_view bytes, std::size_t i) { return static_cast<unsigned char>(bytes[i]); }

// A zlib stream that is given in parts. Throws Error for a damaged one.
class Inflater {
  public:
    Inflater() {
        if (inflateInit(&stream_) != Z_OK) throw std::bad_alloc();
    }
    ~Inflater() { inflateEnd(&stream_); }
    Inflater(const Inflater&) = delete;
    Inflater& operator=(const Inflater&) = delete;

    bool ended() const { return ended_; }
    // How much of the last part was not used: what follows the stream's end.
    std::size_t left() const { return stream_.avail_in; }

    // Calls `take` with each piece of what comes out.
    template <class Take>
    void put(std::string_view part, const Take& take) {
        // zlib reads its input only, but takes it as not constant.
        stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(part.data()));
        stream_.avail_in = uInt(part.size());
        while (!ended_) {
            stream_.next_out = reinterpret_cast<Bytef*>(piece_.data());
            stream_.avail_out = uInt(piece_.size());
            const int status = inflate(&stream_, Z_NO_FLUSH);
            const std::size_t count = piece_.size() - stream_.avail_out;
            if (status == Z_MEM_ERROR) throw std::bad_alloc();
            // Z_BUF_ERROR: it waits for the next part.
            if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
                throw Error(stream_.msg == nullptr ? "damaged compressed data" : stream_.msg);
            }
            ended_ = status == Z_STREAM_END;
            take(std::string_view(piece_.data(), count));
            if (count == 0 || (stream_.avail_in == 0 && stream_.avail_out != 0)) break;
        }
    }

  private:
    z_stream stream_ = {};
    bool ended_ = false;
    std::array<char, 1 << 15> piece_;
};

// A whole stream, whatever follows it; nothing where it is damaged or too long.
std::optional<std::string> inflated(std::string_view data) {
    std::string text;
    Inflater inflater;
    try {
        inflater.put(data, [&](std::string_view piece) {
            if (piece.size() > kMaxInflated - text.size()) throw Error("too long");
            text += piece;
        });
    } catch (const Error&) {
        return std::nullopt;
    }
    return inflater.ended() ? std::optional(std::move(text)) : std::nullopt;
}

// Hexadecimal digits; others are between them.
std::string hex_to_bytes(std::string_view text) {
    std::string bytes;
    int high = -1;
    for (const char c : text) {
        const auto sign = static_cast<unsigned char>(c);
        if (std::isxdigit(sign) == 0) continue;
        const int digit = std::isdigit(sign) != 0 ? sign - '0' : std::tolower(sign) - 'a' + 10;
        if (high < 0) {
            high = digit;
        } else {
            bytes += char(high << 4 | digit);
            high = -1;
        }
    }
    return bytes;
}

// ImageMagick's: an empty line, the name, the length, then hexadecimal digits.
std::string raw_profile(std::string_view text) {
    for (int line = 0; line < 3; ++line) {
        const std::size_t end = text.find('\n');
        if (end == std::string_view::npos) return {};
        text.remove_prefix(end + 1);
    }
    return hex_to_bytes(text);
}

// The part up to a zero byte, which is removed together with it; nothing where there is no such byte.
std::optional<std::string_view> cut(std::string_view& rest) {
    const std::size_t end = rest.find('\0');
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view part = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    return part;
}

class Walk {
  public:
    explicit Walk(std::string_view data) : rest_(data.substr(std::min(data.size(), kSignature))) {}

    PngChunks run() {
        read_header(next());
        check_size(chunks_.width, chunks_.height);
        for (Chunk chunk = next(); chunk.kind != "IEND"; chunk = next()) take(chunk);
        if (!pixels_begun_) throw Error("expected an IDAT chunk, got none");
        if (!inflater_.ended() || length_ != expected_) refuse_length();
        chunks_.frames += animated_ && !first_is_frame_ ? 1 : 0;
        chunks_.colours = describe();
        read_texts();
        return std::move(chunks_);
    }

  private:
    struct Chunk {
        std::string_view kind, data;
    };

    Chunk next() {
        if (rest_.size() < kChunkOverhead) throw Error("image file is truncated");
        const uint32_t length = integer(rest_.substr(0, 4));
        const std::string_view kind = rest_.substr(4, 4);
        if (!std::all_of(kind.begin(), kind.end(), [](unsigned char c) { return std::isalpha(c) != 0; })) {
            throw Error("expected a chunk, got a name that is none");
        }
        if (length > kMaxLength || length > rest_.size() - kChunkOverhead)
            throw Error("image file is truncated");
        const std::string_view data = rest_.substr(8, length);
        const auto* checked = reinterpret_cast<const Bytef*>(kind.data());
        const uint32_t stored = integer(rest_.substr(8 + std::size_t(length), 4));
        if (uint32_t(crc32_z(crc32_z(0, nullptr, 0), checked, std::size_t(length) + 4)) != stored) {
            throw Error("wrong checksum of the chunk " + std::string(kind));
        }
        rest_.remove_prefix(kChunkOverhead + length);
        return {kind, data};
    }

    void read_header(const Chunk& chunk) {
        const std::string_view data = chunk.data;
        if (chunk.kind != "IHDR" || data.size() != 13) throw Error("expected an IHDR chunk of 13 bytes");
        const uint32_t width = integer(data.substr(0, 4)), height = integer(data.substr(4, 4));
        chunks_.depth = byte(data, 8);
        chunks_.colour = byte(data, 9);
        chunks_.interlaced = byte(data, 12) == 1;
        const int depth = chunks_.depth;
        const bool whole = depth == 8 || depth == 16, part = depth == 1 || depth == 2 || depth == 4;
        bool known = false;
        switch (chunks_.colour) {
            case 0:
                known = whole || part;
                break;
            case 3:
                known = depth == 8 || part;
                break;
            case 2:
            case 4:
            case 6:
                known = whole;
                break;
        }
        if (!known || width > kMaxLength || height > kMaxLength || byte(data, 10) != 0 ||
            byte(data, 11) != 0 || byte(data, 12) > 1) {
            throw Error("expected a valid IHDR chunk");
        }
        chunks_.width = width;
        chunks_.height = height;
        expected_ = pixel_bytes();
    }

    // Filter bytes and rows, of all passes.
    uint64_t pixel_bytes() const {
        static constexpr int kChannels[] = {1, 0, 3, 1, 2, 0, 4};
        const uint64_t bits = uint64_t(chunks_.depth) * uint64_t(kChannels[chunks_.colour]);
        const auto of_pass = [&](uint64_t width, uint64_t height) {
            return width == 0 ? 0 : height * (1 + (width * bits + 7) / 8);
        };
        const auto width = uint64_t(chunks_.width), height = uint64_t(chunks_.height);
        if (!chunks_.interlaced) return of_pass(width, height);
        struct Pass {
            uint64_t x, y, across, down;
        };
        static constexpr Pass kPasses[] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                           {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
        uint64_t bytes = 0;
        for (const Pass& pass : kPasses) {
            bytes += of_pass((width + pass.across - 1 - pass.x) / pass.across,
                             (height + pass.down - 1 - pass.y) / pass.down);
        }
        return bytes;
    }

    void take(const Chunk& chunk) {
        if (chunk.kind == "IDAT") return take_pixels(chunk.data);
        pixels_ended_ = pixels_begun_;
        // The first letter of what a decoder must know is a capital.
        const bool critical = std::isupper(static_cast<unsigned char>(chunk.kind[0])) != 0;
        if (critical && chunk.kind != "PLTE") refuse_place(chunk);
        take_once(chunk);
        if (chunk.kind == "PLTE") take_palette(chunk.data);
        if (chunk.kind == "tRNS") take_transparency(chunk.data);
        take_description(chunk);
        if (chunk.kind == "tEXt" || chunk.kind == "zTXt" || chunk.kind == "iTXt") take_text(chunk);
    }

    [[noreturn]] static void refuse_place(const Chunk& chunk) {
        throw Error("expected no chunk " + std::string(chunk.kind) + " here");
    }

    // Decoders take the first or the last of several, or none where they come too late.
    void take_once(const Chunk& chunk) {
        static constexpr std::string_view kBeforePixels[] = {"PLTE", "tRNS", "cICP", "iCCP",
                                                             "sRGB", "gAMA", "cHRM"};
        const bool before = std::find(std::begin(kBeforePixels), std::end(kBeforePixels), chunk.kind) !=
                            std::end(kBeforePixels);
        if (!before && chunk.kind != "eXIf" && chunk.kind != "acTL") return;
        const bool again = std::find(once_.begin(), once_.end(), chunk.kind) != once_.end();
        if (again || (before && pixels_begun_)) refuse_place(chunk);
        once_.push_back(chunk.kind);
    }

    void take_pixels(std::string_view data) {
        if (pixels_ended_) throw Error("expected the IDAT chunks in one row");
        if (chunks_.colour == 3 && palette_ == 0) throw Error("expected a PLTE chunk, got none");
        pixels_begun_ = true;
        if (inflater_.ended() && !data.empty()) refuse_length();
        inflater_.put(data, [&](std::string_view piece) {
            length_ += piece.size();
            if (length_ > expected_) refuse_length();
        });
        if (inflater_.left() != 0) refuse_length();
    }

    [[noreturn]] void refuse_length() const {
        throw Error("expected " + std::to_string(expected_) + " bytes of pixels and no more, got " +
                    (length_ == expected_ ? "others behind them or no end" : std::to_string(length_)));
    }

    void take_palette(std::string_view data) {
        if (std::find(once_.begin(), once_.end(), "tRNS") != once_.end()) {
            throw Error("expected a chunk PLTE before tRNS");
        }
        if (data.empty() || data.size() > 768 || data.size() % 3 != 0) {
            throw Error("expected a palette of 1 to 256 colours, got " + std::to_string(data.size()) +
                        " bytes");
        }
        palette_ = data.size() / 3;
    }

    void take_transparency(std::string_view data) {
        const int colour = chunks_.colour;
        if (colour == 4 || colour == 6) return;
        bool valid =
            colour == 3 ? !data.empty() && data.size() <= palette_ : data.size() == (colour == 0 ? 2 : 6);
        for (std::size_t i = 0; valid && colour != 3 && i < data.size(); i += 2) {
            valid = integer(data.substr(i, 2)) >> chunks_.depth == 0;
        }
        if (!valid) throw Error("tRNS out of range");
        chunks_.transparent = true;
    }

    void take_description(const Chunk& chunk) {
        const std::string_view data = chunk.data;
        const auto is = [&](std::string_view kind, std::size_t size) {
            if (chunk.kind != kind) return false;
            if (data.size() == size) return true;
            throw Error("expected a chunk " + std::string(kind) + " of " + std::to_string(size) +
                        " bytes, got " + std::to_string(data.size()));
        };
        if (chunk.kind == "iCCP") take_profile(data);
        if (chunk.kind == "eXIf") exif_ = data;
        srgb_ |= is("sRGB", 1);
        if (is("gAMA", 4)) gamma_ = integer(data);
        if (is("cICP", 4)) code_points_ = {byte(data, 0), byte(data, 1), byte(data, 2), byte(data, 3)};
        if (is("cHRM", 32)) {
            chromaticities_.emplace();
            for (std::size_t i = 0; i < 8; ++i) (*chromaticities_)[i] = integer(data.substr(4 * i, 4));
        }
        if (chunk.kind == "acTL" && data.size() >= 8 && !pixels_begun_) {
            const int64_t count = integer(data.substr(0, 4));
            animated_ = count > 0 && count <= 0x80000000;
            chunks_.frames = animated_ ? count : 1;
        }
        first_is_frame_ |= chunk.kind == "fcTL" && !pixels_begun_;
    }

    void take_profile(std::string_view data) {
        const std::optional<std::string_view> name = cut(data);
        std::optional<std::string> profile;
        if (name && !name->empty() && name->size() <= kMaxKeyword && !data.empty() && data[0] == 0) {
            profile = inflated(data.substr(1));
        }
        if (!profile) throw Error("the iCCP chunk is damaged");
        profile_ = *std::move(profile);
    }

    // Of several texts with one keyword, the last counts, and only that is inflated.
    void take_text(const Chunk& chunk) {
        std::string_view rest = chunk.data;
        const std::optional<std::string_view> keyword = cut(rest);
        if (keyword == "Raw profile type exif") exif_text_ = {chunk.kind, rest};
        if (keyword == "XML:com.adobe.xmp") xmp_text_ = {chunk.kind, rest};
    }

    // What follows a keyword, inflated where it is compressed; nothing where that fails.
    static std::optional<std::string> text_of(const Chunk& chunk) {
        std::string_view rest = chunk.data;
        bool compressed = chunk.kind == "zTXt";
        if (compressed) {
            rest.remove_prefix(std::min<std::size_t>(rest.size(), 1));  // the method, of which there is one
        } else if (chunk.kind == "iTXt") {
            compressed = !rest.empty() && rest[0] == 1;
            rest.remove_prefix(std::min<std::size_t>(rest.size(), 2));
            // Language and translated keyword.
            if (!cut(rest) || !cut(rest)) rest = {};
        }
        return compressed ? inflated(rest) : std::string(rest);
    }

    void read_texts() {
        chunks_.exif = std::move(exif_);
        if (!chunks_.exif && exif_text_) {
            if (const auto text = text_of(*exif_text_)) chunks_.exif = raw_profile(*text);
        }
        if (xmp_text_) chunks_.xmp = text_of(*xmp_text_).value_or("");
    }

    ColourDescription describe() {
        if (!profile_.empty()) return ColourDescription::of_profile(std::move(profile_));
        if (code_points_) return ColourDescription::of_code_points(*code_points_);
        if (srgb_) return {};
        return ColourDescription::of_primaries(gamma_, chromaticities_);
    }

    std::string_view rest_;
    PngChunks chunks_;
    Inflater inflater_;
    uint64_t expected_ = 0, length_ = 0;  // bytes of inflated pixels
    bool pixels_begun_ = false, pixels_ended_ = false;
    std::size_t palette_ = 0;  // its colours
    bool animated_ = false, first_is_frame_ = false, srgb_ = false;
    std::string profile_;
    std::optional<std::string> exif_;
    std::optional<Chunk> exif_text_, xmp_text_;
    std::vector<std::string_view> once_;  // kinds of which there is one
    std::optional<uint32_t> gamma_;
    std::optional<std::array<uint8_t, 4>> code_points_;
    std::optional<std::array<uint32_t, 8>> chromaticities_;
};

}  // namespace

PngChunks check_png(std::string_view data) { return Walk(data).run(); }

}  // namespace pe::gate
