// What the operators share: inputs, outputs, attributes, memory and threads of ONNX Runtime, in terms of the
// kernels.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api.h"
#include "common.h"
#include "device.h"
#include "session_threads.h"

namespace pe::ort_adapter {

struct Tensor {
    ONNXTensorElementDataType type;
    Shape shape;
    const void* data;
};

// The node that a kernel is made for.
class Node {
  public:
    Node(const OrtApi& api, const OrtKernelInfo* info) : api_(api), info_(info) {}

    const OrtApi& api() const { return api_; }
    // Attributes, or the default where the node has none of that name. One of another type is refused.
    double number(const char* name, double absent) const;
    std::string text(const char* name, const std::string& absent) const;
    // Of the session's arena. The caller releases it.
    OrtAllocator* allocator() const;

  private:
    void check_absent(const char* name, const char* expected) const;

    const OrtApi& api_;
    const OrtKernelInfo* info_;
};

// What the runs of a node need.
class Resources {
  public:
    Resources(const Node& node, Device device);
    Resources(const Resources&) = delete;
    Resources& operator=(const Resources&) = delete;
    ~Resources() { api.ReleaseAllocator(allocator); }

    const OrtApi& api;
    const Device device;
    OrtAllocator* const allocator;
    mutable SessionThreads threads;
};

// One run of a node.
class Run {
  public:
    Run(const Resources& resources, OrtKernelContext* context);

    const Resources& resources() const { return resources_; }
    // Nothing where the node has no such input.
    std::optional<Tensor> input(size_t index) const;
    // name: what errors call it.
    Tensor required(size_t index, const char* name) const;
    // Of a CUDA device: what the node's kernels are put on.
    void* stream() const;
    // Memory of an output; null where the node has no such output.
    void* output(size_t index, const Shape& shape) const;

    // Into how many tasks work is cut that takes workspace(tasks) bytes.
    template <typename Bytes>
    int tasks_for(const Bytes& workspace) const {
        return workspace(2) == workspace(1) ? resources_.threads.most() : resources_.threads.seen(context_);
    }

    // Calls kernel(pool), whose tasks, that many at most, run on the session's threads.
    template <typename Kernel>
    void on_session_threads(int tasks, const Kernel& kernel) const {
        Call call{*this, nullptr};
        kernel(Pool{tasks, &Run::run_tasks, &call});
        check_status(resources_.api, call.error);
    }

  private:
    struct Call {
        const Run& run;
        OrtStatus* error;  // the first
    };
    static void run_tasks(void* call, int tasks, void (*body)(void*, int), void* argument);

    const Resources& resources_;
    OrtKernelContext* context_;
    size_t inputs_ = 0, outputs_ = 0;
};

// Memory in parts, each aligned as kernels want it: of the session's arena, or of the CUDA device.
class Workspace {
  public:
    Workspace(const Run& run, const std::vector<size_t>& bytes);
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    ~Workspace();

    template <typename T = void>
    T* part(size_t index) const {
        return static_cast<T*>(parts_[index]);
    }

  private:
    const Resources& resources_;
    void* stream_;
    void* memory_;
    std::vector<void*> parts_;
};

// Selected channels and a factor for each. The indices are read where they lie.
class ChannelConstants {
  public:
    // available: channels of the features. factors_name: what errors call the factors.
    ChannelConstants(const std::optional<Tensor>& channels, const std::optional<Tensor>& factors,
                     const char* factors_name, int64_t available);

    int64_t count() const { return count_; }
    const int64_t* indices() const { return indices_; }
    const double* factors() const { return factors_ ? factors_->data() : nullptr; }

  private:
    int64_t count_;
    const int64_t* indices_ = nullptr;
    std::optional<std::vector<double>> factors_;
};

// (B, C, H, W) in NCHW, as ONNX has it.
Features features_of(const Tensor& tensor);

}  // namespace pe::ort_adapter
