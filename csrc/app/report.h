// The verdict on all pairs: as a table, as JSON, as CSV. The formats are those of docs/gate.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "json_text.h"

namespace pe::gate {

enum class Verdict { kPass = 0, kFail = 1, kError = 2 };  // also the exit codes

const char* name_of(Verdict verdict);

struct Result {
    std::string name;
    std::optional<std::string> reference;
    std::optional<std::string> candidate;
    Verdict verdict = Verdict::kError;
    std::optional<double> score;
    std::optional<int64_t> width;
    std::optional<int64_t> height;
    std::optional<std::string> error;
    std::vector<std::string> warnings;
    std::optional<std::string> map;
};

struct Report {
    Json settings;
    Json metric;  // null if it could not be read
    std::optional<double> threshold;
    std::vector<Result> results;
    std::vector<std::string> skipped;
    std::optional<std::string> error;  // why nothing could be judged at all

    Verdict verdict() const;
    int exit_code() const { return int(verdict()); }

    std::string to_json() const;
    std::string to_csv() const;

    // A line for each pair and one that sums up. `by_name`: in the order of names, otherwise errors first,
    // then the worst score first; `only_bad`: without pairs that passed without a warning.
    std::string to_table(bool by_name, bool only_bad, bool coloured) const;
    std::string summary() const;
    // What was passed over; empty where nothing was.
    std::string skipped_note() const;

  private:
    std::size_t count(Verdict verdict) const;
};

}  // namespace pe::gate
