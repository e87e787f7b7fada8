// What the tests of the C interface share.
#pragma once

#include <pe_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../check.h"
#include "onnx_writer.h"

// Opens a model, which must succeed.
inline pe_metric* open_model(const onnx_writer::Model& model, const pe_metric_options* options = nullptr) {
    const std::string bytes = onnx_writer::write(model);
    pe_metric* metric = nullptr;
    if (pe_metric_open_memory(bytes.data(), bytes.size(), options, &metric) != PE_OK) {
        check::fail(__FILE__, __LINE__, pe_error_text(nullptr));
    }
    return metric;
}

inline void check_contains(const char* file, int line, const std::string& text, const std::string& part) {
    if (text.find(part) == std::string::npos) {
        check::fail(file, line, "expected a text with \"" + part + "\", got \"" + text + "\"");
    }
}

#define CHECK_TEXT(text, part) check_contains(__FILE__, __LINE__, text, part)

// A value that a program in C may set, though the enumeration has no such one.
template <class Enumeration>
void set_number(Enumeration& value, int number) {
    static_assert(sizeof value == sizeof number);
    std::memcpy(&value, &number, sizeof number);
}

template <class T>
pe_image image_of(const std::vector<T>& samples, int64_t width, int64_t height, pe_layout layout = PE_RGB) {
    pe_image image = PE_IMAGE_INIT;
    image.samples = samples.data();
    image.width = width;
    image.height = height;
    image.layout = layout;
    image.sample = sizeof(T) == 1 ? PE_UINT8 : sizeof(T) == 2 ? PE_UINT16 : PE_FLOAT32;
    return image;
}

// Numbers that differ from their neighbours, below `limit`.
template <class T>
std::vector<T> samples(std::size_t count, uint32_t seed, uint32_t limit) {
    std::vector<T> values(count);
    for (T& value : values) {
        seed = seed * 1664525 + 1013904223;
        value = T((seed >> 8) % limit);
    }
    return values;
}
