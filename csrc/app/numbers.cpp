#include "numbers.h"

#include <cmath>
#include <cstdlib>
#include <string_view>

namespace pe::gate {
namespace {

// Removes digits from the start; how many.
std::size_t skip_digits(std::string_view& text) {
    std::size_t count = 0;
    while (count < text.size() && text[count] >= '0' && text[count] <= '9') ++count;
    text.remove_prefix(count);
    return count;
}

bool skip_one_of(std::string_view& text, std::string_view signs) {
    const bool there = !text.empty() && signs.find(text.front()) != std::string_view::npos;
    text.remove_prefix(there ? 1 : 0);
    return there;
}

bool is_number(std::string_view text) {
    skip_one_of(text, "+");
    std::size_t digits = skip_digits(text);
    if (skip_one_of(text, ".")) digits += skip_digits(text);
    if (digits == 0) return false;
    if (skip_one_of(text, "eE")) {
        skip_one_of(text, "+-");
        if (skip_digits(text) == 0) return false;
    }
    return text.empty();
}

}  // namespace

std::optional<double> parse_number(const std::string& text) {
    // A zero byte would end the text for strtod.
    if (!is_number(text)) return std::nullopt;
    const double value = std::strtod(text.c_str(), nullptr);
    return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

}  // namespace pe::gate
