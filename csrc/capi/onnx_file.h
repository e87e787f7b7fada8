// What an ONNX file says of itself, read without ONNX Runtime: which libraries it needs is asked before it is
// loaded, and weights in other files are refused before anything opens them.
//
// Readers of protobuf skip what they do not know, let the last of two values win and cut integers to size,
// each in its own way, so that what one of them takes for harmless another may follow to a file. Here
// everything is refused that two readers could read in two ways. pe_runtime/gate/onnx_file.py does the same
// in the same words.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace pe::capi {

struct OnnxFile {
    std::vector<std::string> metadata;  // values of the metadata key "pe_runtime"
    bool has_operators = false;         // it imports operators of the domain "pe_runtime"
};

// Throws Error(PE_INVALID_METRIC) where the bytes are no message of ONNX's shape, or refer to another file.
OnnxFile read_onnx(const void* data, std::size_t bytes);

}  // namespace pe::capi
