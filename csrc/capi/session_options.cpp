#include "session_options.h"

#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "error.h"

namespace pe::capi {
namespace {

constexpr const char* kVariable = "PE_RUNTIME_ORT_LIBRARY";
constexpr const char* kLibrary = "libpe_runtime_ort.so";
constexpr const char* kSuffix = "executionprovider";

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
}

// "cuda" of "CUDAExecutionProvider".
std::string short_name(const std::string& provider) {
    std::string name = lower(provider);
    const std::size_t at = name.rfind(kSuffix);
    if (at != std::string::npos && at + std::char_traits<char>::length(kSuffix) == name.size())
        name.resize(at);
    return name;
}

// The path of libpe_runtime_ort.so; empty where none was named and there is none beside this library.
std::string find_operators(const pe_metric_options& options) {
    if (options.operators_library != nullptr) return options.operators_library;
    const char* named = std::getenv(kVariable);
    if (named != nullptr && *named != '\0') return named;
    Dl_info here;
    if (dladdr(reinterpret_cast<const void*>(&find_operators), &here) == 0) return {};
    const auto beside = std::filesystem::path(here.dli_fname).parent_path() / kLibrary;
    std::error_code ignored;
    return std::filesystem::exists(beside, ignored) ? beside.string() : std::string();
}

void register_operators(const Runtime& runtime, OrtSessionOptions* session,
                        const pe_metric_options& options) {
    if (options.operators == PE_OPERATORS_OFF) return;
    const std::string path = find_operators(options);
    if (!path.empty()) {
        runtime.check(runtime.api().RegisterCustomOpsLibrary_V2(session, path.c_str()), PE_NO_RUNTIME,
                      "operators_library: expected the operators of pe_runtime: ");
    } else if (options.operators == PE_OPERATORS_ON) {
        throw Error(PE_NO_RUNTIME,
                    std::string("operators_library: expected ") + kLibrary +
                        " beside this library, or its path in the options or in the environment "
                        "variable " +
                        kVariable);
    }
}

void append_cuda(const Runtime& runtime, OrtSessionOptions* session) {
    const OrtApi& api = runtime.api();
    OrtCUDAProviderOptionsV2* created = nullptr;
    runtime.check(api.CreateCUDAProviderOptions(&created), PE_INVALID_ARGUMENT, "provider: ");
    const OrtPointer<OrtCUDAProviderOptionsV2> settings(created, api.ReleaseCUDAProviderOptions);
    // TF32 rounds to 10 bits, which would tie the score to the device.
    const char *key = "use_tf32", *value = "0";
    runtime.check(api.UpdateCUDAProviderOptions(created, &key, &value, 1), PE_INVALID_ARGUMENT, "provider: ");
    runtime.check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(session, created), PE_INVALID_ARGUMENT,
                  "provider: ");
}

void append_provider(const Runtime& runtime, OrtSessionOptions* session, const char* wanted) {
    const std::string name = short_name(wanted == nullptr ? "cpu" : wanted);
    std::string known;
    for (const std::string& provider : runtime.providers()) {
        if (short_name(provider) == name) {
            if (name == "cuda") {
                append_cuda(runtime, session);
            } else if (name != "cpu") {  // which is always there
                const std::size_t length = provider.size() - std::char_traits<char>::length(kSuffix);
                runtime.check(runtime.api().SessionOptionsAppendExecutionProvider(
                                  session, provider.substr(0, length).c_str(), nullptr, nullptr, 0),
                              PE_INVALID_ARGUMENT, "provider: ");
            }
            return;
        }
        known += (known.empty() ? "'" : ", '") + short_name(provider) + "'";
    }
    throw Error(PE_INVALID_ARGUMENT, "provider: expected one of " + known + ", got '" +
                                         (wanted == nullptr ? "cpu" : wanted) + "'");
}

}  // namespace

OrtPointer<OrtSessionOptions> session_options(const Runtime& runtime, const pe_metric_options& options,
                                              bool has_operators) {
    constexpr int kFatal = 4;
    const OrtApi& api = runtime.api();
    const auto check = [&](OrtStatus* status) { runtime.check(status, PE_NO_RUNTIME, "onnxruntime: "); };
    OrtSessionOptions* created = nullptr;
    check(api.CreateSessionOptions(&created));
    OrtPointer<OrtSessionOptions> session(created, api.ReleaseSessionOptions);
    check(api.SetIntraOpNumThreads(created, options.threads));
    // Failures are returned; the log would repeat them on standard error.
    check(api.SetSessionLogSeverityLevel(created, kFatal));
    // Image sizes vary, and a plan would be kept for each size.
    check(api.DisableMemPattern(created));
    // Threads that wait by spinning take the cores from those of the program.
    check(api.AddSessionConfigEntry(created, "session.intra_op.allow_spinning", "0"));
    // It would take bytes that begin in a certain way for its own format, whose weights may be in other
    // files.
    check(api.AddSessionConfigEntry(created, "session.load_model_format", "ONNX"));
    append_provider(runtime, created, options.provider);
    if (has_operators) register_operators(runtime, created, options);
    return session;
}

}  // namespace pe::capi
