// Difference maps as pictures.
#pragma once

#include <cstdint>
#include <pe_runtime.hpp>
#include <string>
#include <vector>

namespace pe::gate {

// `values`, (height, width), at another size: bilinear; where that is smaller, each value is a mean.
std::vector<float> resize(const float* values, int64_t width, int64_t height, int64_t new_width,
                          int64_t new_height);

// Writes a map as a PNG in the viridis colours, at the size of the images it is about. `top` is the value
// shown in the last colour; 0 is shown in the first. Throws Error.
void write_map(const pe_runtime::Map& map, const std::string& path, int64_t width, int64_t height,
               double top);

}  // namespace pe::gate
