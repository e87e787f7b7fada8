// Checks of arguments that adapters share. Every error begins with the argument's name and says what was
// expected.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "contextual.h"

namespace pe {

struct ArgumentError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <typename... Parts>
void check(bool fine, const Parts&... parts) {
    if (fine) return;
    std::ostringstream message;
    (message << ... << parts);
    throw ArgumentError(message.str());
}

// The index of value among the choices of an argument.
int choose(const std::string& value, const char* name, std::initializer_list<const char*> choices);

using Shape = std::vector<int64_t>;

std::string shape_text(const Shape& shape);

// Refuses anything but (B, C, H, W) that is not empty.
void check_features(const Shape& shape, const char* name);

// Refuses two feature maps of different batch or channels, or, with same_size, of different size.
void check_pair(const Shape& first, const Shape& second, const char* first_name, const char* second_name,
                bool same_size);

// Refuses channels that are not among the `available` of the features, and those named twice.
void check_channels(const int64_t* indices, int64_t count, int64_t available);

// The numbers among the settings of the contextual loss.
void check_numbers(const ContextualProblem& problem);

}  // namespace pe
