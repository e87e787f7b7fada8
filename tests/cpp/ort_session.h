// ONNX Runtime, opened when the test runs.
#pragma once

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <memory>
#include <string>
#include <vector>

#include "check.h"

namespace ort_session {

// Ends the test where a call failed.
inline void expect(const OrtApi& api, OrtStatus* status) {
    if (status != nullptr) check::fail(__FILE__, __LINE__, api.GetErrorMessage(status));
}

// The message of a status, which is released; empty: none.
inline std::string message_of(const OrtApi& api, OrtStatus* status) {
    if (status == nullptr) return "";
    const std::string message = api.GetErrorMessage(status);
    api.ReleaseStatus(status);
    return message;
}

inline void* symbol(const char* library, const char* name) {
    void* const handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) check::fail(__FILE__, __LINE__, dlerror());
    void* const address = dlsym(handle, name);
    if (address == nullptr) check::fail(__FILE__, __LINE__, dlerror());
    return address;
}

struct Tensor {
    ONNXTensorElementDataType type;
    std::vector<int64_t> shape;
    std::vector<char> data;

    template <typename T>
    const T* as() const {
        return reinterpret_cast<const T*>(data.data());
    }
};

class Runtime {
  public:
    Runtime(const char* runtime, const char* operators)
        : base(*reinterpret_cast<const OrtApiBase* (*)()>(symbol(runtime, "OrtGetApiBase"))()),
          api(*base.GetApi(18)),
          register_operators(reinterpret_cast<Register>(symbol(operators, "RegisterCustomOps"))) {
        expect(api, api.CreateEnv(ORT_LOGGING_LEVEL_FATAL, "test", &env));
        expect(api, api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    }
    ~Runtime() {
        api.ReleaseMemoryInfo(memory);
        api.ReleaseEnv(env);
    }

    using Register = OrtStatus* (*)(OrtSessionOptions*, const OrtApiBase*);
    const OrtApiBase& base;
    const OrtApi& api;
    const Register register_operators;
    OrtEnv* env = nullptr;
    OrtMemoryInfo* memory = nullptr;
};

class Session {
  public:
    // environment_memory: from the allocator that is registered in the environment.
    Session(const Runtime& runtime, const std::string& model, int threads, bool environment_memory = false)
        : runtime_(runtime) {
        const OrtApi& api = runtime.api;
        OrtSessionOptions* options = nullptr;
        expect(api, api.CreateSessionOptions(&options));
        expect(api, api.SetIntraOpNumThreads(options, threads));
        // So that each workspace has a piece of memory of its own, whose ends the sanitizer guards.
        expect(api, api.DisableCpuMemArena(options));
        if (environment_memory) {
            expect(api, api.AddSessionConfigEntry(options, "session.use_env_allocators", "1"));
        }
        expect(api, runtime.register_operators(options, &runtime.base));
        problem_ = message_of(
            api, api.CreateSessionFromArray(runtime.env, model.data(), model.size(), options, &session_));
        api.ReleaseSessionOptions(options);
    }
    ~Session() { runtime_.api.ReleaseSession(session_); }

    // Why the model was refused; empty: it was not.
    const std::string& problem() const { return problem_; }

    // The problem of the run, empty if it had none.
    std::string run(const std::vector<const char*>& names, const std::vector<Tensor>& tensors,
                    const std::vector<const char*>& output_names, std::vector<Tensor>& outputs) const {
        const OrtApi& api = runtime_.api;
        std::vector<OrtValue*> inputs(tensors.size()), values(output_names.size());
        for (size_t index = 0; index < tensors.size(); ++index) {
            const Tensor& tensor = tensors[index];
            expect(api, api.CreateTensorWithDataAsOrtValue(
                            runtime_.memory, const_cast<char*>(tensor.data.data()), tensor.data.size(),
                            tensor.shape.data(), tensor.shape.size(), tensor.type, &inputs[index]));
        }
        const std::string problem =
            message_of(api, api.Run(session_, nullptr, names.data(), inputs.data(), inputs.size(),
                                    output_names.data(), output_names.size(), values.data()));
        outputs.clear();
        for (OrtValue* value : values) {
            if (problem.empty()) outputs.push_back(tensor_of(value));
            api.ReleaseValue(value);
        }
        for (OrtValue* value : inputs) api.ReleaseValue(value);
        return problem;
    }

  private:
    Tensor tensor_of(OrtValue* value) const {
        const OrtApi& api = runtime_.api;
        OrtTensorTypeAndShapeInfo* info = nullptr;
        expect(api, api.GetTensorTypeAndShape(value, &info));
        Tensor tensor{};
        size_t rank = 0, elements = 0;
        expect(api, api.GetTensorElementType(info, &tensor.type));
        expect(api, api.GetDimensionsCount(info, &rank));
        tensor.shape.resize(rank);
        expect(api, api.GetDimensions(info, tensor.shape.data(), rank));
        expect(api, api.GetTensorShapeElementCount(info, &elements));
        api.ReleaseTensorTypeAndShapeInfo(info);
        void* data = nullptr;
        expect(api, api.GetTensorMutableData(value, &data));
        const size_t size = tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE ? 8 : 4;
        tensor.data.assign(static_cast<char*>(data), static_cast<char*>(data) + elements * size);
        return tensor;
    }

    const Runtime& runtime_;
    OrtSession* session_ = nullptr;
    std::string problem_;
};

}  // namespace ort_session
