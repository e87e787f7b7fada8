// Small ONNX models, written without protobuf: field numbers are those of onnx.proto.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace onnx_model {

// Element types of TensorProto.
enum : int { kFloat = 1, kInt64 = 7, kFloat16 = 10, kDouble = 11, kBFloat16 = 16 };

class Message {
  public:
    Message& number(int field, uint64_t value) {
        varint(uint64_t(field) << 3);
        varint(value);
        return *this;
    }
    Message& text(int field, const std::string& value) {
        varint(uint64_t(field) << 3 | 2);
        varint(value.size());
        bytes_ += value;
        return *this;
    }
    Message& real(int field, float value) {
        varint(uint64_t(field) << 3 | 5);
        char bytes[sizeof value];
        std::memcpy(bytes, &value, sizeof value);
        bytes_.append(bytes, sizeof bytes);
        return *this;
    }
    Message& message(int field, const Message& value) { return text(field, value.bytes_); }
    const std::string& bytes() const { return bytes_; }

  private:
    void varint(uint64_t value) {
        for (; value >= 128; value >>= 7) bytes_ += char(value | 128);
        bytes_ += char(value);
    }
    std::string bytes_;
};

inline Message real_attribute(const std::string& name, float value) {
    return Message().text(1, name).real(2, value).number(20, 1);
}

inline Message integer_attribute(const std::string& name, int64_t value) {
    return Message().text(1, name).number(3, uint64_t(value)).number(20, 2);
}

inline Message text_attribute(const std::string& name, const std::string& value) {
    return Message().text(1, name).text(4, value).number(20, 3);
}

// A tensor of a shape of names: dimensions that every run decides.
struct Value {
    std::string name;
    int type;
    std::vector<std::string> shape;
};

inline Message value_info(const Value& value) {
    Message shape;
    for (const std::string& size : value.shape) shape.message(1, Message().text(2, size));
    const Message tensor = Message().number(1, uint64_t(value.type)).message(2, shape);
    return Message().text(1, value.name).message(2, Message().message(1, tensor));
}

// A model of one operator of the domain pe_runtime.
//   inputs: of the node; "" is one that is absent. Those with a value are inputs of the model.
inline std::string of_one_node(const std::string& op, const std::vector<Value>& inputs,
                               const std::vector<Value>& outputs, const std::vector<Message>& attributes) {
    Message node, graph;
    for (const Value& value : inputs) node.text(1, value.name);
    for (const Value& value : outputs) node.text(2, value.name);
    node.text(4, op).text(7, "pe_runtime");
    for (const Message& attribute : attributes) node.message(5, attribute);
    graph.message(1, node).text(2, "test");
    for (const Value& value : inputs) {
        if (!value.name.empty()) graph.message(11, value_info(value));
    }
    for (const Value& value : outputs) {
        if (!value.name.empty()) graph.message(12, value_info(value));
    }
    return Message()
        .number(1, 8)  // the version of the format
        .message(7, graph)
        .message(8, Message().text(1, "").number(2, 18))
        .message(8, Message().text(1, "pe_runtime").number(2, 1))
        .bytes();
}

}  // namespace onnx_model
