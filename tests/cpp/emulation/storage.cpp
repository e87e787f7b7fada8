// Conversions of half precision, as the GPU makes them.
#include "cuda_language.h"

namespace pe::cuda {

float to_float(BFloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

BFloat16 to_bfloat16(float x) {
    const uint32_t bits = __float_as_uint(x);
    // The NaN that the GPU makes.
    return {x != x ? uint16_t(0x7fff) : uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

float to_float(Half x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16;
    const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
    const uint32_t exponent = magnitude & 0x0f800000u;
    if (exponent == 0x0f800000u) return __uint_as_float(sign | 0x70000000u | magnitude);
    // Subnormal: the subtraction of the implicit one normalises.
    if (exponent == 0) {
        const float value = __uint_as_float(0x38800000u | magnitude) - 0x1p-14f;
        return __uint_as_float(sign | __float_as_uint(value));
    }
    return __uint_as_float(sign | (magnitude + 0x38000000u));
}

Half to_half(float x) {
    const uint32_t sign = __float_as_uint(x) & 0x80000000u;
    const uint32_t magnitude = __float_as_uint(x) ^ sign;
    if (magnitude > 0x7f800000u) return {0x7fff};
    uint32_t half = 0x7c00;
    if (magnitude < 0x38800000u) {  // below 2^-14: the addition rounds to multiples of 2^-24
        half = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - __float_as_uint(0.5f);
    } else if (magnitude < 0x47800000u) {  // below 2^16
        half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
    }
    return {uint16_t(half | sign >> 16)};
}

}  // namespace pe::cuda
