// Many pairs, each with a result of its own, from several threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <optional>
#include <pe_runtime.hpp>
#include <string>
#include <vector>

#include "colours.h"
#include "pairs.h"
#include "report.h"

namespace pe::gate {

struct JudgeOptions {
    double threshold = 0;
    Colour background = {128, 128, 128};
    bool stored_colours = false;      // compare samples as they are stored, whatever they mean
    bool strict = false;              // a warning is an error
    int jobs = 0;                     // pairs decoded at once; 0: one per core, at most 8
    int at_once = 1;                  // pairs scored at once, each with the memory that the metric takes
    std::optional<std::string> maps;  // folder of the difference maps
    double map_max = 0;               // their top value
};

// Judges pairs; results are in their order. A pair that cannot be judged gives an error and does not stop the
// others. `done` is called with the number of those that are, from any thread. Once `stop` is true, no
// further pair begins. Throws Error where a map cannot be written.
std::vector<Result> judge_pairs(const pe_runtime::Metric& metric, const std::vector<Pair>& pairs,
                                const JudgeOptions& options, const std::function<void(std::size_t)>& done,
                                const std::atomic<bool>& stop);

}  // namespace pe::gate
