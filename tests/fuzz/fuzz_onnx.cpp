// What an ONNX file says of itself, on damaged files: read, or refused with a text.
#include "capi/error.h"
#include "capi/metadata.h"
#include "capi/onnx_file.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
    static const fuzz::Counts counts;
    try {
        const pe::capi::OnnxFile file = pe::capi::read_onnx(data, bytes);
        for (const std::string& text : file.metadata) pe::capi::parse_metadata(text);
        ++counts.taken;
    } catch (const pe::capi::Error& error) {
        REQUIRE(error.status() == PE_INVALID_METRIC && error.what()[0] != '\0');
        ++counts.refused;
    }
    return 0;
}
