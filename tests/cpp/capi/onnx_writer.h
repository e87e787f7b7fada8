// Small metrics with the interface of exported ones, written byte by byte: the tests need no Python.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace onnx_writer {

// A message in protobuf's wire format.
class Message {
  public:
    Message& integer(int field, uint64_t value) {
        varint(uint64_t(field) << 3);
        varint(value);
        return *this;
    }
    Message& text(int field, const std::string& value) {
        varint(uint64_t(field) << 3 | 2);
        varint(value.size());
        bytes += value;
        return *this;
    }
    Message& message(int field, const Message& value) { return text(field, value.bytes); }

    std::string bytes;

  private:
    void varint(uint64_t value) {
        for (; value >= 128; value >>= 7) bytes += char(value | 128);
        bytes += char(value);
    }
};

constexpr int kFloat = 1, kUint8 = 2, kInt64 = 7;

struct Dimension {
    std::string name;  // free, where it is not empty
    int64_t size = 0;
};

struct Model {
    bool uint8 = false;
    bool has_map = true;
    float scale = 1;
    float offset = 0;
    std::string metadata = "";  // the JSON; empty: that of a valid metric
    std::string extra_metadata = "";
    std::string threshold = "null";
    int channels = 3;
    std::string first_input = "reference";
    std::string score_name = "score";
    std::string domain = "";  // a further operator set that is imported
    bool external_data = false;
    int64_t min_size = 4;
};

inline Message tensor(const std::string& name, int type, const std::vector<int64_t>& shape, const void* data,
                      std::size_t bytes) {
    Message message;
    for (const int64_t size : shape) message.integer(1, uint64_t(size));
    message.integer(2, uint64_t(type)).text(8, name);
    return message.text(9, std::string(static_cast<const char*>(data), bytes));
}

inline Message value(const std::string& name, int type, const std::vector<Dimension>& shape) {
    Message dimensions;
    for (const Dimension& dimension : shape) {
        Message one;
        if (dimension.name.empty()) {
            one.integer(1, uint64_t(dimension.size));
        } else {
            one.text(2, dimension.name);
        }
        dimensions.message(1, one);
    }
    const Message tensor_type = Message().integer(1, uint64_t(type)).message(2, dimensions);
    return Message().text(1, name).message(2, Message().message(1, tensor_type));
}

inline Message node(const std::string& type, const std::vector<std::string>& inputs,
                    const std::string& output) {
    Message message;
    for (const std::string& input : inputs) message.text(1, input);
    return message.text(2, output).text(4, type);
}

// An attribute that is one integer, or several.
inline Message attribute(const std::string& name, const std::vector<int64_t>& values, bool list) {
    constexpr uint64_t kInt = 2, kInts = 7;
    Message message;
    message.text(1, name);
    for (const int64_t one : values) message.integer(list ? 8 : 3, uint64_t(one));
    return message.integer(20, list ? kInts : kInt);
}

// score = scale * mean((reference - distorted)^2) + offset, and the map of which that is the mean.
inline std::string write(const Model& model) {
    Message graph;
    const std::string names[] = {model.first_input, "distorted"};
    for (const std::string& name : names) {
        if (model.uint8) {
            graph.message(1,
                          node("Cast", {name}, name + "_cast").message(5, attribute("to", {kFloat}, false)));
            graph.message(1, node("Transpose", {name + "_cast"}, name + "_planar")
                                 .message(5, attribute("perm", {0, 3, 1, 2}, true)));
            graph.message(1, node("Div", {name + "_planar", "top"}, name + "_unit"));
        } else {
            graph.message(1, node("Identity", {name}, name + "_unit"));
        }
    }
    graph.message(1, node("Sub", {names[0] + "_unit", "distorted_unit"}, "difference"));
    graph.message(1, node("Mul", {"difference", "difference"}, "square"));
    graph.message(1, node("ReduceMean", {"square", "channel"}, "map"));
    graph.message(1,
                  node("ReduceMean", {"map", "image"}, "mean").message(5, attribute("keepdims", {0}, false)));
    graph.message(1, node("Mul", {"mean", "scale"}, "scaled"));
    graph.message(1, node("Add", {"scaled", "offset"}, model.score_name));
    graph.text(2, "metric");
    const int64_t channel[] = {1}, image[] = {1, 2, 3};
    const float top = 255;
    graph.message(5, tensor("channel", kInt64, {1}, channel, sizeof channel));
    graph.message(5, tensor("image", kInt64, {3}, image, sizeof image));
    graph.message(5, tensor("top", kFloat, {}, &top, sizeof top));
    Message scale = tensor("scale", kFloat, {}, &model.scale, sizeof model.scale);
    if (model.external_data) scale.integer(14, 1);
    graph.message(5, scale);
    graph.message(5, tensor("offset", kFloat, {}, &model.offset, sizeof model.offset));

    const Dimension batch{"B"}, height{"H"}, width{"W"}, channels{"", model.channels};
    for (const std::string& name : names) {
        graph.message(11, model.uint8 ? value(name, kUint8, {batch, height, width, channels})
                                      : value(name, kFloat, {batch, channels, height, width}));
    }
    graph.message(12, value(model.score_name, kFloat, {batch}));
    if (model.has_map) graph.message(12, value("map", kFloat, {batch, {"", 1}, height, width}));

    const std::string metadata = !model.metadata.empty()
                                     ? model.metadata
                                     : "{\"format\": 1, \"metric\": \"feature_distance\", \"input\": \"" +
                                           std::string(model.uint8 ? "uint8" : "float32") +
                                           "\", \"min_size\": " + std::to_string(model.min_size) +
                                           ", \"threshold\": " + model.threshold + "}";
    Message file;
    file.integer(1, 10).message(7, graph).message(8, Message().text(1, "").integer(2, 18));
    if (!model.domain.empty()) file.message(8, Message().text(1, model.domain).integer(2, 1));
    if (metadata != "none") file.message(14, Message().text(1, "pe_runtime").text(2, metadata));
    if (!model.extra_metadata.empty())
        file.message(14, Message().text(1, "pe_runtime").text(2, model.extra_metadata));
    return file.bytes;
}

}  // namespace onnx_writer
