// JSON as Python's json.dumps(indent=2) writes it, byte for byte.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace pe::gate {

using Json = nlohmann::ordered_json;

// The text, ASCII only, without a final newline. Strings may hold bytes that are not UTF-8.
std::string json_text(const Json& value);

}  // namespace pe::gate
