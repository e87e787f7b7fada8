// Images of the caller as the tensors that exported metrics take.
#pragma once

#include <pe_runtime.h>

#include <array>
#include <cstdint>

namespace pe::capi {

using Background = std::array<uint8_t, 3>;

// Throws Error(PE_INVALID_ARGUMENT) that names the argument `name` for an image that no metric takes: no
// samples, no pixels or more than 2^30 of them, an unknown layout or sample.
void check_image(const pe_image& image, const char* name);

// Floating-point samples that are not in [0, 1] are refused, with the same error.
//
// to_planar: (3, height, width) RGB in [0, 1], samples / the largest value of their type.
// to_bytes: (height, width, 3) RGB; 16-bit samples are x / 257 and floating-point ones 255 x, to nearest.
//
// Alpha is composited before that, in the type of the samples, integers rounded to nearest.
void to_planar(const pe_image& image, const char* name, const Background& background, float* tensor);
void to_bytes(const pe_image& image, const char* name, const Background& background, uint8_t* tensor);

}  // namespace pe::capi
