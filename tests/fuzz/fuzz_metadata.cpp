// The JSON that a metric carries, damaged: values in their ranges, or refused with a text.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "capi/error.h"
#include "capi/metadata.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
    static const fuzz::Counts counts;
    try {
        const std::string text(fuzz::text_of(data, bytes));
        const pe::capi::Metadata metadata = pe::capi::parse_metadata(text);
        REQUIRE(metadata.text == text);
        REQUIRE(metadata.input == PE_INPUT_FLOAT32 || metadata.input == PE_INPUT_UINT8);
        REQUIRE(metadata.min_size >= 1 && metadata.min_size <= INT32_MAX);
        REQUIRE(!metadata.threshold || (*metadata.threshold >= 0 && std::isfinite(*metadata.threshold)));
        ++counts.taken;
    } catch (const pe::capi::Error& error) {
        REQUIRE(error.status() == PE_INVALID_METRIC && error.what()[0] != '\0');
        // The texts of errors are one line.
        REQUIRE(std::strpbrk(error.what(), "\r\n") == nullptr);
        ++counts.refused;
    }
    return 0;
}

extern "C" std::size_t LLVMFuzzerMutate(uint8_t* data, std::size_t bytes, std::size_t limit);

// Half of the time values that are none of their key's: few other changes leave a JSON object.
extern "C" std::size_t LLVMFuzzerCustomMutator(uint8_t* data, std::size_t bytes, std::size_t limit,
                                               unsigned seed) {
    using Json = nlohmann::json;
    static const Json values = {
        nullptr,    true, 0,      1,         2,       -1, 0.5,       1e308,         2147483647,    2147483648,
        UINT64_MAX, -0.0, 5e-324, "float32", "uint8", "", "a\n", Json::array(), Json::object()};
    static const char* const keys[] = {"format", "input", "min_size", "threshold", "metric", "pe_runtime"};
    std::minstd_rand random(seed);
    if (random() % 2 == 0) return LLVMFuzzerMutate(data, bytes, limit);
    Json json = Json::parse(fuzz::text_of(data, bytes), nullptr, false);
    if (!json.is_object()) json = {{"format", 1}, {"input", "uint8"}, {"min_size", 1}};
    const char* key = keys[random() % std::size(keys)];
    if (random() % 8 == 0) {
        json.erase(key);
    } else {
        json[key] = values[random() % values.size()];
    }
    const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::ignore);
    const std::size_t size = std::min(limit, text.size());
    std::memcpy(data, text.data(), size);
    return size;
}
