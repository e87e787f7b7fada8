#include "gate.h"

#include <sys/stat.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <new>
#include <semaphore>
#include <thread>
#include <utility>

#include "images/image.h"
#include "maps.h"
#include "text.h"

namespace pe::gate {
namespace {

// What stops all pairs, not one.
class FatalError : public Error {
  public:
    using Error::Error;
};

Image read_side(const std::optional<std::string>& path, const char* side,
                const std::optional<std::string>& other, const char* other_side) {
    if (!path) {
        throw Error(std::string(side) + ": expected a file for " + other_side + " " + *other + ", got none");
    }
    try {
        return read_image(*path);
    } catch (const Error& error) {
        throw Error(std::string(side) + ": " + error.what());
    }
}

bool is_same_file(const std::string& first, const std::string& second) {
    struct stat a, b;
    return stat(first.c_str(), &a) == 0 && stat(second.c_str(), &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

std::vector<std::string> warnings_of(const pe_runtime::Metric& metric, const Pair& pair,
                                     const Image& reference, const Image& candidate) {
    std::vector<std::string> warnings;
    if (is_same_file(*pair.reference, *pair.candidate)) {
        warnings.emplace_back("reference and candidate are the same file");
    }
    if (reference.icc != candidate.icc) warnings.emplace_back("the ICC profiles differ, and are not applied");
    if (reference.has_alpha() != candidate.has_alpha()) {
        warnings.push_back(std::string("only the ") + (reference.has_alpha() ? "reference" : "candidate") +
                           " has transparency");
    }
    const auto of_side = [&](const std::string& side, const Image& image) {
        if (image.several)
            warnings.push_back("the " + side + " holds several images, of which the first is judged");
        if (image.cmyk) warnings.push_back("the " + side + " is CMYK, converted without a colour profile");
    };
    of_side("reference", reference);
    of_side("candidate", candidate);
    const bool deep = reference.sample == PE_UINT16 || candidate.sample == PE_UINT16;
    if (deep && metric.input() == PE_INPUT_UINT8) {
        warnings.emplace_back("16-bit pixels rounded to 8 bits, which the metric takes");
    }
    return warnings;
}

// Lets so many threads through at once.
using Gate = std::counting_semaphore<>;

class Passage {
  public:
    explicit Passage(Gate& gate) : gate_(gate) { gate_.acquire(); }
    ~Passage() { gate_.release(); }
    Passage(const Passage&) = delete;
    Passage& operator=(const Passage&) = delete;

  private:
    Gate& gate_;
};

// The score, and the map where it is written.
std::pair<double, std::optional<pe_runtime::Map>> score(const pe_runtime::Metric& metric,
                                                        const pe_image& reference, const pe_image& candidate,
                                                        const JudgeOptions& options, Gate& scoring) {
    pe_score_options settings = PE_SCORE_OPTIONS_INIT;
    std::copy(options.background.begin(), options.background.end(), settings.background);
    const Passage passage(scoring);
    if (!options.maps) return {metric.score(reference, candidate, settings), std::nullopt};
    pe_runtime::Scored scored = metric.score_with_map(reference, candidate, settings);
    return {scored.score, std::move(scored.map)};
}

void judge(const pe_runtime::Metric& metric, const Pair& pair, const JudgeOptions& options, Gate& scoring,
           Result& result) {
    const Image reference = read_side(pair.reference, "reference", pair.candidate, "candidate");
    const Image candidate = read_side(pair.candidate, "candidate", pair.reference, "reference");
    const pe_image first = reference.upright(), second = candidate.upright();
    const auto [value, map] = score(metric, first, second, options, scoring);
    result.verdict = metric.passes(value, options.threshold) ? Verdict::kPass : Verdict::kFail;
    result.score = value;
    result.width = first.width;
    result.height = first.height;
    result.warnings = warnings_of(metric, pair, reference, candidate);
    if (map) {
        result.map = tidy_path(*options.maps + "/" + pair.name + ".png");
        try {
            write_map(*map, *result.map, first.width, first.height, options.map_max);
        } catch (const Error& error) {
            throw FatalError(error.what());
        }
    }
}

Result judge_or_error(const pe_runtime::Metric& metric, const Pair& pair, const JudgeOptions& options,
                      Gate& scoring) {
    Result result;
    result.name = pair.name;
    result.reference = pair.reference;
    result.candidate = pair.candidate;
    try {
        judge(metric, pair, options, scoring, result);
    } catch (const FatalError&) {
        throw;
    } catch (const std::bad_alloc&) {
        result.error = "out of memory";
    } catch (const std::exception& error) {
        result.error = error.what();
    }
    return result;
}

}  // namespace

std::vector<Result> judge_pairs(const pe_runtime::Metric& metric, const std::vector<Pair>& pairs,
                                const JudgeOptions& options, const std::function<void(std::size_t)>& done,
                                const std::atomic<bool>& stop) {
    constexpr unsigned kMostJobs = 8;
    const unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1u, kMostJobs);
    const std::size_t wanted = options.jobs == 0 ? cores : std::size_t(options.jobs);
    const std::size_t jobs = std::min(std::max(wanted, std::size_t(options.at_once)), pairs.size());
    std::vector<Result> results(pairs.size());
    std::atomic<std::size_t> next = 0, finished = 0;
    std::atomic<bool> failed = false;
    Gate scoring(options.at_once);
    std::mutex mutex;
    std::exception_ptr failure;
    const auto work = [&] {
        for (std::size_t i = next++; i < pairs.size() && !stop && !failed; i = next++) {
            try {
                results[i] = judge_or_error(metric, pairs[i], options, scoring);
                done(++finished);
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!failed.exchange(true)) failure = std::current_exception();
            }
        }
    };
    std::vector<std::thread> threads;
    try {
        for (std::size_t i = 1; i < jobs; ++i) threads.emplace_back(work);
    } catch (const std::system_error&) {
        // With as many threads as there are.
    }
    work();
    for (std::thread& thread : threads) thread.join();
    if (failure) std::rethrow_exception(failure);
    return results;
}

}  // namespace pe::gate
