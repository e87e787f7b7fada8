// Half-precision formats by their definition, slow and independent of the kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace half {

struct Format {
    int mantissa;  // bits
    int bias;      // of the exponent; the largest exponent is of infinities and NaN

    int least() const { return 1 - bias; }
    uint16_t infinity() const { return uint16_t((2 * bias + 1) << mantissa); }
};

constexpr Format kFloat16{10, 15};
constexpr Format kBFloat16{7, 127};

inline double value(const Format& format, uint16_t bits) {
    const double sign = bits & 0x8000 ? -1 : 1;
    const int magnitude = bits & 0x7fff;
    if (magnitude > format.infinity()) return std::numeric_limits<double>::quiet_NaN();
    if (magnitude == format.infinity()) return sign * std::numeric_limits<double>::infinity();
    const int exponent = magnitude >> format.mantissa;
    const int digits = magnitude & ((1 << format.mantissa) - 1);
    if (exponent == 0) return sign * std::ldexp(digits, format.least() - format.mantissa);
    const int one = 1 << format.mantissa;
    return sign * std::ldexp(one + digits, exponent - format.bias - format.mantissa);
}

// To nearest, ties to even. Of a NaN, some NaN.
inline uint16_t bits(const Format& format, double x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return uint16_t(format.infinity() + 1);
    if (std::isinf(x)) return uint16_t(sign | format.infinity());
    if (x == 0) return sign;
    int exponent = std::max(std::ilogb(x), format.least());
    // Counted in units of the last digit: from 2^mantissa to 2^(mantissa + 1), less if subnormal.
    const int units = int(std::nearbyint(std::ldexp(std::abs(x), format.mantissa - exponent)));
    // The carry into the next exponent, and from the largest number to infinity, is that of the bits.
    const int encoded = ((exponent - format.least()) << format.mantissa) + units;
    return uint16_t(sign | std::min(encoded, int(format.infinity())));
}

}  // namespace half
