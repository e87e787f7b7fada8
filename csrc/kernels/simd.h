// One vector type per instruction set and element type, for the files that are compiled once per set.
//
// Only what the kernels use. Files that include this contain no function that another file could share:
// everything lives in namespace pe::PE_ISA, and nothing of the standard library that is not a builtin is
// called, so that no code for a newer machine can be linked into the path of an older one.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define PE_INLINE [[gnu::always_inline]] inline

namespace pe::PE_ISA {

template <typename T>
struct Vec;

#if defined(__AVX512F__)

template <>
struct Vec<float> {
    static constexpr int size = 16;
    __m512 v;
    PE_INLINE static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    PE_INLINE static Vec all(float x) { return {_mm512_set1_ps(x)}; }
    PE_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
};
PE_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm512_add_ps(a.v, b.v)}; }
PE_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm512_sub_ps(a.v, b.v)}; }
PE_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm512_mul_ps(a.v, b.v)}; }
PE_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm512_min_ps(a.v, b.v)}; }
PE_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm512_max_ps(a.v, b.v)}; }
PE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
PE_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) {
    return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
PE_INLINE bool any_greater(Vec<float> a, Vec<float> b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ) != 0;
}
PE_INLINE bool any_at_most(Vec<float> a, Vec<float> b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ) != 0;
}
// x - floor(x), 0 for infinities; p * 2^floor(x), 0 where that underflows.
PE_INLINE Vec<float> fraction(Vec<float> x) { return {_mm512_reduce_ps(x.v, 1)}; }
PE_INLINE Vec<float> scale(Vec<float> p, Vec<float> x) { return {_mm512_scalef_ps(p.v, x.v)}; }

template <>
struct Vec<double> {
    static constexpr int size = 8;
    __m512d v;
    PE_INLINE static Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
    PE_INLINE static Vec all(double x) { return {_mm512_set1_pd(x)}; }
    PE_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
};
PE_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm512_add_pd(a.v, b.v)}; }
PE_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm512_sub_pd(a.v, b.v)}; }
PE_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm512_mul_pd(a.v, b.v)}; }
PE_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm512_min_pd(a.v, b.v)}; }
PE_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm512_max_pd(a.v, b.v)}; }
PE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return {_mm512_fmadd_pd(a.v, b.v, c.v)};
}
PE_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return {_mm512_fnmadd_pd(a.v, b.v, c.v)};
}
PE_INLINE bool any_greater(Vec<double> a, Vec<double> b) {
    return _mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ) != 0;
}
PE_INLINE bool any_at_most(Vec<double> a, Vec<double> b) {
    return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ) != 0;
}
PE_INLINE Vec<double> fraction(Vec<double> x) { return {_mm512_reduce_pd(x.v, 1)}; }
PE_INLINE Vec<double> scale(Vec<double> p, Vec<double> x) { return {_mm512_scalef_pd(p.v, x.v)}; }

// Where value > best: best = value, arg = index.
PE_INLINE void raise(Vec<float> value, int32_t index, float* best, int32_t* arg) {
    const __mmask16 mask = _mm512_cmp_ps_mask(value.v, _mm512_loadu_ps(best), _CMP_GT_OQ);
    _mm512_mask_storeu_ps(best, mask, value.v);
    _mm512_mask_storeu_epi32(arg, mask, _mm512_set1_epi32(index));
}
PE_INLINE void raise(Vec<double> value, int32_t index, double* best, int32_t* arg) {
    const __mmask8 mask = _mm512_cmp_pd_mask(value.v, _mm512_loadu_pd(best), _CMP_GT_OQ);
    _mm512_mask_storeu_pd(best, mask, value.v);
    _mm256_mask_storeu_epi32(arg, mask, _mm256_set1_epi32(index));
}

// Rows of a tile whose sums fill the registers; of one over columns, which divides two vectors.
constexpr int kTileRows = 12;
constexpr int kColumnTile = 8;

#elif defined(__AVX2__)

template <>
struct Vec<float> {
    static constexpr int size = 8;
    __m256 v;
    PE_INLINE static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    PE_INLINE static Vec all(float x) { return {_mm256_set1_ps(x)}; }
    PE_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
};
PE_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm256_add_ps(a.v, b.v)}; }
PE_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm256_sub_ps(a.v, b.v)}; }
PE_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm256_mul_ps(a.v, b.v)}; }
PE_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm256_min_ps(a.v, b.v)}; }
PE_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm256_max_ps(a.v, b.v)}; }
PE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
PE_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) {
    return {_mm256_fnmadd_ps(a.v, b.v, c.v)};
}
PE_INLINE bool any_greater(Vec<float> a, Vec<float> b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)) != 0;
}
PE_INLINE bool any_at_most(Vec<float> a, Vec<float> b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)) != 0;
}
PE_INLINE Vec<float> fraction(Vec<float> x) {
    const __m256 bounded = _mm256_max_ps(x.v, _mm256_set1_ps(-200.0f));
    return {_mm256_sub_ps(bounded, _mm256_floor_ps(bounded))};
}
PE_INLINE Vec<float> scale(Vec<float> p, Vec<float> x) {
    // Below 2^-126 the exponent field would wrap; there the result is 0.
    const __m256 floor = _mm256_floor_ps(_mm256_max_ps(x.v, _mm256_set1_ps(-200.0f)));
    const __m256i bits =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(floor), _mm256_set1_epi32(127)), 23);
    const __m256 kept = _mm256_cmp_ps(floor, _mm256_set1_ps(-126.0f), _CMP_GE_OQ);
    return {_mm256_and_ps(kept, _mm256_mul_ps(p.v, _mm256_castsi256_ps(bits)))};
}

template <>
struct Vec<double> {
    static constexpr int size = 4;
    __m256d v;
    PE_INLINE static Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
    PE_INLINE static Vec all(double x) { return {_mm256_set1_pd(x)}; }
    PE_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
};
PE_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm256_add_pd(a.v, b.v)}; }
PE_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm256_sub_pd(a.v, b.v)}; }
PE_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm256_mul_pd(a.v, b.v)}; }
PE_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm256_min_pd(a.v, b.v)}; }
PE_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm256_max_pd(a.v, b.v)}; }
PE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return {_mm256_fmadd_pd(a.v, b.v, c.v)};
}
PE_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return {_mm256_fnmadd_pd(a.v, b.v, c.v)};
}
PE_INLINE bool any_greater(Vec<double> a, Vec<double> b) {
    return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)) != 0;
}
PE_INLINE bool any_at_most(Vec<double> a, Vec<double> b) {
    return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)) != 0;
}
PE_INLINE Vec<double> fraction(Vec<double> x) {
    const __m256d bounded = _mm256_max_pd(x.v, _mm256_set1_pd(-1100.0));
    return {_mm256_sub_pd(bounded, _mm256_floor_pd(bounded))};
}
PE_INLINE Vec<double> scale(Vec<double> p, Vec<double> x) {
    const __m256d floor = _mm256_floor_pd(_mm256_max_pd(x.v, _mm256_set1_pd(-1100.0)));
    const __m256i exponent = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(floor));
    const __m256i bits = _mm256_slli_epi64(_mm256_add_epi64(exponent, _mm256_set1_epi64x(1023)), 52);
    const __m256d kept = _mm256_cmp_pd(floor, _mm256_set1_pd(-1022.0), _CMP_GE_OQ);
    return {_mm256_and_pd(kept, _mm256_mul_pd(p.v, _mm256_castsi256_pd(bits)))};
}

constexpr int kTileRows = 6;
constexpr int kColumnTile = 4;

#else

// Sixteen bytes in the compiler's own vectors: SSE2, NEON, or whatever the target has.
template <typename T, typename I, int kSize>
struct Generic {
    static constexpr int size = kSize;
    typedef T V __attribute__((vector_size(16)));
    typedef I J __attribute__((vector_size(16)));
};

#define PE_GENERIC(T, I, N, LOW, BIAS, MANTISSA, MAGIC)                                     \
    template <>                                                                             \
    struct Vec<T> : Generic<T, I, N> {                                                      \
        V v;                                                                                \
        PE_INLINE Vec() = default;                                                          \
        PE_INLINE Vec(V value) : v(value) {}                                                \
        PE_INLINE static Vec load(const T* p) {                                             \
            V value;                                                                        \
            __builtin_memcpy(&value, p, sizeof value);                                      \
            return value;                                                                   \
        }                                                                                   \
        PE_INLINE static Vec all(T x) { return V{} + x; }                                   \
        PE_INLINE void store(T* p) const { __builtin_memcpy(p, &v, sizeof v); }             \
    };                                                                                      \
    PE_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return a.v + b.v; }                    \
    PE_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return a.v - b.v; }                    \
    PE_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return a.v * b.v; }                    \
    PE_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return a.v < b.v ? a.v : b.v; }              \
    PE_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return a.v > b.v ? a.v : b.v; }              \
    PE_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return a.v * b.v + c.v; }          \
    PE_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return c.v - a.v * b.v; }         \
    PE_INLINE bool any_greater(Vec<T> a, Vec<T> b) {                                        \
        const auto greater = a.v > b.v;                                                     \
        bool any = false;                                                                   \
        for (int lane = 0; lane < N; ++lane) any |= greater[lane] != 0;                     \
        return any;                                                                         \
    }                                                                                       \
    PE_INLINE bool any_at_most(Vec<T> a, Vec<T> b) {                                        \
        const auto at_most = a.v <= b.v;                                                    \
        bool any = false;                                                                   \
        for (int lane = 0; lane < N; ++lane) any |= at_most[lane] != 0;                     \
        return any;                                                                         \
    }                                                                                       \
    PE_INLINE Vec<T> floor(Vec<T> x) {                                                      \
        const Vec<T> bounded = max(x, Vec<T>::all(LOW));                                    \
        const auto nearest = (bounded.v + MAGIC) - MAGIC;                                   \
        return nearest > bounded.v ? nearest - 1 : nearest;                                 \
    }                                                                                       \
    PE_INLINE Vec<T> fraction(Vec<T> x) { return max(x, Vec<T>::all(LOW)).v - floor(x).v; } \
    PE_INLINE Vec<T> scale(Vec<T> p, Vec<T> x) {                                            \
        const auto whole = floor(x).v;                                                      \
        const auto bits = (__builtin_convertvector(whole, Vec<T>::J) + BIAS) << MANTISSA;   \
        return whole >= T(1 - BIAS) ? p.v * (Vec<T>::V)(bits) : Vec<T>::V{};                \
    }

PE_GENERIC(float, int32_t, 4, -200.0f, 127, 23, 12582912.0f)
PE_GENERIC(double, int64_t, 2, -1100.0, 1023, 52, 6755399441055744.0)
#undef PE_GENERIC

constexpr int kTileRows = 4;
constexpr int kColumnTile = 4;

#endif

#if !defined(__AVX512F__)
template <typename T>
PE_INLINE void raise(Vec<T> value, int32_t index, T* best, int32_t* arg) {
    T lanes[Vec<T>::size];
    value.store(lanes);
    for (int lane = 0; lane < Vec<T>::size; ++lane) {
        const bool higher = lanes[lane] > best[lane];
        best[lane] = higher ? lanes[lane] : best[lane];
        arg[lane] = higher ? index : arg[lane];
    }
}
#endif

template <typename T>
PE_INLINE T lowest(Vec<T> x) {
    T lanes[Vec<T>::size];
    x.store(lanes);
    T result = lanes[0];
    for (int lane = 1; lane < Vec<T>::size; ++lane) result = lanes[lane] < result ? lanes[lane] : result;
    return result;
}

template <typename T>
PE_INLINE double total(Vec<T> x) {
    T lanes[Vec<T>::size];
    x.store(lanes);
    double result = 0;
    for (int lane = 0; lane < Vec<T>::size; ++lane) result += double(lanes[lane]);
    return result;
}

}  // namespace pe::PE_ISA
