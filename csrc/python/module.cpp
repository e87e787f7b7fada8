// pe_runtime._kernels: the kernels on arrays of the machine's memory, for callers without torch.
#include <pybind11/pybind11.h>

#include <mutex>
#include <string>

#include "call.h"
#include "common.h"

namespace pe::python {
namespace {

void choose_instruction_set(const std::string& name) {
    bool chosen;
    {
        const py::gil_scoped_release released;
        const std::unique_lock lock(dispatch_mutex);
        chosen = set_instruction_set(name.c_str());
    }
    if (!chosen) {
        throw py::value_error(
            "name: expected 'baseline', 'avx2' or 'avx512', and one that this machine has, got '" + name +
            "'");
    }
}

}  // namespace
}  // namespace pe::python

PYBIND11_MODULE(_kernels, module, pybind11::mod_gil_not_used()) {
    using namespace pe::python;
    module.doc() = "Kernels of pe_runtime on NumPy arrays, and on whatever has __dlpack__.";
    bind_contextual(module);
    bind_channel_distance(module);
    module.def("instruction_set", &pe::instruction_set, "The instruction set in use.");
    module.def("set_instruction_set", &choose_instruction_set, py::arg("name"),
               "Use another instruction set from now on, for tests and measurements.");
}
