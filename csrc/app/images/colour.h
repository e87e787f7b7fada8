// What the samples of an image mean: its profile, or what else a file says of its colours.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pe::gate {

struct Image;

// One of: an ICC profile; code points of a PNG's cICP chunk; a gamma, primaries, or both; sRGB, where all is
// empty.
struct ColourDescription {
    std::string profile;
    std::optional<std::array<uint8_t, 4>> code_points;
    std::optional<uint32_t> gamma;                          // 100000 times that of the file
    std::optional<std::array<uint32_t, 8>> chromaticities;  // 100000 times: white, red, green, blue; x and y

    static ColourDescription of_profile(std::string profile);
    // sRGB where they say so.
    static ColourDescription of_code_points(const std::array<uint8_t, 4>& code_points);
    static ColourDescription of_primaries(std::optional<uint32_t> gamma,
                                          std::optional<std::array<uint32_t, 8>> chromaticities);

    bool operator==(const ColourDescription&) const = default;
    // Whether littlecms can bring it to sRGB, or it is that.
    bool is_convertible() const { return !code_points && !gamma && !chromaticities; }
    // "ICC profile", "sRGB", "gAMA 0.5 and cHRM", "cICP 9/16/0/1".
    std::string name() const;
};

// Brings images that are described differently to sRGB, and says so in `warnings`; with `stored`, only says
// that they differ. Throws Error where that cannot be done.
void match_colours(Image& reference, Image& candidate, bool stored, std::vector<std::string>& warnings);

}  // namespace pe::gate
