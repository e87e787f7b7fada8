// Shape inference while a model is loaded.
#pragma once

#include <string>
#include <vector>

#include "api.h"

namespace pe::ort_adapter {

// A size of a dimension: a number, or the name of one that a run decides.
struct Size {
    int64_t number;    // -1: see the name
    std::string name;  // empty: not known
    bool known() const { return number >= 0 || !name.empty(); }
};

struct Known {
    ONNXTensorElementDataType type;
    std::vector<Size> sizes;
};

class ShapeInference {
  public:
    ShapeInference(const OrtApi& api, OrtShapeInferContext* context) : api_(api), context_(context) {}

    // No sizes where nothing is known of them.
    Known input(size_t index) const;
    // Of an output that the node has: ONNX Runtime does not check it, nor say how many there are.
    void set_output(size_t index, const Known& known) const;

  private:
    const OrtApi& api_;
    OrtShapeInferContext* context_;
};

// Whether ONNX Runtime of this version may be given a shape function: before 1.24, it reads the types of
// inputs that are absent.
bool infers_shapes_safely(const char* version);

// The first output of both operators, (B,), from their features.
void infer_batch(const ShapeInference& inference);

}  // namespace pe::ort_adapter
