// The C interface on metrics that the test writes: opening, describing, scoring, errors, threads.
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "helpers.h"

namespace {

using onnx_writer::Model;

constexpr int64_t kSize = 8;
const std::vector<uint8_t> kDark(kSize * kSize * 3, 0), kLight(kSize * kSize * 3, 255);
const pe_image kFirst = image_of(kDark, kSize, kSize), kSecond = image_of(kLight, kSize, kSize);

void test_description() {
    const std::string json =
        R"({"format": 1, "metric": "lpips", "input": "uint8", "min_size": 4, "threshold": 0.25})";
    pe_metric* metric = open_model({.uint8 = true, .has_map = false, .metadata = json});
    CHECK(pe_metric_metadata(metric) == json);
    CHECK(std::string(pe_metric_kind(metric)) == "lpips");
    CHECK(pe_metric_input(metric) == PE_INPUT_UINT8);
    CHECK(pe_metric_min_size(metric) == 4);
    CHECK(pe_metric_has_map(metric) == 0);
    double threshold = 0;
    CHECK(pe_metric_threshold(metric, &threshold) == 1 && threshold == 0.25);
    pe_metric_close(metric);
    metric = open_model({});
    CHECK(pe_metric_input(metric) == PE_INPUT_FLOAT32);
    CHECK(pe_metric_has_map(metric) == 1);
    CHECK(pe_metric_threshold(metric, &threshold) == 0 && threshold == 0.25);
    CHECK(pe_error_text(metric)[0] == '\0');
    pe_metric_close(metric);
}

void test_score_and_verdict() {
    pe_metric* metric = open_model({.scale = 0.1f, .threshold = "0.1"});
    double score = -1;
    pe_map* map = nullptr;
    CHECK(pe_metric_score(metric, &kFirst, &kSecond, nullptr, &score, &map) == PE_OK);
    CHECK(score == 0.1);  // a float32, as one reads it
    int passed = -1;
    CHECK(pe_metric_verdict(metric, score, PE_OWN_THRESHOLD, &passed) == PE_OK && passed == 1);
    CHECK(pe_metric_verdict(metric, score, 0.0999999, &passed) == PE_OK && passed == 0);
    for (const double bad : {-0.5, double(NAN), double(INFINITY)}) {
        CHECK(pe_metric_verdict(metric, score, bad, &passed) == PE_INVALID_ARGUMENT && passed == 0);
        CHECK_TEXT(pe_error_text(metric), "threshold: expected a finite number >= 0");
        CHECK(pe_metric_verdict(metric, bad, 1, &passed) == PE_INVALID_ARGUMENT);
        CHECK_TEXT(pe_error_text(metric), "score: expected a finite number >= 0");
    }
    pe_metric_close(metric);
    CHECK(pe_map_width(map) == kSize && pe_map_height(map) == kSize);
    for (int64_t i = 0; i < kSize * kSize; ++i) CHECK(pe_map_values(map)[i] == 1);
    pe_map_free(map);

    metric = open_model({.has_map = false});
    CHECK(pe_metric_verdict(metric, 0.5, PE_OWN_THRESHOLD, &passed) == PE_INVALID_ARGUMENT);
    CHECK_TEXT(pe_error_text(metric), "threshold: expected a number, because the metric carries none");
    CHECK(pe_metric_score(metric, &kFirst, &kSecond, nullptr, &score, &map) == PE_INVALID_METRIC);
    CHECK_TEXT(pe_error_text(metric), "map: expected a metric with an output map, got one without");
    pe_metric_close(metric);
}

void test_scores_that_are_none() {
    const struct {
        float scale, offset;
        const char* text;
    } cases[] = {{0.5f, -1, "expected a finite score >= 0, got -0.5"},
                 {1, INFINITY, "expected a finite score >= 0, got inf"},
                 {1, NAN, "expected a finite score >= 0, got "}};
    for (const auto& one : cases) {
        pe_metric* metric = open_model({.scale = one.scale, .offset = one.offset});
        double score = -1;
        CHECK(pe_metric_score(metric, &kFirst, &kSecond, nullptr, &score, nullptr) == PE_RUN_FAILED);
        CHECK_TEXT(pe_error_text(metric), one.text);
        CHECK(score == -1);
        pe_metric_close(metric);
    }
    // A rounding error of float32 counts as 0.
    pe_metric* metric = open_model({.scale = 0, .offset = -5e-7f});
    double score = -1;
    CHECK(pe_metric_score(metric, &kFirst, &kSecond, nullptr, &score, nullptr) == PE_OK);
    CHECK(score == 0 && !std::signbit(score));
    pe_metric_close(metric);
}

void check_refused(const std::string& bytes, pe_status status, const char* text,
                   const pe_metric_options* options = nullptr) {
    pe_metric* metric = nullptr;
    CHECK(pe_metric_open_memory(bytes.data(), bytes.size(), options, &metric) == status);
    CHECK(metric == nullptr);
    CHECK_TEXT(pe_error_text(nullptr), text);
    CHECK(std::string(pe_error_text(nullptr)).find('\n') == std::string::npos);
}

void test_models_that_are_none() {
    const auto metadata = [](const char* json) { return onnx_writer::write({.metadata = json}); };
    const struct {
        std::string bytes;
        const char* text;
    } cases[] = {
        {"", "it has no graph"},
        {"hello, world", "expected a valid ONNX file"},
        {std::string(1000, '\xff'), "expected a valid ONNX file"},
        {metadata("none"), "without the metadata key 'pe_runtime'"},
        {metadata("{"), "metadata 'pe_runtime': expected valid metadata: expected JSON"},
        {metadata("[1]"), "expected a JSON object, got array"},
        {metadata("{\"format\": 2}"), "metadata: expected format 1, got 2"},
        {metadata("{\"format\": true}"), "metadata: expected format 1, got true"},
        {metadata("{\"format\": 1}"), "metadata: expected input 'float32' or 'uint8', got null"},
        {metadata(R"({"format": 1, "input": "int8"})"), "expected input 'float32' or 'uint8', got \"int8\""},
        {metadata(R"({"format": 1, "input": "float32", "min_size": 0})"),
         "expected min_size of at least 1, got 0"},
        {metadata(R"({"format": 1, "input": "float32", "min_size": 1.5})"),
         "expected min_size of at least 1"},
        {metadata(R"({"format": 1, "input": "float32", "min_size": 4, "threshold": -1})"),
         "threshold null or a finite"},
        {metadata(R"({"format": 1, "input": "float32", "min_size": 4, "threshold": 1e999})"),
         "expected JSON"},
        {metadata(R"({"format": 1, "input": "float32", "min_size": 4, "threshold": "1"})"),
         "threshold null or a finite"},
        {metadata(R"({"format": 1, "input": "uint8", "min_size": 4})"),
         "reference: expected uint8 of shape (?, ?, ?, 3)"},
        {metadata((std::string(100000, '[') + std::string(100000, ']')).c_str()),
         "expected JSON of at most 32 levels"},
        {onnx_writer::write({.extra_metadata = "{}"}), "expected one metadata key 'pe_runtime', got 2"},
        {onnx_writer::write({.channels = 4}),
         "reference: expected float32 of shape (?, 3, ?, ?), got float32 of shape (?, 4, ?, ?)"},
        {onnx_writer::write({.first_input = "original"}),
         "expected inputs reference and distorted, got original, distorted"},
        {onnx_writer::write({.score_name = "loss"}), "expected an output score, got loss, map"},
        {onnx_writer::write({.external_data = true}), "expected the weights inside the file"},
    };
    for (const auto& one : cases) check_refused(one.bytes, PE_INVALID_METRIC, one.text);
    const std::string whole = onnx_writer::write({});
    for (std::size_t length = 0; length < whole.size(); length += 7) {
        pe_metric* metric = nullptr;
        // The metadata comes last.
        CHECK(pe_metric_open_memory(whole.data(), length, nullptr, &metric) == PE_INVALID_METRIC);
    }
}

void test_files(const std::filesystem::path& folder) {
    const std::string path = (folder / "metric.onnx").string();
    const std::string bytes = onnx_writer::write({});
    std::ofstream(path, std::ios::binary) << bytes;
    pe_metric* metric = nullptr;
    CHECK(pe_metric_open(path.c_str(), nullptr, &metric) == PE_OK);
    pe_metric_close(metric);
    metric = nullptr;
    const std::string missing = (folder / "missing.onnx").string();
    CHECK(pe_metric_open(missing.c_str(), nullptr, &metric) == PE_UNREADABLE);
    CHECK_TEXT(pe_error_text(nullptr), missing + ": No such file or directory");
    CHECK(pe_metric_open(folder.c_str(), nullptr, &metric) == PE_UNREADABLE);
    CHECK_TEXT(pe_error_text(nullptr), "expected an ONNX file, got something that is not a file");
    std::ofstream(path, std::ios::binary) << bytes.substr(0, 200);
    CHECK(pe_metric_open(path.c_str(), nullptr, &metric) == PE_INVALID_METRIC);
    CHECK_TEXT(pe_error_text(nullptr), path + ": expected a valid ONNX file");
    CHECK(metric == nullptr);
}

void test_options() {
    const std::string bytes = onnx_writer::write({}), fused = onnx_writer::write({.domain = "pe_runtime"});
    pe_metric_options options = PE_METRIC_OPTIONS_INIT;
    options.onnxruntime = "/nonexistent/libonnxruntime.so";
    check_refused(bytes, PE_NO_RUNTIME, "onnxruntime: expected the library of ONNX Runtime: /nonexistent",
                  &options);
    options.onnxruntime = "libm.so.6";
    check_refused(bytes, PE_NO_RUNTIME, "onnxruntime: expected the library of ONNX Runtime, got another",
                  &options);
    options = PE_METRIC_OPTIONS_INIT;
    options.threads = -1;
    check_refused(bytes, PE_INVALID_ARGUMENT, "threads: expected 0 (one per core) or more, got -1", &options);
    options = PE_METRIC_OPTIONS_INIT;
    options.provider = "abacus";
    check_refused(bytes, PE_INVALID_ARGUMENT, "got 'abacus'", &options);
    options.provider = "CPUExecutionProvider";
    pe_metric_close(open_model({}, &options));
    options = PE_METRIC_OPTIONS_INIT;
    set_number(options.operators, 7);
    check_refused(bytes, PE_INVALID_ARGUMENT, "operators: expected PE_OPERATORS_AUTO, _ON or _OFF, got 7",
                  &options);
    // Not looked at where the metric has no such operators.
    options.operators = PE_OPERATORS_ON;
    options.operators_library = "/nonexistent/libpe_runtime_ort.so";
    pe_metric_close(open_model({}, &options));
    check_refused(fused, PE_NO_RUNTIME, "operators_library: expected the operators of pe_runtime", &options);
    options.operators = PE_OPERATORS_OFF;
    pe_metric_close(open_model({.domain = "pe_runtime"}, &options));

    // A structure of a newer header is taken as long as what it has more is unused.
    struct {
        pe_metric_options known = PE_METRIC_OPTIONS_INIT;
        uint64_t unknown = 0;
    } newer;
    newer.known.size = sizeof newer;
    pe_metric_close(open_model({}, &newer.known));
    newer.unknown = 1;
    check_refused(bytes, PE_INVALID_ARGUMENT,
                  "options: expected a structure made with its initialiser, got one with settings",
                  &newer.known);
}

void test_null() {
    pe_metric* metric = open_model({});
    double score = 0;
    int passed = 0;
    CHECK(pe_metric_score(nullptr, &kFirst, &kSecond, nullptr, &score, nullptr) == PE_INVALID_ARGUMENT);
    CHECK_TEXT(pe_error_text(nullptr), "metric: expected a metric, got NULL");
    CHECK(pe_metric_score(metric, nullptr, &kSecond, nullptr, &score, nullptr) == PE_INVALID_ARGUMENT);
    CHECK(pe_metric_score(metric, &kFirst, nullptr, nullptr, &score, nullptr) == PE_INVALID_ARGUMENT);
    CHECK(pe_metric_score(metric, &kFirst, &kSecond, nullptr, nullptr, nullptr) == PE_INVALID_ARGUMENT);
    CHECK(pe_metric_verdict(nullptr, 1, 1, &passed) == PE_INVALID_ARGUMENT);
    CHECK(pe_metric_verdict(metric, 1, 1, nullptr) == PE_INVALID_ARGUMENT);
    CHECK(pe_metric_open(nullptr, nullptr, &metric) == PE_INVALID_ARGUMENT);
    CHECK(pe_metric_open("x.onnx", nullptr, nullptr) == PE_INVALID_ARGUMENT);
    CHECK(pe_metric_open_memory(nullptr, 0, nullptr, &metric) == PE_INVALID_ARGUMENT);
    CHECK(pe_metric_metadata(nullptr) == nullptr && pe_metric_kind(nullptr) == nullptr);
    CHECK(pe_metric_input(nullptr) == PE_INPUT_NONE && pe_metric_min_size(nullptr) == 0);
    CHECK(pe_metric_has_map(nullptr) == 0 && pe_metric_threshold(nullptr, &score) == 0);
    CHECK(pe_map_width(nullptr) == 0 && pe_map_height(nullptr) == 0 && pe_map_values(nullptr) == nullptr);
    pe_metric_close(metric);
    pe_metric_close(nullptr);
    pe_map_free(nullptr);
    CHECK(pe_abi_version() == PE_ABI_VERSION);
    CHECK(std::string(pe_version()).find('.') != std::string::npos);
    CHECK(std::string(pe_status_name(PE_RUN_FAILED)) == "run failed");
}

// Good and bad pairs at once: each thread has its own scores and its own error text.
void test_threads() {
    pe_metric* metric = open_model({});
    std::atomic<int> wrong = 0;
    const auto work = [&](int number) {
        const int64_t bad_width = 100 + number;
        pe_image bad = kFirst;
        bad.width = bad_width;
        const std::vector<uint8_t> level(kSize * kSize * 3, uint8_t(number * 5));
        const pe_image mine = image_of(level, kSize, kSize);
        const std::string text = "got 8 x 8 and " + std::to_string(bad_width) + " x 8";
        for (int i = 0; i < 50; ++i) {
            double score = -1;
            if (pe_metric_score(metric, &kFirst, &bad, nullptr, &score, nullptr) != PE_INVALID_ARGUMENT)
                ++wrong;
            const char* said = pe_error_text(metric);
            pe_map* map = nullptr;
            if (pe_metric_score(metric, &kFirst, &mine, nullptr, &score, &map) != PE_OK) ++wrong;
            pe_map_free(map);
            const double unit = number * 5 / 255.0;
            if (std::abs(score - unit * unit) > 1e-6) ++wrong;
            if (std::string(said).find(text) == std::string::npos) ++wrong;
        }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) threads.emplace_back(work, i);
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(pe_error_text(metric)[0] == '\0');
    pe_metric_close(metric);
}

// Opening and closing in several threads, with ONNX Runtime's environment going and coming back.
void test_opening_threads() {
    std::atomic<int> wrong = 0;
    const std::string bytes = onnx_writer::write({}), bad = bytes.substr(0, 99);
    const auto work = [&] {
        for (int i = 0; i < 10; ++i) {
            pe_metric* metric = nullptr;
            if (pe_metric_open_memory(bad.data(), bad.size(), nullptr, &metric) != PE_INVALID_METRIC) ++wrong;
            if (pe_metric_open_memory(bytes.data(), bytes.size(), nullptr, &metric) != PE_OK) ++wrong;
            double score = -1;
            if (pe_metric_score(metric, &kFirst, &kSecond, nullptr, &score, nullptr) != PE_OK) ++wrong;
            if (score != 1) ++wrong;
            pe_metric_close(metric);
        }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
}

}  // namespace

int main() {
    const auto folder = std::filesystem::temp_directory_path() / ("pe_capi_" + std::to_string(std::rand()));
    std::filesystem::create_directories(folder);
    test_description();
    test_score_and_verdict();
    test_scores_that_are_none();
    test_models_that_are_none();
    test_files(folder);
    test_options();
    test_null();
    test_threads();
    test_opening_threads();
    std::filesystem::remove_all(folder);
    return 0;
}
