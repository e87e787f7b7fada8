// ONNX Runtime, loaded at run time: the library is the machine's, any version from kOldest on.
#pragma once

#include <onnxruntime_c_api.h>
#include <pe_runtime.h>

#include <memory>
#include <string>
#include <vector>

namespace pe::capi {

template <class T>
using OrtPointer = std::unique_ptr<T, void (*)(T*)>;

class Runtime {
  public:
    // The library at `path`, or the one that the environment or the system names where that is null. One
    // object per library, as long as anybody holds it. Throws Error(PE_NO_RUNTIME).
    static std::shared_ptr<const Runtime> open(const char* path);

    ~Runtime();
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    const OrtApi& api() const { return *api_; }
    const OrtEnv* environment() const { return environment_; }

    // Frees a status; throws Error(status_of_error) with `what` and its message where it is one of a failure.
    void check(OrtStatus* status, pe_status status_of_error, const std::string& what) const;

    // "CPUExecutionProvider" and so on.
    std::vector<std::string> providers() const;

  private:
    explicit Runtime(const OrtApi* api);

    const OrtApi* api_;
    OrtEnv* environment_ = nullptr;
};

}  // namespace pe::capi
