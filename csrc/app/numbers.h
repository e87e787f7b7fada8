// Numbers of the command line.
#pragma once

#include <optional>
#include <string>

namespace pe::gate {

// A finite number of the decimal spelling [+]digits[.digits][e[+-]digits], in which Python and C agree;
// nothing for any other text, such as "-1", "1_000", "0x1", "inf" or one with spaces.
std::optional<double> parse_number(const std::string& text);

}  // namespace pe::gate
