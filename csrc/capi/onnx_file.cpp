#include "onnx_file.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "error.h"
#include "onnx_schema.h"
#include "utf8.h"

namespace pe::capi {
namespace {

using schema::Count;
using schema::Field;
using schema::Kind;

constexpr std::string_view kName = "pe_runtime";
// Of all messages together. Protobuf makes hundreds of bytes of an empty message's two.
constexpr std::size_t kMaxFields = std::size_t(1) << 20;
// Messages inside each other; protobuf's own limit is 100, and exported metrics have 12.
constexpr int kMaxDepth = 64;
// Of a name or a comment, and of all that the reader in Python keeps.
constexpr std::size_t kMaxText = std::size_t(1) << 24, kMaxKept = std::size_t(1) << 24;
// One byte more than metadata may have, which is refused later.
constexpr std::size_t kMetadataKept = (std::size_t(1) << 20) + 1;
constexpr uint64_t kExternalData = 13, kDataLocation = 14;  // of a tensor
enum Wire : uint64_t { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

[[noreturn]] void refuse(const std::string& what) {
    throw Error(PE_INVALID_METRIC, "expected a valid ONNX file: " + what);
}

[[noreturn]] void refuse_integer() {
    refuse("an integer that is truncated, too large or not in its shortest form");
}

[[noreturn]] void refuse_other_files() {
    refuse("expected the weights inside the file, got references to other files");
}

[[noreturn]] void refuse_field(const schema::Message& message, uint64_t number, const std::string& what) {
    refuse("field " + std::to_string(number) + " of " + message.name + " " + what);
}

uint64_t wire_of(Kind kind) {
    switch (kind) {
        case Kind::kInt32:
        case Kind::kInt64:
            return kVarint;
        case Kind::kDouble:
            return kFixed64;
        case Kind::kFloat:
            return kFixed32;
        default:
            return kLength;
    }
}

std::string_view take(std::string_view& rest, uint64_t count) {
    if (count > rest.size()) refuse("it is truncated");
    const std::string_view taken = rest.substr(0, count);
    rest.remove_prefix(count);
    return taken;
}

// An integer of at most 64 bits, in its shortest form.
uint64_t take_integer(std::string_view& rest) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
        const auto byte = static_cast<unsigned char>(rest.front());
        rest.remove_prefix(1);
        if (shift == 63 && byte != 1) refuse_integer();
        value |= uint64_t(byte & 127) << shift;
        if (byte >= 128) continue;
        if (byte == 0 && shift > 0) refuse_integer();
        return value;
    }
    refuse_integer();
}

// The same of a field's kind; a negative int32 takes ten bytes.
uint64_t take_integer(std::string_view& rest, Kind kind) {
    const uint64_t value = take_integer(rest);
    const bool fits = value <= INT32_MAX || value >= uint64_t(int64_t(INT32_MIN));
    if (kind == Kind::kInt32 && !fits) refuse_integer();
    return value;
}

class Scan {
  public:
    OnnxFile run(std::string_view bytes) {
        if (bytes.substr(0, 8).substr(std::min<std::size_t>(bytes.size(), 4)) == "ORTM") {
            refuse("it begins like a file in ORT format");
        }
        message(schema::kModel, bytes, 1);
        if (!has_graph_) refuse("it has no graph");
        return std::move(file_);
    }

  private:
    void message(const schema::Message& type, std::string_view rest, int depth) {
        if (depth > kMaxDepth) refuse("messages nested too deeply");
        uint64_t seen = 0;  // one bit per field number, all of which are below 64
        bool choice = false;
        while (!rest.empty()) {
            if (++fields_ > kMaxFields) refuse("more than " + std::to_string(kMaxFields) + " fields");
            const uint64_t tag = take_integer(rest);
            if (tag > UINT32_MAX) refuse_integer();
            const uint64_t number = tag >> 3, wire = tag & 7;
            if (number == 0) refuse("a field number of 0");
            const Field* field = type.find(number);
            if (field == nullptr) refuse_field(type, number, "is not known");
            const uint64_t expected = wire_of(field->kind);
            // Numbers of which there may be many may also stand together, behind a length.
            const bool packed = wire == kLength && expected != kLength && field->count == Count::kMany;
            if (wire != expected && !packed) {
                refuse_field(type, number, "has wire type " + std::to_string(wire));
            }
            if (field->count != Count::kMany) {
                if ((seen >> number & 1) != 0) refuse_field(type, number, "is there twice");
                seen |= uint64_t(1) << number;
            }
            if (field->count == Count::kChoice) {
                if (choice) refuse_field(type, number, "is there beside another in its place");
                choice = true;
            }
            const bool tensor = &type == &schema::kTensor;
            if (tensor && number == kExternalData) refuse_other_files();
            if (wire == kLength) {
                const uint64_t length = take_integer(rest);
                span(type, *field, take(rest, length), depth);
            } else if (wire == kVarint) {
                const uint64_t value = take_integer(rest, field->kind);
                if (field->kind == Kind::kInt32 && value > field->largest && field->largest != UINT32_MAX) {
                    refuse_integer();
                }
                if (tensor && number == kDataLocation && value != 0) refuse_other_files();
            } else {
                take(rest, wire == kFixed32 ? 4 : 8);
            }
        }
    }

    void span(const schema::Message& type, const Field& field, std::string_view bytes, int depth) {
        switch (field.kind) {
            case Kind::kMessage:
                message(*field.message, bytes, depth + 1);
                note(type, field.number, bytes, depth);
                break;
            case Kind::kText:
                if (bytes.size() > kMaxText)
                    refuse("a text of more than " + std::to_string(kMaxText) + " bytes");
                if (!is_utf8(bytes)) refuse("a text that is not UTF-8");
                if (&type == &schema::kOperatorSet && field.number == 1)
                    file_.has_operators |= bytes == kName;
                if (depth == 2 && &type == &schema::kEntry) {
                    count_kept(bytes.size());
                    key_ = bytes;
                } else if (depth == 3 && &type == &schema::kTensor && field.number == 8) {
                    count_kept(bytes.size());
                }
                break;
            case Kind::kAnyText:
                if (depth == 2) value_ = bytes.substr(0, kMetadataKept);
                break;
            case Kind::kInt32:
            case Kind::kInt64:
                while (!bytes.empty()) take_integer(bytes, field.kind);
                break;
            case Kind::kFloat:
            case Kind::kDouble:
                if (bytes.size() % (field.kind == Kind::kFloat ? 4 : 8) != 0) refuse("it is truncated");
                break;
            case Kind::kBytes:
                break;
        }
    }

    // Keeps what is wanted of a message that has been read.
    void note(const schema::Message& type, uint32_t number, std::string_view bytes, int depth) {
        const bool model = &type == &schema::kModel;
        if (model && number == 7) has_graph_ = true;
        const bool interface = &type == &schema::kGraph && depth == 2 && (number == 11 || number == 12);
        if (interface || (model && number == 8)) count_kept(bytes.size());
        if (model && number == 14) {
            if (key_ == kName) {
                count_kept(value_.size());
                file_.metadata.emplace_back(value_);
            }
            key_ = value_ = {};
        }
    }

    void count_kept(std::size_t count) {
        kept_ += count;
        if (kept_ > kMaxKept) {
            refuse("more than " + std::to_string(kMaxKept) + " bytes of names, types and metadata");
        }
    }

    OnnxFile file_;
    bool has_graph_ = false;
    std::size_t fields_ = 0, kept_ = 0;
    std::string_view key_, value_;  // of the entry of metadata that is read
};

}  // namespace

OnnxFile read_onnx(const void* data, std::size_t bytes) {
    return Scan().run({static_cast<const char*>(data), bytes});
}

}  // namespace pe::capi
