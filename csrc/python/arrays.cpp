#include "arrays.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "threads.h"

namespace pe::python {
namespace {

constexpr int kMaxThreads = 1024;
// Far beyond any memory, but not beyond what strides of 0 can make of one number.
constexpr int64_t kMaxElements = int64_t{1} << 42;

std::string text(const py::handle& value) { return py::str(value).cast<std::string>(); }

std::string type_name(const py::handle& value) {
    return py::type::handle_of(value).attr("__name__").cast<std::string>();
}

std::string shape_text(const py::array& array) { return text(array.attr("shape")); }

[[noreturn]] void refuse_type(const std::string& message) { throw py::type_error(message); }

[[noreturn]] void refuse(const std::string& message) { throw py::value_error(message); }

// The exporter's error, which says why it does not give the array away, becomes part of ours.
py::array from_dlpack(const py::object& value, const std::string& name) {
    try {
        return py::module_::import("numpy").attr("from_dlpack")(value);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_Exception)) throw;
        refuse_type(name + ": expected an array in the machine's memory, of a type that NumPy has; " +
                    type_name(value) + " gives none: " + text(error.value()));
    }
}

py::array any_array(const py::object& value, const std::string& name) {
    if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value);
    if (py::hasattr(value, "__dlpack__")) return from_dlpack(value, name);
    refuse_type(name + ": expected an array of features (NumPy, or anything with __dlpack__), got " +
                type_name(value));
}

std::optional<Type> type_of(const py::dtype& dtype) {
    // '=', native; '|', not applicable, as for ml_dtypes.bfloat16.
    if (dtype.byteorder() == '<' || dtype.byteorder() == '>') return std::nullopt;
    const std::string name = text(dtype.attr("name"));
    if (name == "float32") return Type::kFloat32;
    if (name == "float64") return Type::kFloat64;
    if (name == "float16") return Type::kFloat16;
    if (name == "bfloat16" && dtype.itemsize() == 2) return Type::kBFloat16;
    return std::nullopt;
}

// The layout in elements, or none where an element is not aligned or positions are not evenly spaced.
std::optional<Layout> layout_of(const py::array& array) {
    const py::ssize_t size = array.itemsize();
    if (reinterpret_cast<uintptr_t>(array.data()) % size_t(size) != 0) return std::nullopt;
    int64_t strides[4];
    for (int axis = 0; axis < 4; ++axis) {
        if (array.strides(axis) % size != 0) return std::nullopt;
        strides[axis] = array.strides(axis) / size;
    }
    // The stride of an axis of length 1 means nothing.
    const int64_t height = array.shape(2), width = array.shape(3);
    const int64_t position = width > 1 ? strides[3] : height > 1 ? strides[2] : 1;
    if (height > 1 && width > 1 && strides[2] != width * position) return std::nullopt;
    if (height * width > 1 && position == 0) return std::nullopt;
    return Layout{strides[0], strides[1], position};
}

// In C order and aligned: ascontiguousarray() leaves a contiguous array as it is, aligned or not.
py::array contiguous(const py::array& array) {
    return py::module_::import("numpy").attr("require")(array, py::none(), "CA");
}

// A vector of numbers from a sequence or an array of one of the NumPy kinds.
py::array vector_of(const py::object& value, const std::string& name, const char* kinds,
                    const char* expected) {
    py::array array;
    try {
        array = py::isinstance<py::array>(value)   ? py::reinterpret_borrow<py::array>(value)
                : py::hasattr(value, "__dlpack__") ? from_dlpack(value, name)
                                                   : py::module_::import("numpy").attr("asarray")(value);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_ValueError)) throw;
        refuse(name + ": expected " + expected + " in one dimension");
    }
    if (array.ndim() != 1) refuse(name + ": expected one dimension, got shape " + shape_text(array));
    if (array.size() > 0 && std::strchr(kinds, array.dtype().kind()) == nullptr) {
        refuse_type(name + ": expected " + expected + ", got " + text(array.dtype()));
    }
    return array;
}

std::vector<int64_t> channel_numbers(const py::object& value, int64_t available) {
    const std::string expected = "expected numbers from 0 to " + std::to_string(available - 1);
    const py::array array = vector_of(value, "channels", "iu", "integers");
    if (array.size() == 0) refuse("channels: " + expected + ", got none");
    const auto numbers = py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(array);
    if (!numbers) throw py::error_already_set();
    std::vector<bool> seen(size_t(available), false);
    for (py::ssize_t k = 0; k < numbers.size(); ++k) {
        const int64_t channel = numbers.at(k);
        if (channel < 0 || channel >= available) {
            refuse("channels: " + expected + ", got " + std::to_string(channel));
        }
        if (seen[size_t(channel)]) {
            refuse("channels: expected each at most once, got " + std::to_string(channel) + " again");
        }
        seen[size_t(channel)] = true;
    }
    return {numbers.data(), numbers.data() + numbers.size()};
}

std::vector<double> factor_numbers(const py::object& value, const std::string& name, int64_t count) {
    const py::array array = vector_of(value, name, "iuf", "numbers");
    if (array.size() != count) {
        refuse(name + ": expected one for each of " + std::to_string(count) + " channels, got " +
               std::to_string(array.size()));
    }
    const auto numbers = py::array_t<double, py::array::c_style | py::array::forcecast>::ensure(array);
    if (!numbers) throw py::error_already_set();
    for (py::ssize_t k = 0; k < numbers.size(); ++k) finite(numbers.at(k), name, 0, true);
    return {numbers.data(), numbers.data() + numbers.size()};
}

}  // namespace

py::dtype FeatureArray::result_dtype() const {
    return type == Type::kFloat64 ? py::dtype::of<double>() : py::dtype::of<float>();
}

FeatureArray feature_array(const py::object& value, const std::string& name) {
    py::array array = any_array(value, name);
    const std::optional<Type> type = type_of(array.dtype());
    if (!type) {
        refuse_type(name +
                    ": expected float16, float32, float64 or ml_dtypes.bfloat16 in this machine's byte "
                    "order, got " +
                    text(array.dtype()));
    }
    if (array.ndim() != 4 || array.size() == 0) {
        refuse(name + ": expected a non-empty shape (B, C, H, W), got " + shape_text(array));
    }
    const int64_t height = array.shape(2), width = array.shape(3);
    // Products of two sizes cannot overflow here: NumPy has no array of more than 2^63 bytes.
    if (height * width > std::numeric_limits<int32_t>::max() || array.size() > kMaxElements) {
        refuse(name + ": expected fewer than 2^31 positions and 2^42 elements, got shape " +
               shape_text(array));
    }
    std::optional<Layout> layout = layout_of(array);
    if (!layout) {
        array = contiguous(array);
        layout = layout_of(array);
    }
    return {array, *type, array.shape(0), array.shape(1), height, width, *layout};
}

void check_pair(const FeatureArray& first, const FeatureArray& second, const std::string& first_name,
                const std::string& second_name, bool same_size) {
    const std::string names = first_name + " and " + second_name;
    if (first.type != second.type) {
        refuse_type(names + ": expected one type, got " + text(first.array.dtype()) + " and " +
                    text(second.array.dtype()));
    }
    const bool fits = first.batch == second.batch && first.channels == second.channels &&
                      (!same_size || (first.height == second.height && first.width == second.width));
    if (!fits) {
        refuse(names + ": expected " + (same_size ? "the same shape" : "the same batch size and channels") +
               ", got " + shape_text(first.array) + " and " + shape_text(second.array));
    }
}

Channels Selection::channels() const {
    return {count, indices ? indices->data() : nullptr, factors ? factors->data() : nullptr};
}

Selection selection(const py::object& channels, const py::object& factors, const std::string& factors_name,
                    const FeatureArray& features) {
    Selection result{std::nullopt, std::nullopt, features.channels};
    if (!channels.is_none()) {
        result.indices = channel_numbers(channels, features.channels);
        result.count = int64_t(result.indices->size());
    }
    if (!factors.is_none()) result.factors = factor_numbers(factors, factors_name, result.count);
    return result;
}

py::array exact_array(const py::object& value, const std::string& name, const py::dtype& dtype,
                      const std::vector<py::ssize_t>& shape) {
    const py::array array = any_array(value, name);
    if (!array.dtype().equal(dtype)) {
        refuse_type(name + ": expected " + text(dtype) + ", got " + text(array.dtype()));
    }
    py::tuple expected(shape.size());
    for (size_t axis = 0; axis < shape.size(); ++axis) expected[axis] = shape[axis];
    if (!py::object(array.attr("shape")).equal(expected)) {
        refuse(name + ": expected shape " + text(expected) + ", got " + shape_text(array));
    }
    return contiguous(array);
}

std::optional<py::array> upstream(const py::object& value, const std::string& name, const py::dtype& dtype,
                                  const std::vector<py::ssize_t>& shape) {
    if (value.is_none()) return std::nullopt;
    const py::array array = any_array(value, name);
    if (array.dtype().kind() != 'f')
        refuse_type(name + ": expected " + text(dtype) + ", got " + text(array.dtype()));
    return exact_array(array.attr("astype")(dtype, py::arg("copy") = false), name, dtype, shape);
}

FeatureArray gradient_array(const FeatureArray& features) {
    const py::ssize_t size = features.array.itemsize();
    const py::ssize_t positions = features.positions(), channels = features.channels;
    const bool channels_last = features.layout.channel_stride == 1 && channels > 1 && positions > 1;
    const py::ssize_t channel = channels_last ? 1 : positions;
    const py::ssize_t position = channels_last ? channels : 1;
    const std::vector<py::ssize_t> strides{channels * positions * size, channel * size,
                                           py::ssize_t(features.width) * position * size, position * size};
    const std::vector<py::ssize_t> shape(features.array.shape(), features.array.shape() + 4);
    py::array array(features.array.dtype(), shape, strides);
    std::memset(array.mutable_data(), 0, size_t(array.nbytes()));
    FeatureArray result = features;
    result.array = array;
    result.layout = {channels * positions, channel, position};
    return result;
}

Gradient gradient_of(std::optional<FeatureArray>& array) {
    if (!array) return {nullptr, {}};
    return {array->array.mutable_data(), array->layout};
}

py::object array_or_none(const std::optional<FeatureArray>& array) {
    return array ? py::object(array->array) : py::object(py::none());
}

double finite(double value, const std::string& name, double least, bool least_allowed) {
    if (std::isfinite(value) && (least_allowed ? value >= least : value > least)) return value;
    const std::string bound =
        (least_allowed ? ">= " : "above ") + text(py::float_(least).attr("__format__")("g"));
    refuse(name + ": expected a finite number " + bound + ", got " + text(py::float_(value)));
}

int thread_count(const py::object& value) {
    if (value.is_none()) return std::min(available_processors(), kMaxThreads);
    const py::object number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!number) {
        PyErr_Clear();
        refuse_type("threads: expected an integer, got " + type_name(value));
    }
    const long count = PyLong_AsLong(number.ptr());
    if (PyErr_Occurred()) PyErr_Clear();
    if (count < 1 || count > kMaxThreads) {
        refuse("threads: expected 1 to " + std::to_string(kMaxThreads) + ", got " + text(number));
    }
    return int(count);
}

Workspace::Workspace(size_t bytes) : data_(::operator new(bytes, std::align_val_t{kWorkspaceAlignment})) {}

void Workspace::Free::operator()(void* data) const {
    ::operator delete(data, std::align_val_t{kWorkspaceAlignment});
}

}  // namespace pe::python
