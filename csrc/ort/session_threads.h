// How many threads a session has. ONNX Runtime does not say it, and a kernel needs memory for each task that
// it cuts its work into.
#pragma once

#include <atomic>

#include "api.h"

namespace pe::ort_adapter {

class SessionThreads {
  public:
    explicit SessionThreads(const OrtApi& api);

    // Processors of the machine: tasks for work whose memory does not grow with their number. Where a session
    // has fewer threads, some of them take several tasks.
    int most() const { return most_; }

    // The most threads that were seen to run at once, 1 to most(): never more than the session has. The first
    // call waits for them to come, half a millisecond after the last. What comes too late, on a busy machine,
    // is seen by a later run().
    int seen(const OrtKernelContext* context);

    // Calls body(argument, task) once for each task, on the session's threads.
    OrtStatus* run(const OrtKernelContext* context, int tasks, void (*body)(void*, int), void* argument);

  private:
    void raise(int count);

    const OrtApi& api_;
    const int most_;
    std::atomic<int> seen_{1};
    std::atomic<unsigned> calls_{0};  // of seen(), as long as it was one
};

}  // namespace pe::ort_adapter
