// Colours by name.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace pe::gate {

using Colour = std::array<uint8_t, 3>;

// 8-bit RGB of a CSS name, "#rgb" or "#rrggbb". Throws Error.
Colour parse_colour(const std::string& text);

// Of a value in [0, 1], the map's colours: dark violet is 0, yellow 1.
Colour viridis(float value);

}  // namespace pe::gate
