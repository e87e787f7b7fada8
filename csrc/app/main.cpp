// pe_gate: judges image files by an exported metric. Options, reports and exit codes are those of `pe-runtime
// gate`.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <clocale>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <optional>
#include <pe_runtime.hpp>
#include <string>

#include "files.h"
#include "gate.h"
#include "numbers.h"
#include "text.h"

namespace pe::gate {
namespace {

// The map value at the top of the colour scale, in thresholds, unless --map-max says otherwise. Defects are
// local: at their worst spot the map is several times its mean, which the score often is.
constexpr double kMapTopInThresholds = 10;
// Below it, float32 runs out of numbers to divide by.
constexpr double kLeastMapTop = 1e-30;

std::atomic<bool> interrupted = false;

struct Options {
    std::string reference, candidate, metric;
    std::optional<std::string> threshold, map_max;  // as they are spelled
    PairingRules rules;
    std::string background = "#808080", colour = "srgb";
    std::optional<std::string> json, csv, maps;
    std::string sort = "score", provider = "cpu";
    bool quiet = false, strict = false;
    int threads = 0, jobs = 0, at_once = 1;
    pe_runtime::Options runtime;
};

void add_options(CLI::App& app, Options& options) {
    app.add_option("REFERENCE", options.reference, "Image file or directory.")->required();
    app.add_option("CANDIDATE", options.candidate, "The same kind, to be compared with it.")->required();
    app.add_option("--metric", options.metric, "ONNX file written by pe-runtime export.")->required();
    app.add_option("--threshold", options.threshold,
                   "Largest score that passes.  [default: the one in the metric, if any]");
    app.add_flag("--match-stem", options.rules.match_stem, "Pair by name without suffix: a.png with a.jpg.");
    app.add_flag("--allow-missing", options.rules.allow_missing, "Skip references that have no candidate.");
    app.add_flag("--allow-extra", options.rules.allow_extra, "Skip candidates that have no reference.");
    app.add_option(
           "--ignore", options.rules.ignored,
           "Skip files of folders whose relative name, or name, matches this shell pattern; repeatable.")
        ->allow_extra_args(false);
    app.add_flag("--strict", options.strict, "Warnings, and files that are skipped, are errors.");
    app.add_option("--background", options.background,
                   "Colour behind transparent pixels: a CSS name or #rrggbb.  [default: #808080]");
    app.add_option("--colour", options.colour,
                   "Colours that are described differently: converted to sRGB, or compared as stored.  "
                   "[default: srgb]")
        ->check(CLI::IsMember({"srgb", "stored"}));
    app.add_option("--json", options.json, "Write the report as JSON; - is standard output.");
    app.add_option("--csv", options.csv, "Write the scores as CSV; - is standard output.");
    app.add_option("--maps", options.maps, "Directory for difference maps, one PNG per pair.");
    app.add_option("--map-max", options.map_max,
                   "Map value at the top of the colour scale.  [default: 10 x threshold]");
    app.add_option("--sort", options.sort,
                   "Order of the table; by score, errors and the worst come first.  [default: score]")
        ->check(CLI::IsMember({"score", "name"}));
    app.add_flag("--quiet", options.quiet, "No progress; the table has only failures, errors, warnings.");
    app.add_option("--provider", options.provider,
                   "Where ONNX Runtime computes: cpu, cuda, ...  [default: cpu]");
    app.add_option("--threads", options.threads, "Threads per score.  [default: one per core]");
    app.add_option("--jobs", options.jobs, "Pairs decoded at once.  [default: one per core, at most 8]");
    app.add_option("--at-once", options.at_once,
                   "Pairs scored at once, each with the memory that the metric takes.  [default: 1]");
    app.add_option("--onnxruntime", options.runtime.onnxruntime,
                   "Library of ONNX Runtime.  [default: $PE_RUNTIME_ONNXRUNTIME, else libonnxruntime.so.1]");
    app.add_option("--operators", options.runtime.operators_library,
                   "libpe_runtime_ort.so.  [default: $PE_RUNTIME_ORT_LIBRARY, else beside libpe_runtime.so]");
}

template <class T>
Json json_of(const std::optional<T>& value) {
    return value ? Json(*value) : Json();
}

Json settings_of(const Options& options) {
    Json settings;
    settings["allow_extra"] = options.rules.allow_extra;
    settings["allow_missing"] = options.rules.allow_missing;
    settings["background"] = options.background;
    settings["candidate"] = options.candidate;
    settings["colour"] = options.colour;
    settings["ignore"] = options.rules.ignored.empty() ? Json::array() : Json(options.rules.ignored);
    settings["jobs"] = options.jobs;
    settings["map_max"] = nullptr;  // until it is known to be a number
    settings["maps"] = json_of(options.maps);
    settings["match_stem"] = options.rules.match_stem;
    settings["provider"] = options.provider;
    settings["reference"] = options.reference;
    settings["strict"] = options.strict;
    settings["threads"] = options.threads;
    return settings;
}

pe_runtime::Metric open_metric(const std::string& data, const Options& options) {
    pe_runtime::Options settings = options.runtime;
    settings.threads = options.threads;
    settings.provider = options.provider;
    try {
        return pe_runtime::Metric({reinterpret_cast<const std::byte*>(data.data()), data.size()}, settings);
    } catch (const pe_runtime::Error& error) {
        if (error.status() != PE_INVALID_METRIC) throw;
        throw Error(options.metric + ": " + error.what());
    }
}

// Numbers that were asked for; nothing where none was.
struct Numbers {
    std::optional<double> threshold, map_max;
};

[[noreturn]] void refuse_map_max(const std::string& got) {
    throw Error("map-max: expected a number of at least " + general(kLeastMapTop) + ", got " + got);
}

Numbers parse_numbers(const Options& options) {
    Numbers numbers;
    if (options.threshold) {
        numbers.threshold = parse_number(*options.threshold);
        if (!numbers.threshold) {
            throw Error("threshold: expected a finite number >= 0, got " + *options.threshold);
        }
    }
    if (options.map_max) {
        numbers.map_max = parse_number(*options.map_max);
        if (!numbers.map_max || *numbers.map_max < kLeastMapTop) refuse_map_max(*options.map_max);
    }
    return numbers;
}

double checked_threshold(const Options& options, const Numbers& numbers, const pe_runtime::Metric& metric) {
    const std::optional<double> threshold = numbers.threshold ? numbers.threshold : metric.threshold();
    if (!threshold) {
        throw Error("threshold: expected a number, because " + options.metric + " carries none of its own");
    }
    return *threshold;
}

double map_top(const Numbers& numbers, double threshold) {
    const double top = numbers.map_max.value_or(kMapTopInThresholds * threshold);
    if (!(top >= kLeastMapTop && std::isfinite(top))) refuse_map_max(general(top));
    return top;
}

// The next run would take the maps for images without a counterpart.
void check_maps_elsewhere(const Options& options) {
    namespace fs = std::filesystem;
    const fs::path maps = fs::weakly_canonical(*options.maps);
    for (const auto& [name, images] :
         {std::pair("reference", options.reference), std::pair("candidate", options.candidate)}) {
        if (!is_directory(images)) continue;
        const fs::path folder = fs::weakly_canonical(images);
        const auto [rest, unused] = std::mismatch(folder.begin(), folder.end(), maps.begin(), maps.end());
        if (rest == folder.end()) {
            throw Error(std::string("maps: expected a directory outside ") + name + " " + images + ", got " +
                        *options.maps);
        }
    }
}

// "judging 3/12" in place, on a terminal only.
class Progress {
  public:
    Progress(bool shown, std::size_t total) : shown_(shown), total_(total) {}
    ~Progress() {
        if (shown_) std::fputs("\r\x1b[K", stderr);
    }
    void show(std::size_t done) {
        const std::lock_guard lock(mutex_);
        if (shown_) std::fprintf(stderr, "\rjudging %zu/%zu", done, total_);
    }

  private:
    bool shown_;
    std::size_t total_;
    std::mutex mutex_;
};

void judge(Report& report, const Options& options) {
    const Numbers numbers = parse_numbers(options);
    report.settings["map_max"] = json_of(numbers.map_max);
    JudgeOptions judging;
    judging.background = parse_colour(options.background);
    judging.stored_colours = options.colour == "stored";
    judging.strict = options.strict;
    if (options.threads < 0) {
        throw Error("threads: expected 0 (one per core) or more, got " + std::to_string(options.threads));
    }
    const std::string data = read_metric_bytes(options.metric);
    const pe_runtime::Metric metric = open_metric(data, options);
    judging.threshold = checked_threshold(options, numbers, metric);
    if (options.maps && !metric.has_map()) {
        throw Error(options.metric + ": expected a metric with an output map, got one without");
    }
    report.threshold = judging.threshold;
    report.metric["path"] = options.metric;
    report.metric["sha256"] = sha256(data);
    report.metric["metadata"] = Json::parse(metric.metadata());
    const Pairing pairing = find_pairs(options.reference, options.candidate, options.rules);
    report.skipped = pairing.skipped;
    if (options.maps) {
        judging.maps = options.maps;
        judging.map_max = map_top(numbers, judging.threshold);
        report.settings["map_max"] = judging.map_max;
        check_maps_elsewhere(options);
    }
    if (options.jobs < 0) {
        throw Error("jobs: expected 0 (one per core) or more, got " + std::to_string(options.jobs));
    }
    if (options.at_once < 1) {
        throw Error("at-once: expected 1 or more, got " + std::to_string(options.at_once));
    }
    judging.jobs = options.jobs;
    judging.at_once = options.at_once;
    Progress progress(!options.quiet && isatty(STDERR_FILENO) != 0, pairing.pairs.size());
    report.results = judge_pairs(
        metric, pairing.pairs, judging, [&](std::size_t done) { progress.show(done); }, interrupted);
    if (options.strict && pairing.unwanted != 0) {
        report.error = "--strict: " + std::to_string(pairing.unwanted) + " files skipped";
    }
}

// Throws Error where the reader has gone away or the disk is full.
void print(std::FILE* file, const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), file) != text.size() || std::fflush(file) != 0) {
        throw Error("report: expected to be read to its end, got a closed pipe or a full disk");
    }
}

void write(const Report& report, const Options& options) {
    // Files first: they are wanted even where the terminal has gone away.
    if (options.json && options.json != "-") write_text(*options.json, report.to_json());
    if (options.csv && options.csv != "-") write_text(*options.csv, report.to_csv());
    if (options.json == "-") print(stdout, report.to_json());
    if (options.csv == "-") print(stdout, report.to_csv());
    std::FILE* table = options.json == "-" || options.csv == "-" ? stderr : stdout;
    print(stderr, report.skipped_note());
    if (report.error) {
        print(stderr, "Error: " + printable(*report.error) + "\n");
        if (report.results.empty()) return;
    }
    const bool coloured = isatty(fileno(table)) != 0 && std::getenv("NO_COLOR") == nullptr;
    std::string text = report.to_table(options.sort == "name", options.quiet, coloured);
    if (options.maps) {
        text += "Maps in " + printable(*options.maps) + ": viridis from 0 to " +
                general(report.settings["map_max"].get<double>()) + ".\n";
    }
    print(table, text);
}

int run(const Options& options) {
    Report report;
    report.settings = settings_of(options);
    try {
        judge(report, options);
    } catch (const std::bad_alloc&) {
        report.error = "out of memory";
    } catch (const std::exception& error) {
        report.error = error.what();
    }
    if (interrupted) throw Error("interrupted, nothing is judged");
    write(report, options);
    return report.exit_code();
}

void handle_signals() {
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = true; };
    action.sa_flags = SA_RESETHAND;  // the second time ends the process at once
    sigaction(SIGINT, &action, nullptr);
    signal(SIGPIPE, SIG_IGN);  // writing fails instead
}

}  // namespace
}  // namespace pe::gate

int main(int count, char** arguments) {
    using namespace pe::gate;
    std::setlocale(LC_CTYPE, "C.UTF-8");  // which characters a terminal shows, and how wide they are
    handle_signals();
    Options options;
    CLI::App app(
        "Compare CANDIDATE with REFERENCE, two image files or two directories, by an exported metric.\n"
        "Files of directories are paired by relative name. PNG, JPEG, WebP, BMP and TIFF, 8 or 16 bits.\n"
        "Exit code: 0 all pairs passed (score <= threshold), 1 some failed, 2 something could not be judged.",
        "pe_gate");
    app.set_version_flag("--version", "pe_gate, version " PE_RUNTIME_VERSION);
    add_options(app, options);
    try {
        app.parse(count, arguments);
        for (std::string* path : {&options.reference, &options.candidate, &options.metric})
            *path = tidy_path(*path);
        for (auto* path : {&options.json, &options.csv, &options.maps}) {
            if (*path) **path = tidy_path(**path);
        }
        if (options.json && options.json == options.csv) {
            throw CLI::ValidationError("--json and --csv",
                                       "expected different files, got " + *options.json + " for both.");
        }
        return run(options);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : int(Verdict::kError);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "Error: %s\n", printable(error.what()).c_str());
        return int(Verdict::kError);
    }
}
