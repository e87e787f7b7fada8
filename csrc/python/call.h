// How every kernel is called: with the interpreter's lock released, with threads and a workspace of the
// call's own.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>
#include <shared_mutex>

#include "arrays.h"
#include "threads.h"

namespace pe::python {

// Held shared by calls and alone by a change of the instruction set: the workspace's size depends on it.
inline std::shared_mutex dispatch_mutex;

// `bytes(threads)` asks for the size of the workspace, `kernel(workspace, pool)` runs.
template <typename Bytes, typename Kernel>
void call(int threads, Bytes bytes, Kernel kernel) {
    const py::gil_scoped_release released;
    const std::shared_lock lock(dispatch_mutex);
    const Workspace workspace(bytes(threads));
    Threads pool(threads);
    kernel(workspace.get(), pool.pool());
}

void bind_contextual(py::module_& module);
void bind_channel_distance(py::module_& module);

}  // namespace pe::python
