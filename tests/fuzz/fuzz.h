// What the targets share. A property that does not hold ends the process, which libFuzzer reports with the
// input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#define REQUIRE(condition)                                                                \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                                 \
        }                                                                                 \
    } while (false)

namespace fuzz {

// Inputs that were taken and that were refused: a target that refuses everything tests little. Printed at the
// end.
class Counts {
  public:
    Counts() { std::atexit(print); }
    static inline unsigned long long taken = 0, refused = 0;

  private:
    static void print() {
        std::fprintf(stderr, "stat::inputs_taken: %llu\nstat::inputs_refused: %llu\n", taken, refused);
    }
};

inline std::string_view text_of(const uint8_t* data, std::size_t bytes) {
    return {reinterpret_cast<const char*>(data), bytes};
}

}  // namespace fuzz
