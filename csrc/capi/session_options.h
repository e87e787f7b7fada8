// How sessions of metrics are opened.
#pragma once

#include <pe_runtime.h>

#include "runtime.h"

namespace pe::capi {

// Threads, provider, and, where the metric has operators of pe_runtime, their library. Throws
// Error(PE_INVALID_ARGUMENT or PE_NO_RUNTIME).
OrtPointer<OrtSessionOptions> session_options(const Runtime& runtime, const pe_metric_options& options,
                                              bool has_operators);

}  // namespace pe::capi
