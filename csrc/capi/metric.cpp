#include "metric.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <system_error>
#include <utility>

#include "error.h"

namespace pe::capi {
namespace {

// protobuf's limit; a larger model would have its weights in other files.
constexpr std::size_t kMaxFileBytes = (std::size_t(1) << 31) - 1;
// A score this far below 0 is a rounding error of float32 and counts as 0; one further below is refused.
constexpr float kRounding = 1e-6f;

OnnxFile checked_file(const void* data, std::size_t bytes) {
    if (bytes > kMaxFileBytes) {
        throw Error(PE_INVALID_METRIC,
                    "expected an ONNX file of less than 2 GiB, got " + std::to_string(bytes) + " bytes");
    }
    OnnxFile file = read_onnx(data, bytes);
    if (file.metadata.empty()) {
        throw Error(
            PE_INVALID_METRIC,
            "expected a metric written by pe-runtime export, got an ONNX file without the metadata key "
            "'pe_runtime'");
    }
    if (file.metadata.size() > 1) {
        throw Error(PE_INVALID_METRIC,
                    "expected one metadata key 'pe_runtime', got " + std::to_string(file.metadata.size()));
    }
    return file;
}

// The shortest decimal that stands for a float32, as a double.
double as_read(float value) {
    char text[32];
    const auto written = std::to_chars(text, text + sizeof text, value);
    double decimal = 0;
    std::from_chars(text, written.ptr, decimal);
    return decimal;
}

double checked_score(float score) {
    // Written so that NaN, for which every comparison is false, is refused as well.
    if (!(score >= -kRounding && score < std::numeric_limits<float>::infinity())) {
        throw Error(PE_RUN_FAILED, "metric: expected a finite score >= 0, got " + std::to_string(score));
    }
    return score > 0 ? as_read(score) : 0.0;
}

class Descriptor {
  public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return number_; }

  private:
    int number_;
};

std::string size_text(const pe_image& image) {
    return std::to_string(image.width) + " x " + std::to_string(image.height);
}

}  // namespace

Metric::Metric(const void* data, std::size_t bytes, const pe_metric_options& options)
    : Metric(checked_file(data, bytes), data, bytes, options) {}

Metric::Metric(const OnnxFile& file, const void* data, std::size_t bytes, const pe_metric_options& options)
    : metadata_(parse_metadata(file.metadata[0])),
      session_(data, bytes, file.has_operators, metadata_, options) {}

Scored Metric::score(const pe_image& reference, const pe_image& distorted, const Background& background,
                     bool with_map) const {
    if (with_map && !has_map()) {
        throw Error(PE_INVALID_METRIC, "map: expected a metric with an output map, got one without");
    }
    check_image(reference, "reference");
    check_image(distorted, "distorted");
    if (reference.width != distorted.width || reference.height != distorted.height) {
        throw Error(PE_INVALID_ARGUMENT, "reference and distorted: expected the same width and height, got " +
                                             size_text(reference) + " and " + size_text(distorted));
    }
    if (std::min(reference.width, reference.height) < metadata_.min_size) {
        throw Error(PE_INVALID_ARGUMENT, "reference and distorted: expected width and height of at least " +
                                             std::to_string(metadata_.min_size) + ", got " +
                                             size_text(reference));
    }
    const auto run = [&](auto convert, auto sample) {
        using T = decltype(sample);
        const std::size_t count = std::size_t(reference.width) * std::size_t(reference.height) * 3;
        // Not std::vector, which would fill them with zeros first.
        const std::unique_ptr<T[]> first(new T[count]), second(new T[count]);
        convert(reference, "reference", background, first.get());
        convert(distorted, "distorted", background, second.get());
        return session_.run(first.get(), second.get(), reference.width, reference.height, with_map);
    };
    Outcome outcome =
        metadata_.input == PE_INPUT_FLOAT32 ? run(to_planar, float()) : run(to_bytes, uint8_t());
    return {checked_score(outcome.score), std::move(outcome.map)};
}

bool Metric::passes(double score, double threshold) const {
    if (!(score >= 0 && std::isfinite(score))) {
        throw Error(PE_INVALID_ARGUMENT,
                    "score: expected a finite number >= 0, got " + std::to_string(score));
    }
    if (threshold == PE_OWN_THRESHOLD) {
        if (!metadata_.threshold) {
            throw Error(PE_INVALID_ARGUMENT,
                        "threshold: expected a number, because the metric carries none of its own");
        }
        threshold = *metadata_.threshold;
    }
    if (!(threshold >= 0 && std::isfinite(threshold))) {
        throw Error(PE_INVALID_ARGUMENT,
                    "threshold: expected a finite number >= 0, got " + std::to_string(threshold));
    }
    return score <= threshold;
}

std::string read_metric_file(const char* path) {
    const auto unreadable = [&](const std::string& why) {
        return Error(PE_UNREADABLE, std::string(path) + ": " + why);
    };
    const auto system_error = [&] { return unreadable(std::generic_category().message(errno)); };
    struct stat status;
    const auto check = [&](int failed) {
        if (failed != 0) throw system_error();
        if (!S_ISREG(status.st_mode)) {
            throw unreadable("expected an ONNX file, got something that is not a file");
        }
        // Files of /proc say that they are empty, and may never end.
        if (status.st_size == 0) throw unreadable("expected an ONNX file, got an empty file");
        if (std::size_t(status.st_size) > kMaxFileBytes) {
            throw Error(PE_INVALID_METRIC, std::string(path) + ": expected an ONNX file of at most " +
                                               std::to_string(kMaxFileBytes) + " bytes, got " +
                                               std::to_string(status.st_size) + " bytes");
        }
    };
    // Asked before opening as well, which may do something to a device.
    check(stat(path, &status));
    // Not waiting, should it have become a pipe since then.
    const Descriptor file(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (file.get() < 0) throw system_error();
    check(fstat(file.get(), &status));
    // One byte more, which is not there unless somebody writes to the file.
    std::string data(std::size_t(status.st_size) + 1, '\0');
    std::size_t count = 0;
    while (count < data.size()) {
        const ssize_t got = read(file.get(), data.data() + count, data.size() - count);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw system_error();
        if (got == 0) break;
        count += std::size_t(got);
    }
    if (count != std::size_t(status.st_size)) {
        throw unreadable("expected an ONNX file that nobody writes to, but its size changed");
    }
    data.resize(count);
    return data;
}

}  // namespace pe::capi
