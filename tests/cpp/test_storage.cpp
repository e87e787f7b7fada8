// Conversions between storage and arithmetic, against the formats' definitions: every half-precision number,
// and every boundary of rounding. Files that are compiled with the flags of another instruction set include
// this one.
#ifndef PE_ISA
#define PE_ISA baseline
#endif

#include <cstring>
#include <vector>

#include "check.h"
#include "common.h"
#include "half.h"
#include "storage.h"

namespace {

using namespace pe::PE_ISA;

template <typename S>
const half::Format kFormat = half::kFloat16;
template <>
const half::Format kFormat<BFloat16> = half::kBFloat16;

bool same(double a, double b) {
    return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

template <typename T, typename S>
void check_vector_read(const S* p) {
    constexpr int kSize = Vec<T>::size;
    T lanes[kSize];
    read<T>(p).store(lanes);
    for (int lane = 0; lane < kSize; ++lane) CHECK(same(lanes[lane], double(load(p + lane))));
    for (int count = 0; count <= kSize; ++count) {
        // Exactly as long as what may be read, so that the address sanitizer sees more.
        const std::vector<S> part(p, p + count);
        read<T>(part.data(), count).store(lanes);
        for (int lane = 0; lane < kSize; ++lane) {
            CHECK(same(lanes[lane], lane < count ? double(load(p + lane)) : 0.0));
        }
    }
}

template <typename T, typename S>
void check_vector_write(const T* p) {
    constexpr int kSize = Vec<T>::size;
    const Vec<T> x = Vec<T>::load(p);
    std::vector<S> expected(kSize), written(kSize);
    for (int lane = 0; lane < kSize; ++lane) store(p[lane], &expected[lane]);
    write(x, written.data());
    for (int lane = 0; lane < kSize; ++lane) CHECK(same(load(&written[lane]), load(&expected[lane])));
    for (int count = 0; count <= kSize; ++count) {
        std::vector<S> part(count);
        write(x, part.data(), count);
        for (int lane = 0; lane < count; ++lane) CHECK(same(load(&part[lane]), load(&expected[lane])));
    }
}

template <typename S>
void check_half() {
    const half::Format& format = kFormat<S>;
    std::vector<S> all(1 << 16);
    std::vector<float> values;
    for (int bits = 0; bits < 1 << 16; ++bits) {
        all[bits].bits = uint16_t(bits);
        const double expected = half::value(format, uint16_t(bits));
        CHECK(same(load(&all[bits]), expected));
        S back;
        store(float(expected), &back);
        CHECK(std::isnan(expected) ? std::isnan(load(&back)) : back.bits == bits);
        // Up to the next one: the middle, and the numbers beside both.
        if (!std::isfinite(expected)) continue;
        const double next = half::value(format, uint16_t(bits + 1));
        const double step = std::ldexp(1, std::max(std::ilogb(expected), format.least()) - format.mantissa);
        const double above = std::isfinite(next) ? next : expected + std::copysign(step, expected);
        const float middle = float((expected + above) / 2);
        for (const float x :
             {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 2 * middle),
              std::nextafter(float(expected), middle), std::nextafter(float(expected), 0.0f)}) {
            values.push_back(x);
        }
    }
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float x :
         {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), 3e38f, -3e38f, 1e-45f}) {
        for (int copy = 0; copy < 16; ++copy) values.push_back(x);
    }
    for (const float x : values) {
        S stored;
        store(x, &stored);
        CHECK(same(load(&stored), half::value(format, half::bits(format, x))));
    }
    for (size_t i = 0; i + 16 <= all.size(); i += 16) {
        check_vector_read<float>(&all[i]);
        check_vector_read<double>(&all[i]);
    }
    for (size_t i = 0; i + 16 <= values.size(); i += 16) check_vector_write<float, S>(&values[i]);
}

template <typename S>
void check_full() {
    std::vector<S> values;
    for (int i = 0; i < 64; ++i) values.push_back(S(std::ldexp(1 + i / S(7), 2 * i - 60)) * (i % 2 ? 1 : -1));
    for (size_t i = 0; i + 16 <= values.size(); ++i) {
        check_vector_read<S>(&values[i]);
        check_vector_read<double>(&values[i]);
        check_vector_write<S, S>(&values[i]);
        check_vector_write<S, float>(&values[i]);
    }
}

// Not part of main, whose first instructions would be of a set that the machine may not have.
[[gnu::noinline]] void check_all() {
    check_half<Half>();
    check_half<BFloat16>();
    check_full<float>();
    check_full<double>();
}

}  // namespace

#define PE_TEXT(x) #x
#define PE_NAME(x) PE_TEXT(x)

int main() {
    if (!pe::set_instruction_set(PE_NAME(PE_ISA))) {
        std::printf("skipped: this machine has no " PE_NAME(PE_ISA) "\n");
        return 0;
    }
    check_all();
    return 0;
}
