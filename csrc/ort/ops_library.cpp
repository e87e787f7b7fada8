// RegisterCustomOps: what ONNX Runtime calls of this library.
#include <list>
#include <memory>
#include <mutex>

#include "ops_channel_distance.h"
#include "ops_contextual.h"

namespace pe::ort_adapter {
namespace {

constexpr const char* kDomain = "pe_runtime";

// One operator for each type of features.
template <typename Kernel>
struct Overloads {
    Overloads(const OrtApi& api, Device device, bool infer)
        : operators{{api, Type::kFloat32, device, infer},
                    {api, Type::kFloat64, device, infer},
                    {api, Type::kFloat16, device, infer},
                    {api, Type::kBFloat16, device, infer}} {}

    void add_to(const OrtApi& api, OrtCustomOpDomain* domain) const {
        for (const Operator<Kernel>& op : operators) {
            check_status(api, api.CustomOpDomain_Add(domain, &op));
        }
    }

    const Operator<Kernel> operators[4];
};

// The operators in the terms of one ONNX Runtime: a process may hold several. Sessions refer to it, so that
// it is never released; the library, too, stays loaded (see CMakeLists.txt).
class Library {
  public:
    Library(const OrtApi& api, bool infer)
        : api_(api),
          contextual_{{api, Device::kCpu, infer}, {api, Device::kCuda, infer}},
          channel_distance_{{api, Device::kCpu, infer}, {api, Device::kCuda, infer}},
          domain_(nullptr, api.ReleaseCustomOpDomain) {
        OrtCustomOpDomain* domain = nullptr;
        check_status(api, api.CreateCustomOpDomain(kDomain, &domain));
        domain_.reset(domain);
        for (int device = 0; device < (has_cuda() ? 2 : 1); ++device) {
            contextual_[device].add_to(api, domain);
            channel_distance_[device].add_to(api, domain);
        }
    }
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;

    static const Library& of(const OrtApi& api, const char* version) {
        static std::mutex mutex;
        static auto& libraries = *new std::list<Library>;
        const std::lock_guard lock(mutex);
        for (const Library& library : libraries) {
            if (&library.api_ == &api) return library;
        }
        return libraries.emplace_back(api, infers_shapes_safely(version));
    }

    void register_in(OrtSessionOptions* options) const {
        check_status(api_, api_.AddCustomOpDomain(options, domain_.get()));
    }

  private:
    const OrtApi& api_;
    const Overloads<ContextualLoss> contextual_[2];  // by device
    const Overloads<ChannelDistance> channel_distance_[2];
    // Released where the operators cannot be added to it.
    std::unique_ptr<OrtCustomOpDomain, void (*)(OrtCustomOpDomain*)> domain_;
};

}  // namespace
}  // namespace pe::ort_adapter

extern "C" [[gnu::visibility("default")]] OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                       const OrtApiBase* base) {
    using namespace pe::ort_adapter;
    const OrtApi* api = base->GetApi(kApiVersion);
    const char* const version = base->GetVersionString();
    if (api == nullptr) {
        char message[100];
        std::snprintf(message, sizeof message, "expected ONNX Runtime 1.18 or newer, got %s", version);
        return status_of(*base->GetApi(1), ORT_NOT_IMPLEMENTED, "pe_runtime", message);
    }
    return guarded(*api, "pe_runtime", [&] { Library::of(*api, version).register_in(options); });
}
