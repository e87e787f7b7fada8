// Damaged metrics: a score or an error, whatever the bytes.
//
//     fuzz_capi COUNT SEED [METRIC.onnx ...]
//
// changes some bytes of small metrics, and of those that are named, COUNT times each.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <new>
#include <random>

#include "helpers.h"

#ifdef __SANITIZE_ADDRESS__
// Damaged metrics ask ONNX Runtime for more memory than there is. The sanitizer's operator new would end the
// process there instead of throwing; its malloc need not.
namespace {

void* allocate(std::size_t bytes, std::size_t alignment) {
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes) != 0 || memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, 16); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, std::size_t(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
#endif

namespace {

std::string damage(std::string bytes, std::mt19937& random) {
    const auto below = [&](std::size_t limit) { return std::size_t(random() % limit); };
    for (std::size_t change = 1 + below(4); change > 0 && !bytes.empty(); --change) {
        const std::size_t at = below(bytes.size());
        // Mostly in place: a shift of what follows makes most files no protobuf message at all.
        switch (below(16)) {
            case 0:
                bytes.erase(at, 1 + below(8));
                break;
            case 1:
                bytes.insert(at, 1 + below(8), char(random()));
                break;
            case 2:
                bytes.resize(at);
                break;
            case 3:
            case 4:
            case 5:
            case 6:
                bytes[at] = char(random());
                break;
            default:
                bytes[at] = char(bytes[at] ^ (1 << below(8)));
        }
    }
    return bytes;
}

// 1 where it scored.
int try_metric(const std::string& bytes, const pe_image& first, const pe_image& second) {
    pe_metric_options options = PE_METRIC_OPTIONS_INIT;
    options.threads = 1;
    pe_metric* metric = nullptr;
    if (pe_metric_open_memory(bytes.data(), bytes.size(), &options, &metric) != PE_OK) {
        CHECK(metric == nullptr && pe_error_text(nullptr)[0] != '\0');
        return 0;
    }
    double score = -1;
    pe_map* map = nullptr;
    const bool with_map = pe_metric_has_map(metric) != 0;
    const pe_status status =
        pe_metric_score(metric, &first, &second, nullptr, &score, with_map ? &map : nullptr);
    if (status == PE_OK) {
        CHECK(score >= 0 && std::isfinite(score));
    } else {
        CHECK(pe_error_text(metric)[0] != '\0');
    }
    pe_map_free(map);
    pe_metric_close(metric);
    return status == PE_OK ? 1 : 0;
}

}  // namespace

int main(int count, char** arguments) {
    CHECK(count >= 3);
    const int turns = std::atoi(arguments[1]);
    std::mt19937 random(unsigned(std::atoi(arguments[2])));
    std::vector<std::string> files = {onnx_writer::write({}),
                                      onnx_writer::write({.uint8 = true, .has_map = false})};
    for (int i = 3; i < count; ++i) {
        std::ifstream file(arguments[i], std::ios::binary);
        files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        CHECK(!files.back().empty());
    }
    const std::vector<uint8_t> first = samples<uint8_t>(48 * 40 * 3, 1, 256),
                               second = samples<uint8_t>(48 * 40 * 3, 2, 256);
    const pe_image reference = image_of(first, 48, 40), distorted = image_of(second, 48, 40);
    int good = 0;
    for (const std::string& file : files) {
        CHECK(try_metric(file, reference, distorted) == 1);
        for (int turn = 0; turn < turns; ++turn)
            good += try_metric(damage(file, random), reference, distorted);
    }
    const int total = turns * int(files.size());
    std::printf("%d damaged metrics: %d gave a score, %d an error\n", total, good, total - good);
    CHECK(turns < 50 || (good > 0 && good < total));
    return 0;
}
