// The checks of the tests: a failed one prints what it expected and ends the test with exit status 1.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#define CHECK(condition)                                                           \
    do {                                                                           \
        if (!(condition)) check::fail(__FILE__, __LINE__, "expected " #condition); \
    } while (false)

// |actual - expected| <= tolerance. NaN is close to nothing.
#define CHECK_CLOSE(actual, expected, tolerance) \
    check::close(__FILE__, __LINE__, #actual, double(actual), double(expected), double(tolerance))

// The same relative to the expected value.
#define CHECK_RELATIVE(actual, expected, tolerance)                             \
    check::close(__FILE__, __LINE__, #actual, double(actual), double(expected), \
                 double(tolerance) * std::abs(double(expected)))

namespace check {

[[noreturn]] inline void fail(const char* file, int line, const std::string& message) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
    std::exit(1);
}

inline void close(const char* file, int line, const char* what, double actual, double expected,
                  double tolerance) {
    if (std::abs(actual - expected) <= tolerance) return;
    char message[256];
    std::snprintf(message, sizeof message, "%.120s: expected %.17g within %g, got %.17g", what, expected,
                  tolerance, actual);
    fail(file, line, message);
}

}  // namespace check
