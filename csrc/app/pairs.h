// Which candidate file is compared with which reference file: the rules of docs/gate.md.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace pe::gate {

struct Pair {
    // Path relative to the directories (without suffix where stems were matched); the candidate's file name
    // for a pair of files.
    std::string name;
    std::optional<std::string> reference;
    std::optional<std::string> candidate;
};

struct Pairing {
    std::vector<Pair> pairs;           // by name
    std::vector<std::string> skipped;  // each as "path (reason)"
    std::size_t unwanted = 0;  // of these, the files that are neither hidden, ignored nor allowed to be alone
};

struct PairingRules {
    bool match_stem = false;
    bool allow_missing = false;
    bool allow_extra = false;
    std::vector<std::string> ignored;  // shell patterns of files in folders that are passed over
};

// Throws Error: a file and a directory; no pair at all; two files with one stem; what cannot be read.
Pairing find_pairs(const std::string& reference, const std::string& candidate, const PairingRules& rules);

// A path without what changes nothing ("./a//b/" is "a/b"), as Python's pathlib writes it.
std::string tidy_path(const std::string& path);

bool is_directory(const std::string& path);

}  // namespace pe::gate
