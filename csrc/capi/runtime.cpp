#include "runtime.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "error.h"

namespace pe::capi {
namespace {

// ONNX Runtime 1.27, the first that checks the paths of weights in other files wherever a model may name
// them. This library refuses such models itself; earlier versions read any file, and any address in memory,
// for one that it would overlook. Later versions serve the functions of this one as well.
constexpr uint32_t kOldest = 27;
constexpr const char* kVariable = "PE_RUNTIME_ONNXRUNTIME";
#ifdef __APPLE__
constexpr const char* kNames[] = {"libonnxruntime.1.dylib", "libonnxruntime.dylib"};
#else
constexpr const char* kNames[] = {"libonnxruntime.so.1", "libonnxruntime.so"};
#endif

void* open_library(const char* name) {
    // It stays loaded: its threads and its static objects do not survive being unloaded.
    return dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

void* find_library(const char* path) {
    const char* origin = "onnxruntime";
    if (path == nullptr) {
        path = std::getenv(kVariable);
        origin = kVariable;
    }
    if (path != nullptr && *path != '\0') {
        if (void* library = open_library(path)) return library;
        throw Error(PE_NO_RUNTIME,
                    std::string(origin) + ": expected the library of ONNX Runtime: " + dlerror());
    }
    for (const char* name : kNames) {
        if (void* library = open_library(name)) return library;
    }
    throw Error(PE_NO_RUNTIME,
                std::string("onnxruntime: expected ") + kNames[0] +
                    " where the system looks for libraries, or its path in the options or in the "
                    "environment variable " +
                    kVariable);
}

const OrtApi* find_api(void* library) {
    using GetApiBase = const OrtApiBase*(ORT_API_CALL*)();
    const auto get_base = reinterpret_cast<GetApiBase>(dlsym(library, "OrtGetApiBase"));
    const OrtApiBase* base = get_base == nullptr ? nullptr : get_base();
    if (base == nullptr) {
        throw Error(PE_NO_RUNTIME, "onnxruntime: expected the library of ONNX Runtime, got another");
    }
    const OrtApi* api = base->GetApi(kOldest);
    if (api == nullptr) {
        throw Error(PE_NO_RUNTIME, "onnxruntime: expected version 1." + std::to_string(kOldest) +
                                       " or newer, which checks the paths in a model, got " +
                                       base->GetVersionString());
    }
    return api;
}

}  // namespace

std::shared_ptr<const Runtime> Runtime::open(const char* path) {
    static std::mutex mutex;
    // Never destroyed: metrics may be closed by static objects of the program.
    static auto* const opened = new std::map<const OrtApi*, std::weak_ptr<const Runtime>>;
    const std::lock_guard lock(mutex);
    const OrtApi* api = find_api(find_library(path));
    std::weak_ptr<const Runtime>& known = (*opened)[api];
    std::shared_ptr<const Runtime> runtime = known.lock();
    if (runtime == nullptr) {
        runtime.reset(new Runtime(api));
        known = runtime;
    }
    return runtime;
}

Runtime::Runtime(const OrtApi* api) : api_(api) {
    // Failures are returned; the log would repeat them on standard error.
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "pe_runtime", &environment_), PE_NO_RUNTIME,
          "onnxruntime: ");
}

Runtime::~Runtime() { api_->ReleaseEnv(environment_); }

void Runtime::check(OrtStatus* status, pe_status status_of_error, const std::string& what) const {
    if (status == nullptr) return;
    const OrtPointer<OrtStatus> owned(status, api_->ReleaseStatus);
    throw Error(status_of_error, what + api_->GetErrorMessage(status));
}

std::vector<std::string> Runtime::providers() const {
    char** names = nullptr;
    int count = 0;
    check(api_->GetAvailableProviders(&names, &count), PE_NO_RUNTIME, "onnxruntime: ");
    std::vector<std::string> providers(names, names + count);
    check(api_->ReleaseAvailableProviders(names, count), PE_NO_RUNTIME, "onnxruntime: ");
    return providers;
}

}  // namespace pe::capi
