#include "metadata.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "error.h"
#include "utf8.h"

namespace pe::capi {
namespace {

using Json = nlohmann::json;

constexpr int kFormat = 1;
constexpr std::size_t kMaxBytes = std::size_t(1) << 20;
// Objects and lists inside each other; exported files have four levels.
constexpr std::size_t kMaxDepth = 32;

[[noreturn]] void refuse(const std::string& text) { throw Error(PE_INVALID_METRIC, text); }

[[noreturn]] void refuse_text(const std::string& why) {
    refuse("metadata 'pe_runtime': expected valid metadata: " + why);
}

void check_no_nul(const std::string& text) {
    if (text.find('\0') != std::string::npos) refuse_text("expected no NUL");
}

// Refuses what two readers could read in two ways, while the parser goes on. nlohmann's parser itself refuses
// half a surrogate pair, numbers that no double holds, and NaN.
class Rule {
  public:
    bool operator()(int, Json::parse_event_t event, const Json& value) {
        switch (event) {
            case Json::parse_event_t::object_start:
            case Json::parse_event_t::array_start:
                keys_.emplace_back();
                if (keys_.size() > kMaxDepth) {
                    refuse_text("expected JSON of at most " + std::to_string(kMaxDepth) + " levels");
                }
                break;
            case Json::parse_event_t::object_end:
            case Json::parse_event_t::array_end:
                keys_.pop_back();
                break;
            case Json::parse_event_t::key:
                check_no_nul(value.get_ref<const std::string&>());
                if (!keys_.back().insert(value.get<std::string>()).second) {
                    refuse_text("expected each key of an object once");
                }
                break;
            case Json::parse_event_t::value:
                if (value.is_string()) check_no_nul(value.get_ref<const std::string&>());
                break;
        }
        return true;
    }

  private:
    std::vector<std::set<std::string>> keys_;  // of each object around
};

Json parse(const std::string& text) {
    if (text.size() > kMaxBytes) {
        refuse_text("expected at most " + std::to_string(kMaxBytes) + " bytes, got " +
                    std::to_string(text.size()));
    }
    if (!is_utf8(text)) refuse_text("expected UTF-8");
    // The parser would skip the one, and take the other for the end.
    if (text.compare(0, 3, "\xEF\xBB\xBF") == 0) refuse_text("expected no byte order mark");
    check_no_nul(text);
    Rule rule;
    try {
        return Json::parse(text, std::ref(rule));
    } catch (const Json::out_of_range&) {
        refuse_text("expected JSON: a number that no float64 holds");
    } catch (const Json::parse_error& error) {
        // Its own text quotes what it has read, which may end within a character.
        refuse_text("expected JSON: wrong at byte " + std::to_string(error.byte));
    }
}

std::string shown(const Json& value) { return value.dump(-1, ' ', true, Json::error_handler_t::replace); }

}  // namespace

Metadata parse_metadata(const std::string& text) {
    const Json json = parse(text);
    if (!json.is_object()) {
        refuse_text(std::string("expected a JSON object, got ") + json.type_name());
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
        // The parser has refused numbers that are too large for a double.
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
