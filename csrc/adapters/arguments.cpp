#include "arguments.h"

#include <cmath>
#include <limits>

namespace pe {

int choose(const std::string& value, const char* name, std::initializer_list<const char*> choices) {
    int index = 0;
    std::string listed;
    for (const char* choice : choices) {
        if (value == choice) return index;
        listed += std::string(index++ == 0 ? "'" : ", '") + choice + "'";
    }
    check(false, name, ": expected one of ", listed, ", got '", value, "'");
    return -1;
}

std::string shape_text(const Shape& shape) {
    std::string text = "(";
    for (int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + ")";
}

void check_features(const Shape& shape, const char* name) {
    bool fits = shape.size() == 4;
    for (int64_t size : shape) fits = fits && size > 0;
    check(fits, name, ": expected a non-empty shape (B, C, H, W), got ", shape_text(shape));
    check(shape[2] <= std::numeric_limits<int32_t>::max() / shape[3], name,
          ": expected less than 2^31 positions, got shape ", shape_text(shape));
}

void check_pair(const Shape& first, const Shape& second, const char* first_name, const char* second_name,
                bool same_size) {
    check_features(first, first_name);
    check_features(second, second_name);
    const bool same = first[0] == second[0] && first[1] == second[1] &&
                      (!same_size || (first[2] == second[2] && first[3] == second[3]));
    check(same, first_name, " and ", second_name, ": expected the same ",
          same_size ? "shape" : "batch size and channels", ", got ", shape_text(first), " and ",
          shape_text(second));
}

void check_channels(const int64_t* indices, int64_t count, int64_t available) {
    std::vector<bool> seen(size_t(available), false);
    for (int64_t k = 0; k < count; ++k) {
        check(0 <= indices[k] && indices[k] < available, "channels: expected numbers from 0 to ",
              available - 1, ", got ", indices[k]);
        check(!seen[size_t(indices[k])], "channels: expected each number once, got ", indices[k], " twice");
        seen[size_t(indices[k])] = true;
    }
}

void check_numbers(const ContextualProblem& problem) {
    const auto above = [](double value, const char* name) {
        check(std::isfinite(value) && value > 0, name, ": expected a finite number above 0, got ", value);
    };
    const auto not_below = [](double value, const char* name) {
        check(std::isfinite(value) && value >= 0, name, ": expected a finite number >= 0, got ", value);
    };
    above(problem.bandwidth, "bandwidth");
    not_below(problem.spatial_weight, "spatial_weight");
    above(problem.eps, "eps");
    not_below(problem.eps_log, "eps_log");
}

}  // namespace pe
