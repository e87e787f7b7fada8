#include "onnx_file.h"

#include <cstdint>
#include <cstring>
#include <string_view>

#include "error.h"

namespace pe::capi {
namespace {

// Field numbers of onnx.proto, which never change.
namespace model {
constexpr uint64_t kGraph = 7, kOpsetImport = 8, kMetadata = 14, kFunctions = 25;
}
namespace graph {
constexpr uint64_t kNode = 1, kInitializer = 5, kSparseInitializer = 15;
}
namespace node {
constexpr uint64_t kAttribute = 5;
}
namespace attribute {
constexpr uint64_t kTensor = 5, kGraph = 6, kTensors = 10, kGraphs = 11, kSparseTensor = 22,
                   kSparseTensors = 23;
}
namespace sparse {
constexpr uint64_t kValues = 1, kIndices = 2;
}
namespace tensor {
constexpr uint64_t kDataLocation = 14, kExternal = 1;
}
namespace function {
constexpr uint64_t kNode = 7, kOpsetImport = 9;
}
namespace opset {
constexpr uint64_t kDomain = 1;
}
namespace entry {
constexpr uint64_t kKey = 1, kValue = 2;
}

constexpr std::string_view kName = "pe_runtime";
// Graphs within graphs. ONNX Runtime recurses as well, and exported metrics have two levels.
constexpr int kMaxDepth = 32;

[[noreturn]] void damaged(const char* what) {
    throw Error(PE_INVALID_METRIC, std::string("expected a valid ONNX file: ") + what);
}

// A message in protobuf's wire format, field by field.
class Message {
  public:
    explicit Message(std::string_view bytes) : rest_(bytes) {}

    // False at the end.
    bool next() {
        if (rest_.empty()) return false;
        const uint64_t tag = varint();
        field = tag >> 3;
        if (field == 0) damaged("a field number of 0");
        number = 0;
        bytes = {};
        switch (tag & 7) {
            case 0:
                number = varint();
                break;
            case 1:
                bytes = take(8);
                break;
            case 2:
                bytes = take(varint());
                break;
            case 5:
                bytes = take(4);
                break;
            default:
                damaged("a field of an unknown type");
        }
        return true;
    }

    uint64_t field = 0;
    uint64_t number = 0;     // of an integer field
    std::string_view bytes;  // of any other

  private:
    uint64_t varint() {
        uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            if (rest_.empty()) damaged("it is truncated");
            const auto byte = static_cast<unsigned char>(rest_.front());
            rest_.remove_prefix(1);
            value |= uint64_t(byte & 127) << shift;
            if (byte < 128) return value;
        }
        damaged("an integer of more than 64 bits");
    }

    std::string_view take(uint64_t count) {
        if (count > rest_.size()) damaged("it is truncated");
        const std::string_view taken = rest_.substr(0, count);
        rest_.remove_prefix(count);
        return taken;
    }

    std::string_view rest_;
};

bool tensor_is_external(std::string_view bytes) {
    bool external = false;
    for (Message message(bytes); message.next();) {
        if (message.field == tensor::kDataLocation) external = message.number == tensor::kExternal;
    }
    return external;
}

bool sparse_is_external(std::string_view bytes) {
    bool external = false;
    for (Message message(bytes); message.next();) {
        const bool part = message.field == sparse::kValues || message.field == sparse::kIndices;
        external |= part && tensor_is_external(message.bytes);
    }
    return external;
}

bool graph_is_external(std::string_view bytes, int depth);

bool node_is_external(std::string_view bytes, int depth) {
    bool external = false;
    for (Message message(bytes); message.next();) {
        if (message.field != node::kAttribute) continue;
        for (Message part(message.bytes); part.next();) {
            switch (part.field) {
                case attribute::kTensor:
                case attribute::kTensors:
                    external |= tensor_is_external(part.bytes);
                    break;
                case attribute::kSparseTensor:
                case attribute::kSparseTensors:
                    external |= sparse_is_external(part.bytes);
                    break;
                case attribute::kGraph:
                case attribute::kGraphs:
                    external |= graph_is_external(part.bytes, depth + 1);
                    break;
            }
        }
    }
    return external;
}

bool graph_is_external(std::string_view bytes, int depth) {
    if (depth > kMaxDepth) damaged("graphs nested too deeply");
    bool external = false;
    for (Message message(bytes); message.next();) {
        switch (message.field) {
            case graph::kNode:
                external |= node_is_external(message.bytes, depth);
                break;
            case graph::kInitializer:
                external |= tensor_is_external(message.bytes);
                break;
            case graph::kSparseInitializer:
                external |= sparse_is_external(message.bytes);
                break;
        }
    }
    return external;
}

bool imports_operators(std::string_view bytes) {
    bool found = false;
    for (Message message(bytes); message.next();) {
        if (message.field == opset::kDomain) found = message.bytes == kName;
    }
    return found;
}

void read_function(std::string_view bytes, OnnxFile& file) {
    for (Message message(bytes); message.next();) {
        if (message.field == function::kNode) file.has_external_data |= node_is_external(message.bytes, 0);
        if (message.field == function::kOpsetImport) file.has_operators |= imports_operators(message.bytes);
    }
}

void read_metadata(std::string_view bytes, OnnxFile& file) {
    std::string_view key, value;
    for (Message message(bytes); message.next();) {
        if (message.field == entry::kKey) key = message.bytes;
        if (message.field == entry::kValue) value = message.bytes;
    }
    if (key == kName) file.metadata.emplace_back(value);
}

}  // namespace

OnnxFile read_onnx(const void* data, std::size_t bytes) {
    OnnxFile file;
    for (Message message({static_cast<const char*>(data), bytes}); message.next();) {
        switch (message.field) {
            case model::kGraph:
                file.has_graph = true;
                file.has_external_data |= graph_is_external(message.bytes, 0);
                break;
            case model::kOpsetImport:
                file.has_operators |= imports_operators(message.bytes);
                break;
            case model::kMetadata:
                read_metadata(message.bytes, file);
                break;
            case model::kFunctions:
                read_function(message.bytes, file);
                break;
        }
    }
    if (!file.has_graph) damaged("it has no graph");
    return file;
}

}  // namespace pe::capi
