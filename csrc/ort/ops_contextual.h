// ContextualLoss(source, target, channels?, weights?) -> (loss, log_similarity?). See docs/onnxruntime.md.
#pragma once

#include "contextual.h"
#include "operator.h"

namespace pe::ort_adapter {

class ContextualLoss {
  public:
    static constexpr const char* kName = "ContextualLoss";
    static constexpr Input kInputs[] = {{kFeatures, false},
                                        {kFeatures, false},
                                        {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, true},
                                        {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, true}};
    static constexpr Output kOutputs[] = {{false}, {true}};

    ContextualLoss(const Node& node, Type type);
    void run(const Run& run) const;
    static void infer_shapes(const ShapeInference& inference) { infer_batch(inference); }

  private:
    ContextualProblem settings_{};  // without sizes and channels
};

}  // namespace pe::ort_adapter
