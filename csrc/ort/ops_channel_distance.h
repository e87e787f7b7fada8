// ChannelDistance(first, second, channels?, weights?, linear?) -> (distance, map?). See docs/onnxruntime.md.
#pragma once

#include "channel_distance.h"
#include "operator.h"

namespace pe::ort_adapter {

class ChannelDistance {
  public:
    static constexpr const char* kName = "ChannelDistance";
    static constexpr Input kInputs[] = {{kFeatures, false},
                                        {kFeatures, false},
                                        {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, true},
                                        {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, true},
                                        {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, true}};
    static constexpr Output kOutputs[] = {{false}, {true}};

    ChannelDistance(const Node& node, Type type);
    void run(const Run& run) const;
    static void infer_shapes(const ShapeInference& inference) { infer_batch(inference); }

  private:
    Type type_;
    DistanceForm form_;
};

}  // namespace pe::ort_adapter
