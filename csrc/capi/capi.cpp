// The C interface: arguments checked, exceptions turned into statuses and texts.
#include <pe_runtime.h>

#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "error.h"
#include "metric.h"

using pe::capi::Error;

struct pe_metric {
    pe_metric(const void* data, size_t bytes, const pe_metric_options& options)
        : metric(data, bytes, options) {}

    pe::capi::Metric metric;
    mutable pe::capi::ErrorTexts errors;
};

struct pe_map {
    pe::capi::Map map;
};

namespace {

pe_status keep(const pe_metric* metric, pe_status status, const char* text) noexcept {
    (metric == nullptr ? pe::capi::errors_without_handle() : metric->errors).set(text);
    return status;
}

// Runs `call`; no exception leaves it.
template <class Call>
pe_status guarded(const pe_metric* metric, Call&& call) noexcept {
    try {
        call();
        return PE_OK;
    } catch (const Error& error) {
        return keep(metric, error.status(), error.what());
    } catch (const std::bad_alloc&) {
        return keep(metric, PE_OUT_OF_MEMORY, "out of memory");
    } catch (const std::exception& error) {
        return keep(metric, PE_INTERNAL_ERROR, error.what());
    } catch (...) {
        return keep(metric, PE_INTERNAL_ERROR, "an unknown exception");
    }
}

void require(bool holds, const char* text) {
    if (!holds) throw Error(PE_INVALID_ARGUMENT, text);
}

// A structure of the caller. One that is longer than this library's comes from a newer header: what it has
// more must be zero, which is the default of every member that is added.
template <class T>
T read_struct(const T* given, const char* name) {
    size_t size = 0;
    std::memcpy(&size, given, sizeof size);
    const std::string expected = std::string(name) + ": expected a structure made with its initialiser, got ";
    if (size < sizeof(T) || size > 4096) {
        throw Error(PE_INVALID_ARGUMENT, expected + "one whose size is " + std::to_string(size));
    }
    const char* rest = reinterpret_cast<const char*>(given);
    for (size_t i = sizeof(T); i < size; ++i) {
        if (rest[i] != 0) {
            throw Error(PE_INVALID_ARGUMENT, expected + "one with settings that this version does not have");
        }
    }
    T copy;
    std::memcpy(&copy, given, sizeof copy);
    return copy;
}

pe_metric_options read_options(const pe_metric_options* given) {
    const pe_metric_options options =
        given == nullptr ? pe_metric_options(PE_METRIC_OPTIONS_INIT) : read_struct(given, "options");
    if (options.threads < 0) {
        throw Error(PE_INVALID_ARGUMENT,
                    "threads: expected 0 (one per core) or more, got " + std::to_string(options.threads));
    }
    const int operators = pe::capi::number_of(options.operators);
    if (operators < PE_OPERATORS_AUTO || operators > PE_OPERATORS_OFF) {
        throw Error(PE_INVALID_ARGUMENT,
                    "operators: expected PE_OPERATORS_AUTO, _ON or _OFF, got " + std::to_string(operators));
    }
    return options;
}

}  // namespace

uint32_t pe_abi_version(void) { return PE_ABI_VERSION; }

const char* pe_version(void) { return PE_RUNTIME_VERSION; }

const char* pe_status_name(pe_status status) {
    switch (pe::capi::number_of(status)) {
        case PE_OK:
            return "ok";
        case PE_INVALID_ARGUMENT:
            return "invalid argument";
        case PE_UNREADABLE:
            return "unreadable file";
        case PE_INVALID_METRIC:
            return "invalid metric";
        case PE_NO_RUNTIME:
            return "no runtime";
        case PE_RUN_FAILED:
            return "run failed";
        case PE_OUT_OF_MEMORY:
            return "out of memory";
        case PE_INTERNAL_ERROR:
            return "internal error";
    }
    return "unknown status";
}

const char* pe_error_text(const pe_metric* metric) {
    return (metric == nullptr ? pe::capi::errors_without_handle() : metric->errors).get();
}

pe_status pe_metric_open(const char* path, const pe_metric_options* options, pe_metric** metric) {
    return guarded(nullptr, [&] {
        require(path != nullptr, "path: expected a path, got NULL");
        require(metric != nullptr, "metric: expected where to put the metric, got NULL");
        const pe_metric_options settings = read_options(options);
        const std::string data = pe::capi::read_metric_file(path);
        try {
            *metric = new pe_metric(data.data(), data.size(), settings);
        } catch (const Error& error) {
            if (error.status() != PE_INVALID_METRIC) throw;
            throw Error(PE_INVALID_METRIC, std::string(path) + ": " + error.what());
        }
    });
}

pe_status pe_metric_open_memory(const void* data, size_t bytes, const pe_metric_options* options,
                                pe_metric** metric) {
    return guarded(nullptr, [&] {
        require(data != nullptr, "data: expected the bytes of a file, got NULL");
        require(metric != nullptr, "metric: expected where to put the metric, got NULL");
        *metric = new pe_metric(data, bytes, read_options(options));
    });
}

void pe_metric_close(pe_metric* metric) { delete metric; }

const char* pe_metric_metadata(const pe_metric* metric) {
    return metric == nullptr ? nullptr : metric->metric.metadata().text.c_str();
}

const char* pe_metric_kind(const pe_metric* metric) {
    return metric == nullptr ? nullptr : metric->metric.metadata().kind.c_str();
}

pe_input pe_metric_input(const pe_metric* metric) {
    return metric == nullptr ? PE_INPUT_NONE : metric->metric.metadata().input;
}

int64_t pe_metric_min_size(const pe_metric* metric) {
    return metric == nullptr ? 0 : metric->metric.metadata().min_size;
}

int pe_metric_has_map(const pe_metric* metric) {
    return metric != nullptr && metric->metric.has_map() ? 1 : 0;
}

int pe_metric_threshold(const pe_metric* metric, double* threshold) {
    if (metric == nullptr || threshold == nullptr || !metric->metric.metadata().threshold) return 0;
    *threshold = *metric->metric.metadata().threshold;
    return 1;
}

pe_status pe_metric_score(const pe_metric* metric, const pe_image* reference, const pe_image* distorted,
                          const pe_score_options* options, double* score, pe_map** map) {
    return guarded(metric, [&] {
        require(metric != nullptr, "metric: expected a metric, got NULL");
        require(reference != nullptr, "reference: expected an image, got NULL");
        require(distorted != nullptr, "distorted: expected an image, got NULL");
        require(score != nullptr, "score: expected where to put the score, got NULL");
        const pe_score_options settings =
            options == nullptr ? pe_score_options(PE_SCORE_OPTIONS_INIT) : read_struct(options, "options");
        auto scored = metric->metric.score(
            read_struct(reference, "reference"), read_struct(distorted, "distorted"),
            {settings.background[0], settings.background[1], settings.background[2]}, map != nullptr);
        if (map != nullptr) *map = new pe_map{std::move(*scored.map)};
        *score = scored.score;
    });
}

pe_status pe_metric_verdict(const pe_metric* metric, double score, double threshold, int* passed) {
    return guarded(metric, [&] {
        require(metric != nullptr, "metric: expected a metric, got NULL");
        require(passed != nullptr, "passed: expected where to put the verdict, got NULL");
        *passed = metric->metric.passes(score, threshold) ? 1 : 0;
    });
}

int64_t pe_map_width(const pe_map* map) { return map == nullptr ? 0 : map->map.width; }

int64_t pe_map_height(const pe_map* map) { return map == nullptr ? 0 : map->map.height; }

const float* pe_map_values(const pe_map* map) { return map == nullptr ? nullptr : map->map.values.data(); }

void pe_map_free(pe_map* map) { delete map; }
