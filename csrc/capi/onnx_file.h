// What an ONNX file says of itself, read without ONNX Runtime: which libraries it needs is asked before it is
// loaded, and weights in other files are refused before anything opens them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace pe::capi {

struct OnnxFile {
    std::vector<std::string> metadata;  // values of the metadata key "pe_runtime"
    bool has_graph = false;
    bool has_operators = false;      // it imports operators of the domain "pe_runtime"
    bool has_external_data = false;  // a tensor of it lies in another file
};

// Throws Error(PE_INVALID_METRIC) where the bytes are no protobuf message of ONNX's shape.
OnnxFile read_onnx(const void* data, std::size_t bytes);

}  // namespace pe::capi
