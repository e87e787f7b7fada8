// Numbers and file names as Python writes them, so that reports are those of `pe-runtime gate`.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace pe::gate {

// What stops the gate: shown as "Error: ...", with exit code 2.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Code points of UTF-8. A byte that is none of it becomes U+DC00 + byte, which no text has.
std::u32string code_points(std::string_view text);

// The UTF-8 of a code point.
std::string encode(char32_t point);

// The code point written out, such as "\x1b" or "\u202e".
std::string escape(char32_t point);

// Text with what a terminal cannot show, or would obey, written as escapes: file names may hold anything.
std::string printable(std::string_view text);

// Columns of a terminal that printable text takes.
int columns(std::string_view text);

// The shortest decimal that stands for the number, as Python's repr: "0.25", "1e-05", "3.0".
std::string repr(double value);

// %g with so many digits.
std::string general(double value, int digits = 6);

// "[Errno 2] No such file or directory: 'path'".
std::string system_error(int error, std::string_view path);

}  // namespace pe::gate
