// Whether bytes are UTF-8, as strictly as Python decodes it.
#pragma once

#include <cstdint>
#include <string_view>

namespace pe::capi {

// No overlong forms, no surrogates, nothing above U+10FFFF.
inline bool is_utf8(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        const auto byte = [&](std::size_t offset) {
            return offset < text.size() ? static_cast<unsigned char>(text[offset]) : 0u;
        };
        const unsigned first = byte(at);
        if (first < 0x80) {
            ++at;
            continue;
        }
        const std::size_t rest = first >= 0xC2 && first < 0xE0   ? 1
                                 : first >= 0xE0 && first < 0xF0 ? 2
                                 : first >= 0xF0 && first < 0xF5 ? 3
                                                                 : 0;
        if (rest == 0) return false;
        // The second byte says whether the form is overlong, a surrogate or too large.
        const unsigned least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
        const unsigned largest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
        if (byte(at + 1) < least || byte(at + 1) > largest) return false;
        for (std::size_t i = 2; i <= rest; ++i) {
            if (byte(at + i) < 0x80 || byte(at + i) > 0xBF) return false;
        }
        at += rest + 1;
    }
    return true;
}

}  // namespace pe::capi
