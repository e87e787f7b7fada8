// 2^x in vectors. Included only by files that are compiled once per instruction set (see simd.h).
#pragma once

#include "simd.h"

namespace pe::PE_ISA {

// 2^f - 1 = f q(f) for f in [0, 1), q interpolating at Chebyshev nodes. Relative error of 1 + f q(f): 2.2e-7
// in float, whose own rounding is 6e-8; 9e-18 in double. Exact at 0.
template <typename T>
struct Exp2;
template <>
struct Exp2<float> {
    static constexpr float q[] = {0.693147567557960518f, 0.240207194190821291f, 0.0556570543860625511f,
                                  0.0091993875996943741f, 0.00178836874146400272f};
};
template <>
struct Exp2<double> {
    static constexpr double q[] = {0.693147180559945326,     0.240226506959096731,   0.0555041086649806687,
                                   0.00961812910515175647,   0.00133335583439372788, 0.000154035212191077331,
                                   0.0000152529988997284185, 1.32105834777651881e-6, 1.02360238032751793e-7,
                                   6.63444586625141402e-9,   6.12309291682638714e-10};
};

// 0 where 2^x underflows, -inf included.
template <typename T>
PE_INLINE Vec<T> exp2(Vec<T> x) {
    constexpr int kTerms = sizeof(Exp2<T>::q) / sizeof(T);
    const Vec<T> f = fraction(x);
    Vec<T> p = Vec<T>::all(Exp2<T>::q[kTerms - 1]);
#pragma GCC unroll 16
    for (int term = kTerms - 2; term >= 0; --term) p = fma(p, f, Vec<T>::all(Exp2<T>::q[term]));
    return scale(fma(p, f, Vec<T>::all(1)), x);
}

}  // namespace pe::PE_ISA
