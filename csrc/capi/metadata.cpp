#include "metadata.h"

#include <nlohmann/json.hpp>

#include "error.h"

namespace pe::capi {
namespace {

using Json = nlohmann::json;

constexpr int kFormat = 1;
// Objects of exported metrics are three levels deep.
constexpr int kMaxDepth = 100;

[[noreturn]] void refuse(const std::string& text) { throw Error(PE_INVALID_METRIC, text); }

Json parse(const std::string& text) {
    const auto shallow = [](int depth, Json::parse_event_t, Json&) {
        if (depth > kMaxDepth) refuse("metadata 'pe_runtime': expected JSON of fewer levels");
        return true;
    };
    try {
        return Json::parse(text, shallow);
    } catch (const Json::exception& error) {
        refuse(std::string("metadata 'pe_runtime': expected JSON: ") + error.what());
    }
}

std::string shown(const Json& value) { return value.dump(-1, ' ', true, Json::error_handler_t::replace); }

}  // namespace

Metadata parse_metadata(const std::string& text) {
    const Json json = parse(text);
    if (!json.is_object()) {
        refuse(std::string("metadata 'pe_runtime': expected a JSON object, got ") + json.type_name());
    }
    const auto get = [&](const char* key) { return json.contains(key) ? json[key] : Json(); };

    const Json format = get("format");
    if (format != kFormat) {
        refuse("metadata: expected format " + std::to_string(kFormat) + ", got " + shown(format));
    }
    Metadata metadata;
    metadata.text = text;
    const Json input = get("input");
    if (input == "float32") {
        metadata.input = PE_INPUT_FLOAT32;
    } else if (input == "uint8") {
        metadata.input = PE_INPUT_UINT8;
    } else {
        refuse("metadata: expected input 'float32' or 'uint8', got " + shown(input));
    }
    const Json min_size = get("min_size");
    if (!min_size.is_number_integer() || min_size < 1 || min_size > INT32_MAX) {
        refuse("metadata: expected min_size of at least 1, got " + shown(min_size));
    }
    metadata.min_size = min_size.get<int64_t>();
    const Json threshold = get("threshold");
    if (!threshold.is_null()) {
        // The parser refuses numbers that are too large for a double.
        if (!threshold.is_number() || threshold < 0) {
            refuse("metadata: expected threshold null or a finite number >= 0, got " + shown(threshold));
        }
        metadata.threshold = threshold.get<double>();
    }
    const Json kind = get("metric");
    if (kind.is_string()) metadata.kind = kind.get<std::string>();
    return metadata;
}

}  // namespace pe::capi
