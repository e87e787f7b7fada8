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

// Both sides of a pair, reference first.
template <class T>
struct Sides {
    T reference, candidate;
};

// Runs `read`, and names the file in its errors.
template <class Read>
auto of_side(const char* side, const std::string& path, const Read& read) {
    try {
        return read();
    } catch (const Error& error) {
        throw Error(std::string(side) + ": " + path + ": " + error.what());
    }
}

std::string bytes_of(const std::optional<std::string>& path, const char* side,
                     const std::optional<std::string>& other, const char* other_side) {
    if (!path) {
        throw Error(std::string(side) + ": expected a file for " + other_side + " " + *other + ", got none");
    }
    try {
        return read_image_file(*path);
    } catch (const Error& error) {
        throw Error(std::string(side) + ": " + error.what());
    }
}

// Sizes that differ whichever way the images are turned: a small file may hold a large image, whose pixels
// nobody needs then.
void check_sizes(const std::string& reference, const std::string& candidate) {
    const std::optional<Size> first = stored_size(reference), second = stored_size(candidate);
    if (!first || !second) return;
    if (std::minmax(first->width, first->height) == std::minmax(second->width, second->height)) return;
    const auto text = [](const Size& size) {
        return std::to_string(size.width) + " x " + std::to_string(size.height);
    };
    throw Error("reference and distorted: expected the same width and height, got " + text(*first) + " and " +
                text(*second));
}

Sides<Image> read_images(const Pair& pair) {
    std::string reference = bytes_of(pair.reference, "reference", pair.candidate, "candidate");
    std::string candidate = bytes_of(pair.candidate, "candidate", pair.reference, "reference");
    check_sizes(reference, candidate);
    Sides<Image> images;
    images.reference = of_side("reference", *pair.reference, [&] { return decode_image(reference); });
    reference = {};
    images.candidate = of_side("candidate", *pair.candidate, [&] { return decode_image(candidate); });
    return images;
}

bool is_same_file(const std::string& first, const std::string& second) {
    struct stat a, b;
    return stat(first.c_str(), &a) == 0 && stat(second.c_str(), &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

// Of what was done to the images, or found in them; brings their colours together.
std::vector<std::string> prepare(const pe_runtime::Metric& metric, const Pair& pair, Sides<Image>& images,
                                 const JudgeOptions& options) {
    auto& [reference, candidate] = images;
    std::vector<std::string> warnings;
    if (is_same_file(*pair.reference, *pair.candidate)) {
        warnings.emplace_back("reference and candidate are the same file");
    }
    match_colours(reference, candidate, options.stored_colours, warnings);
    if (reference.has_alpha() != candidate.has_alpha()) {
        warnings.push_back(std::string("only the ") + (reference.has_alpha() ? "reference" : "candidate") +
                           " has transparency");
    }
    const auto add_of_side = [&](const std::string& side, const Image& image) {
        if (image.damaged_exif) {
            warnings.push_back("the EXIF data of the " + side + " is damaged and is ignored");
        }
        if (image.several)
            warnings.push_back("the " + side + " holds several images, of which the first is judged");
        if (image.cmyk) warnings.push_back("the " + side + " is CMYK, converted without a colour profile");
    };
    add_of_side("reference", reference);
    add_of_side("candidate", candidate);
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

// Black or white in each component, whichever is further away.
Colour opposite(const Colour& colour) {
    Colour other;
    std::transform(colour.begin(), colour.end(), other.begin(), [](uint8_t c) { return c < 128 ? 255 : 0; });
    return other;
}

struct Scored {
    double score = 0;
    std::optional<pe_runtime::Map> map;  // where it is written
};

Scored score_over(const pe_runtime::Metric& metric, const Sides<pe_image>& images, const Colour& background,
                  bool with_map) {
    pe_score_options settings = PE_SCORE_OPTIONS_INIT;
    std::copy(background.begin(), background.end(), settings.background);
    if (!with_map) return {metric.score(images.reference, images.candidate, settings), std::nullopt};
    pe_runtime::Scored scored = metric.score_with_map(images.reference, images.candidate, settings);
    return {scored.score, std::move(scored.map)};
}

// What is transparent in one image can look like the background in the other: over a second one it does not,
// and the worse score counts.
Scored score(const pe_runtime::Metric& metric, const Sides<pe_image>& images, bool opaque,
             const JudgeOptions& options, Gate& scoring) {
    const Passage passage(scoring);
    const bool with_map = options.maps.has_value();
    Scored worst = score_over(metric, images, options.background, with_map);
    if (!opaque) {
        Scored other = score_over(metric, images, opposite(options.background), with_map);
        if (other.score > worst.score) worst = std::move(other);
    }
    return worst;
}

// The pair's verdict of a folder's gate that takes no warnings.
void refuse_warnings(Result& result) {
    std::string text;
    for (const std::string& warning : result.warnings) text += (text.empty() ? "--strict: " : "; ") + warning;
    result.error = text;
}

void judge(const pe_runtime::Metric& metric, const Pair& pair, const JudgeOptions& options, Gate& scoring,
           Result& result) {
    Sides<Image> images = read_images(pair);
    const std::vector<std::string> warnings = prepare(metric, pair, images, options);
    const Sides<pe_image> views = {images.reference.upright(), images.candidate.upright()};
    const bool opaque = images.reference.is_opaque() && images.candidate.is_opaque();
    const auto [value, map] = score(metric, views, opaque, options, scoring);
    result.warnings = warnings;
    if (options.strict && !warnings.empty()) return refuse_warnings(result);
    result.verdict = metric.passes(value, options.threshold) ? Verdict::kPass : Verdict::kFail;
    result.score = value;
    result.width = views.reference.width;
    result.height = views.reference.height;
    if (map) {
        result.map = tidy_path(*options.maps + "/" + pair.name + ".png");
        try {
            write_map(*map, *result.map, views.reference.width, views.reference.height, options.map_max);
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
    {
        // These join where they go out of scope, whatever is thrown until then.
        std::vector<std::jthread> threads;
        threads.reserve(jobs);
        try {
            for (std::size_t i = 1; i < jobs; ++i) threads.emplace_back(work);
        } catch (const std::exception&) {
            // Without memory or leave for more: with as many threads as there are.
        }
        work();
    }
    if (failure) std::rethrow_exception(failure);
    return results;
}

}  // namespace pe::gate
