// Elements as they are stored, in vectors as they are computed with: conversions at every load and store.
//
// Rounding is to nearest, ties to even; subnormals are kept; a NaN stays a NaN. Included only by files that
// are compiled once per instruction set (see simd.h).
#pragma once

#include "simd.h"

namespace pe::PE_ISA {

// Half precision has no type of its own in C++20.
struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

template <typename S>
struct ArithmeticOf {
    using type = float;
};
template <>
struct ArithmeticOf<double> {
    using type = double;
};
template <typename S>
struct ArithmeticOf<const S> : ArithmeticOf<S> {};
// What elements stored as S are computed in.
template <typename S>
using Arithmetic = typename ArithmeticOf<S>::type;

PE_INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

PE_INLINE float float_of(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

PE_INLINE float load(const float* p) { return *p; }
PE_INLINE double load(const double* p) { return *p; }
PE_INLINE float load(const BFloat16* p) { return float_of(uint32_t{p->bits} << 16); }
PE_INLINE float load(const Half* p) {
#if defined(__F16C__)
    return _cvtsh_ss(p->bits);
#else
    const uint32_t sign = (p->bits & 0x8000u) << 16;
    const uint32_t magnitude = (p->bits & 0x7fffu) << 13;
    const uint32_t exponent = magnitude & 0x0f800000u;
    if (exponent == 0x0f800000u) return float_of(sign | 0x70000000u | magnitude);
    // Subnormal: let the subtraction of the implicit one normalise.
    if (exponent == 0) return float_of(sign | bits_of(float_of(0x38800000u | magnitude) - 0x1p-14f));
    return float_of(sign | (magnitude + 0x38000000u));
#endif
}

PE_INLINE void store(float x, float* p) { *p = x; }
PE_INLINE void store(double x, double* p) { *p = x; }
PE_INLINE void store(double x, float* p) { *p = float(x); }
PE_INLINE void store(float x, BFloat16* p) {
    const uint32_t bits = bits_of(x);
    p->bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
PE_INLINE void store(float x, Half* p) {
#if defined(__F16C__)
    p->bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    const uint32_t sign = bits_of(x) & 0x80000000u;
    const uint32_t magnitude = bits_of(x) ^ sign;
    uint32_t half;
    if (magnitude >= 0x47800000u) {  // 2^16 and above
        half = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    } else if (magnitude < 0x38800000u) {  // below 2^-14: the addition rounds to multiples of 2^-24
        half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    } else {
        half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
    }
    p->bits = uint16_t(half | sign >> 16);
#endif
}

// Any storage in any set, lane by lane. The overloads below are what is faster.
template <typename T, typename S>
PE_INLINE void read_into(const S* p, Vec<T>& x) {
    T lanes[Vec<T>::size];
    for (int lane = 0; lane < Vec<T>::size; ++lane) lanes[lane] = T(load(p + lane));
    x = Vec<T>::load(lanes);
}
template <typename T, typename S>
PE_INLINE void read_into(const S* p, int count, Vec<T>& x) {
    T lanes[Vec<T>::size] = {};
    for (int lane = 0; lane < count; ++lane) lanes[lane] = T(load(p + lane));
    x = Vec<T>::load(lanes);
}
template <typename T, typename S>
PE_INLINE void write(Vec<T> x, S* p) {
    T lanes[Vec<T>::size];
    x.store(lanes);
    for (int lane = 0; lane < Vec<T>::size; ++lane) store(lanes[lane], p + lane);
}
template <typename T, typename S>
PE_INLINE void write(Vec<T> x, S* p, int count) {
    T lanes[Vec<T>::size];
    x.store(lanes);
    for (int lane = 0; lane < count; ++lane) store(lanes[lane], p + lane);
}

PE_INLINE void read_into(const float* p, Vec<float>& x) { x = Vec<float>::load(p); }
PE_INLINE void read_into(const double* p, Vec<double>& x) { x = Vec<double>::load(p); }
PE_INLINE void write(Vec<float> x, float* p) { x.store(p); }
PE_INLINE void write(Vec<double> x, double* p) { x.store(p); }

#if defined(__AVX512F__)

PE_INLINE __mmask16 first_lanes(int count) { return __mmask16((1u << count) - 1); }
PE_INLINE __m512 widen(Half, __m256i x) { return _mm512_cvtph_ps(x); }
PE_INLINE __m512 widen(BFloat16, __m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
PE_INLINE __m512d widen(Half, __m128i x) { return _mm512_cvtps_pd(_mm256_cvtph_ps(x)); }
PE_INLINE __m512d widen(BFloat16, __m128i x) {
    return _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)));
}
PE_INLINE __m256i narrow(Half, __m512 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
PE_INLINE __m256i narrow(BFloat16, __m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half_unit = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half_unit), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0)));
}

PE_INLINE void read_into(const float* p, Vec<double>& x) { x = {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
PE_INLINE void read_into(const float* p, int count, Vec<float>& x) {
    x = {_mm512_maskz_loadu_ps(first_lanes(count), p)};
}
PE_INLINE void read_into(const double* p, int count, Vec<double>& x) {
    x = {_mm512_maskz_loadu_pd(__mmask8(first_lanes(count)), p)};
}
PE_INLINE void write(Vec<float> x, float* p, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), x.v); }
PE_INLINE void write(Vec<double> x, double* p, int count) {
    _mm512_mask_storeu_pd(p, __mmask8(first_lanes(count)), x.v);
}

#define PE_HALVES(S)                                                               \
    PE_INLINE void read_into(const S* p, Vec<float>& x) {                          \
        x = {widen(S{}, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; \
    }                                                                              \
    PE_INLINE void read_into(const S* p, Vec<double>& x) {                         \
        x = {widen(S{}, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};    \
    }                                                                              \
    PE_INLINE void read_into(const S* p, int count, Vec<float>& x) {               \
        x = {widen(S{}, _mm256_maskz_loadu_epi16(first_lanes(count), p))};         \
    }                                                                              \
    PE_INLINE void write(Vec<float> x, S* p) {                                     \
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(S{}, x.v));      \
    }                                                                              \
    PE_INLINE void write(Vec<float> x, S* p, int count) {                          \
        _mm256_mask_storeu_epi16(p, first_lanes(count), narrow(S{}, x.v));         \
    }

PE_HALVES(Half)
PE_HALVES(BFloat16)
#undef PE_HALVES

#elif defined(__AVX2__)

PE_INLINE __m256i first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
PE_INLINE __m256i first_wide_lanes(int count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}
PE_INLINE __m256 widen(Half, __m128i x) { return _mm256_cvtph_ps(x); }
PE_INLINE __m256 widen(BFloat16, __m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
PE_INLINE __m128 widen_four(Half, __m128i x) { return _mm_cvtph_ps(x); }
PE_INLINE __m128 widen_four(BFloat16, __m128i x) {
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(x), 16));
}
PE_INLINE __m128i narrow(Half, __m256 x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
PE_INLINE __m128i narrow(BFloat16, __m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i half_unit = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half_unit), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i kept = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
}

PE_INLINE void read_into(const float* p, Vec<double>& x) { x = {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
PE_INLINE void read_into(const float* p, int count, Vec<float>& x) {
    x = {_mm256_maskload_ps(p, first_lanes(count))};
}
PE_INLINE void read_into(const double* p, int count, Vec<double>& x) {
    x = {_mm256_maskload_pd(p, first_wide_lanes(count))};
}
PE_INLINE void write(Vec<float> x, float* p, int count) { _mm256_maskstore_ps(p, first_lanes(count), x.v); }
PE_INLINE void write(Vec<double> x, double* p, int count) {
    _mm256_maskstore_pd(p, first_wide_lanes(count), x.v);
}

#define PE_HALVES(S)                                                                                  \
    PE_INLINE void read_into(const S* p, Vec<float>& x) {                                             \
        x = {widen(S{}, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};                       \
    }                                                                                                 \
    PE_INLINE void read_into(const S* p, Vec<double>& x) {                                            \
        x = {_mm256_cvtps_pd(widen_four(S{}, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))}; \
    }                                                                                                 \
    PE_INLINE void write(Vec<float> x, S* p) {                                                        \
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(S{}, x.v));                            \
    }

PE_HALVES(Half)
PE_HALVES(BFloat16)
#undef PE_HALVES

#endif

// Vec<T>::size contiguous elements; or the first `count` of them, and 0 for the others. Their opposites:
// write(x, p) and write(x, p, count).
template <typename T, typename S>
PE_INLINE Vec<T> read(const S* p) {
    Vec<T> x;
    read_into(p, x);
    return x;
}
template <typename T, typename S>
PE_INLINE Vec<T> read(const S* p, int count) {
    Vec<T> x;
    read_into(p, count, x);
    return x;
}

}  // namespace pe::PE_ISA
