#include "json_text.h"

#include <cstdio>

#include "text.h"

namespace pe::gate {
namespace {

void append_escape(std::string& text, unsigned unit) {
    char escape[16];
    std::snprintf(escape, sizeof escape, "\\u%04x", unit);
    text += escape;
}

std::string quoted(const std::string& value) {
    std::string text = "\"";
    for (const char32_t point : code_points(value)) {
        switch (point) {
            case '"':
                text += "\\\"";
                continue;
            case '\\':
                text += "\\\\";
                continue;
            case '\b':
                text += "\\b";
                continue;
            case '\f':
                text += "\\f";
                continue;
            case '\n':
                text += "\\n";
                continue;
            case '\r':
                text += "\\r";
                continue;
            case '\t':
                text += "\\t";
                continue;
        }
        if (point >= ' ' && point <= '~') {
            text += char(point);
        } else if (point < 0x10000) {
            append_escape(text, unsigned(point));
        } else {
            append_escape(text, 0xD800 + unsigned((point - 0x10000) >> 10));
            append_escape(text, 0xDC00 + unsigned((point - 0x10000) & 0x3FF));
        }
    }
    return text + '"';
}

void append(std::string& text, const Json& value, int indent) {
    if (value.is_string()) {
        text += quoted(value.get_ref<const std::string&>());
    } else if (value.is_number_float()) {
        text += repr(value.get<double>());
    } else if (!value.is_structured() || value.empty()) {
        text += value.dump();
    } else {
        const bool object = value.is_object();
        text += object ? '{' : '[';
        const char* separator = "\n";
        for (const auto& [key, item] : value.items()) {
            text += separator + std::string(std::size_t(indent) + 2, ' ');
            if (object) text += quoted(key) + ": ";
            append(text, item, indent + 2);
            separator = ",\n";
        }
        text += '\n' + std::string(std::size_t(indent), ' ') + (object ? '}' : ']');
    }
}

}  // namespace

std::string json_text(const Json& value) {
    std::string text;
    append(text, value, 0);
    return text;
}

}  // namespace pe::gate
