#include "text.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cwchar>
#include <cwctype>
#include <iterator>
#include <system_error>

namespace pe::gate {
namespace {

constexpr char32_t kEscaped = 0xDC00;

// Length of the valid UTF-8 sequence at the start of `text`; 0: there is none.
int sequence(std::string_view text, char32_t& point) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = byte(0);
    const int length = first < 0x80   ? 1
                       : first < 0xC2 ? 0
                       : first < 0xE0 ? 2
                       : first < 0xF0 ? 3
                       : first < 0xF5 ? 4
                                      : 0;
    if (length == 0 || std::size_t(length) > text.size()) return 0;
    point = length == 1 ? first : first & (0x7F >> length);
    for (int i = 1; i < length; ++i) {
        if ((byte(i) & 0xC0) != 0x80) return 0;
        point = point << 6 | (byte(i) & 0x3F);
    }
    static constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = point >= 0xD800 && point < 0xE000;
    return point < kLeast[length] || surrogate || point > 0x10FFFF ? 0 : length;
}

// Characters that show nothing but change what is around them (Unicode's Cf, Zl, Zp), spaces other than the
// common one, and private ones: the C library calls most of them printable.
bool is_format(char32_t point) {
    static constexpr char32_t kRanges[][2] = {
        {0xA0, 0xA0},       {0xAD, 0xAD},       {0x600, 0x605},     {0x61C, 0x61C},     {0x6DD, 0x6DD},
        {0x70F, 0x70F},     {0x890, 0x891},     {0x8E2, 0x8E2},     {0x1680, 0x1680},   {0x180E, 0x180E},
        {0x2000, 0x200F},   {0x2028, 0x202F},   {0x205F, 0x206F},   {0x3000, 0x3000},   {0xD800, 0xF8FF},
        {0xFEFF, 0xFEFF},   {0xFFF9, 0xFFFB},   {0x110BD, 0x110BD}, {0x110CD, 0x110CD}, {0x13430, 0x1343F},
        {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0001, 0xE007F}, {0xF0000, 0x10FFFF}};
    return std::any_of(std::begin(kRanges), std::end(kRanges),
                       [&](const char32_t (&range)[2]) { return point >= range[0] && point <= range[1]; });
}

bool is_printable(char32_t point) {
    if (point < 0x7F) return point >= ' ';
    return !is_format(point) && std::iswprint(static_cast<wint_t>(point)) != 0;
}

}  // namespace

std::u32string code_points(std::string_view text) {
    std::u32string points;
    while (!text.empty()) {
        char32_t point = 0;
        const int length = sequence(text, point);
        points += length == 0 ? kEscaped + static_cast<unsigned char>(text.front()) : point;
        text.remove_prefix(length == 0 ? 1 : std::size_t(length));
    }
    return points;
}

std::string encode(char32_t point) {
    if (point < 0x80) return std::string(1, char(point));
    std::string text;
    const int length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static constexpr unsigned kMarks[] = {0, 0, 0xC0, 0xE0, 0xF0};
    text += char(kMarks[length] | point >> (6 * (length - 1)));
    for (int i = length - 2; i >= 0; --i) text += char(0x80 | (point >> (6 * i) & 0x3F));
    return text;
}

std::string escape(char32_t point) {
    switch (point) {
        case '\t':
            return "\\t";
        case '\n':
            return "\\n";
        case '\r':
            return "\\r";
    }
    char text[16];
    const char* format = point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x";
    std::snprintf(text, sizeof text, format, unsigned(point));
    return text;
}

std::string printable(std::string_view text) {
    std::string shown;
    for (const char32_t point : code_points(text))
        shown += is_printable(point) ? encode(point) : escape(point);
    return shown;
}

int columns(std::string_view text) {
    int total = 0;
    for (const char32_t point : code_points(text)) total += std::max(0, wcwidth(static_cast<wchar_t>(point)));
    return total;
}

std::string repr(double value) {
    char text[40];
    const auto written = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific);
    const std::string_view all(text, std::size_t(written.ptr - text));
    const std::size_t e = all.find('e');
    if (e == std::string_view::npos) return std::string(all);  // nan, inf
    int exponent = 0;
    std::from_chars(text + e + (text[e + 1] == '+' ? 2 : 1), written.ptr, exponent);
    if (exponent < -4 || exponent >= 16) return std::string(all);

    const bool negative = all.front() == '-';
    std::string digits;
    for (const char c : all.substr(negative, e - negative)) {
        if (c != '.') digits += c;
    }
    if (exponent < 0) {
        digits.insert(0, std::size_t(-exponent), '0');
        digits.insert(1, 1, '.');
    } else {
        const std::size_t whole = std::size_t(exponent) + 1;
        if (digits.size() < whole + 1) digits.resize(whole + 1, '0');
        digits.insert(whole, 1, '.');
    }
    return (negative ? "-" : "") + digits;
}

std::string general(double value, int digits) {
    char text[64];
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    return text;
}

std::string system_error(int error, std::string_view path) {
    return "[Errno " + std::to_string(error) + "] " + std::generic_category().message(error) + ": '" +
           std::string(path) + "'";
}

}  // namespace pe::gate
