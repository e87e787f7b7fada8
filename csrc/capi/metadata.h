// The JSON object that an exported metric carries: see "Metadata" in docs/export.md.
#pragma once

#include <pe_runtime.h>

#include <cstdint>
#include <optional>
#include <string>

namespace pe::capi {

struct Metadata {
    std::string text;
    std::string kind;
    pe_input input = PE_INPUT_NONE;
    int64_t min_size = 1;
    std::optional<double> threshold;
};

// Throws Error(PE_INVALID_METRIC) for what is no JSON object by the rule of docs/gate.md, which
// pe_runtime/gate/metadata.py keeps as well; for another format; for values that cannot be.
Metadata parse_metadata(const std::string& text);

}  // namespace pe::capi
