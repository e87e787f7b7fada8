// The messages of onnx.proto: number and type of every field. pe_runtime/gate/onnx_file.py has the same
// table, and a test compares both with the onnx package. A version of ONNX that adds a field is read once it
// stands here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pe::capi::schema {

enum class Kind : uint8_t { kInt32, kInt64, kFloat, kDouble, kText, kAnyText, kBytes, kMessage };
enum class Count : uint8_t { kOne, kMany, kChoice };  // kChoice: at most one of these

struct Message;

struct Field {
    uint32_t number;
    Kind kind;
    Count count = Count::kOne;
    const Message* message = nullptr;
    uint32_t largest = UINT32_MAX;  // of an enumeration
};

struct Message {
    const char* name;
    const Field* fields;
    std::size_t count;

    const Field* find(uint64_t number) const {
        for (std::size_t i = 0; i < count; ++i) {
            if (fields[i].number == number) return &fields[i];
        }
        return nullptr;
    }
};

extern const Message kModel, kOperatorSet, kEntry, kGraph, kNode, kAttribute, kTensor, kSegment,
    kSparseTensor, kValueInfo, kType, kTensorType, kSparseTensorType, kSequence, kMap, kOptional, kOpaque,
    kShape, kDimension, kAnnotation, kTraining, kFunction, kDevice, kNodeDevice, kSharding, kIntIntList,
    kShardedDim, kSimpleShardedDim;

}  // namespace pe::capi::schema
