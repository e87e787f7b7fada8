// Arguments from Python: every one is checked here, and each error begins with the argument's name.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common.h"

namespace pe::python {

namespace py = pybind11;

// Feature maps (B, C, H, W) whose positions lie one after another: NCHW, channels-last and slices of
// channels or samples are read where they are, anything else from a copy.
struct FeatureArray {
    py::array array;
    Type type;
    int64_t batch, channels, height, width;
    Layout layout;

    int64_t positions() const { return height * width; }
    Features features() const { return {array.data(), layout}; }
    // Of what is computed from it: float64 for float64 features, else float32.
    py::dtype result_dtype() const;
};

// A NumPy array, or anything with __dlpack__ in the machine's memory.
FeatureArray feature_array(const py::object& value, const std::string& name);

// Same type, batch size and channels; also the same size where that is asked for.
void check_pair(const FeatureArray& first, const FeatureArray& second, const std::string& first_name,
                const std::string& second_name, bool same_size);

// Checked selection, and what it refers to.
struct Selection {
    std::optional<std::vector<int64_t>> indices;
    std::optional<std::vector<double>> factors;
    int64_t count;

    Channels channels() const;
};

// `factors` are called `factors_name` in errors. None: all channels, no factors.
Selection selection(const py::object& channels, const py::object& factors, const std::string& factors_name,
                    const FeatureArray& features);

// An array of that shape and type, copied if it lies otherwise in memory.
py::array exact_array(const py::object& value, const std::string& name, const py::dtype& dtype,
                      const std::vector<py::ssize_t>& shape);
// The same of any type of floating-point numbers; None stays none.
std::optional<py::array> upstream(const py::object& value, const std::string& name, const py::dtype& dtype,
                                  const std::vector<py::ssize_t>& shape);

// Zeros of the features' shape, type and order of dimensions in memory.
FeatureArray gradient_array(const FeatureArray& features);
Gradient gradient_of(std::optional<FeatureArray>& array);
py::object array_or_none(const std::optional<FeatureArray>& array);

// The value, if it is finite and above the least, or that where it is allowed.
double finite(double value, const std::string& name, double least, bool least_allowed);
// From 1 on; None: one for each processor that this process may run on.
int thread_count(const py::object& value);

template <typename Enum>
Enum choice(const std::string& value, const std::string& name,
            std::initializer_list<std::pair<const char*, Enum>> choices) {
    std::string expected;
    for (const auto& [known, result] : choices) {
        if (value == known) return result;
        expected += (expected.empty() ? "'" : ", '") + std::string(known) + "'";
    }
    throw py::value_error(name + ": expected one of " + expected + ", got '" + value + "'");
}

// Memory aligned as kernels want it.
class Workspace {
  public:
    explicit Workspace(size_t bytes);
    void* get() const { return data_.get(); }

  private:
    struct Free {
        void operator()(void* data) const;
    };
    std::unique_ptr<void, Free> data_;
};

}  // namespace pe::python
