// A metric, from its bytes to a score: what the C interface wraps.
#pragma once

#include <pe_runtime.h>

#include <cstddef>
#include <optional>
#include <string>

#include "metadata.h"
#include "onnx_file.h"
#include "pixels.h"
#include "session.h"

namespace pe::capi {

struct Scored {
    double score;
    std::optional<Map> map;
};

// All of them throw Error; scoring may be called from several threads at once.
class Metric {
  public:
    Metric(const void* data, std::size_t bytes, const pe_metric_options& options);

    const Metadata& metadata() const { return metadata_; }
    bool has_map() const { return session_.has_map(); }

    Scored score(const pe_image& reference, const pe_image& distorted, const Background& background,
                 bool with_map) const;

    // Whether score <= threshold; PE_OWN_THRESHOLD is the metric's own.
    bool passes(double score, double threshold) const;

  private:
    Metric(const OnnxFile& file, const void* data, std::size_t bytes, const pe_metric_options& options);

    Metadata metadata_;
    Session session_;
};

// The bytes of a metric's file. Throws Error(PE_UNREADABLE or PE_INVALID_METRIC), with the path.
std::string read_metric_file(const char* path);

}  // namespace pe::capi
