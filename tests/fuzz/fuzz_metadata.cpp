// The JSON that a metric carries, damaged: values in their ranges, or refused with a text.
#include <cmath>
#include <cstring>

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
