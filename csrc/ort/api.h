// ONNX Runtime's C interface: errors as exceptions inside this library, as an OrtStatus at its edge.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "arguments.h"

namespace pe::ort_adapter {

// Of ONNX Runtime 1.18, the first that infers the types of operators whose optional inputs are absent.
constexpr uint32_t kApiVersion = 18;
static_assert(ORT_API_VERSION >= kApiVersion, "expected the headers of ONNX Runtime 1.18 or newer");

// Throws what the status says, and releases it; null: all is well.
inline void check_status(const OrtApi& api, OrtStatus* status) {
    if (status == nullptr) return;
    const std::unique_ptr<OrtStatus, void (*)(OrtStatus*)> owner(status, api.ReleaseStatus);
    throw std::runtime_error(api.GetErrorMessage(status));
}

// Throws what a call of kernels for CUDA said, unless it is null.
inline void check_cuda(const char* error) {
    if (error != nullptr) throw std::runtime_error(std::string("CUDA: ") + error);
}

// Whether the status is null. Releases it.
inline bool succeeded(const OrtApi& api, OrtStatus* status) {
    if (status == nullptr) return true;
    api.ReleaseStatus(status);
    return false;
}

inline OrtStatus* status_of(const OrtApi& api, OrtErrorCode code, const char* where, const char* what) {
    // Not a string: there may be no memory for one.
    char message[1024];
    std::snprintf(message, sizeof message, "%s: %s", where, what);
    return api.CreateStatus(code, message);
}

// Runs the body and gives what it throws as a status. where: what the message begins with.
template <typename Body>
OrtStatus* guarded(const OrtApi& api, const char* where, const Body& body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const ArgumentError& error) {
        return status_of(api, ORT_INVALID_ARGUMENT, where, error.what());
    } catch (const std::bad_alloc&) {
        return status_of(api, ORT_RUNTIME_EXCEPTION, where, "expected more memory than there is");
    } catch (const std::exception& error) {
        return status_of(api, ORT_RUNTIME_EXCEPTION, where, error.what());
    } catch (...) {
        return status_of(api, ORT_RUNTIME_EXCEPTION, where, "unknown error");
    }
}

}  // namespace pe::ort_adapter
