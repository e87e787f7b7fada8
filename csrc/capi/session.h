// An exported metric in ONNX Runtime: opened, held to its contract, run on one pair.
#pragma once

#include <pe_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "metadata.h"
#include "runtime.h"

namespace pe::capi {

struct Map {
    int64_t width = 0;
    int64_t height = 0;
    std::vector<float> values;
};

struct Outcome {
    float score = 0;
    std::optional<Map> map;
};

class Session {
  public:
    // Throws Error(PE_NO_RUNTIME, PE_INVALID_ARGUMENT or PE_INVALID_METRIC).
    Session(const void* data, std::size_t bytes, bool has_operators, const Metadata& metadata,
            const pe_metric_options& options);

    bool has_map() const { return has_map_; }

    // `reference` and `distorted` are a batch of one: (1, 3, height, width) float32 or (1, height, width, 3)
    // uint8. The outcome is what the metric gave, checked for type, shape and, the map, for being finite.
    // Throws Error(PE_RUN_FAILED). May be called from several threads at once.
    Outcome run(void* reference, void* distorted, int64_t width, int64_t height, bool with_map) const;

  private:
    void check_contract();
    void check_value(const char* name, const OrtTypeInfo* type, ONNXTensorElementDataType element,
                     const std::vector<int64_t>& layout) const;
    OrtPointer<OrtValue> tensor(void* samples, int64_t width, int64_t height) const;

    std::shared_ptr<const Runtime> runtime_;
    OrtPointer<OrtSession> session_{nullptr, nullptr};
    OrtPointer<OrtMemoryInfo> memory_{nullptr, nullptr};
    pe_input input_;
    bool has_map_ = false;
};

}  // namespace pe::capi
