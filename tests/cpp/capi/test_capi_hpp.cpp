// The C++ header, as C++17.
#include <array>
#include <pe_runtime.hpp>
#include <type_traits>

#include "../check.h"
#include "onnx_writer.h"

static_assert(!std::is_copy_constructible_v<pe_runtime::Metric>);
static_assert(std::is_nothrow_move_constructible_v<pe_runtime::Metric>);
static_assert(std::is_nothrow_move_constructible_v<pe_runtime::Map>);

template <class Exception, class Call>
std::string thrown(const Call& call) {
    try {
        call();
    } catch (const Exception& error) {
        return error.what();
    }
    return "nothing";
}

// What is left behind by moving: it describes itself as nothing, and does not compute.
void test_moved_from(const std::string& file) {
    const auto* bytes = reinterpret_cast<const std::byte*>(file.data());
    pe_runtime::Metric moved({bytes, file.size()});
    const pe_runtime::Metric metric(std::move(moved));
    CHECK(moved.metadata().empty() && moved.kind().empty() && moved.input() == PE_INPUT_NONE);
    CHECK(moved.min_size() == 0 && !moved.has_map() && !moved.threshold() && moved.get() == nullptr);
    const std::vector<std::uint8_t> dark(8 * 5 * 3, 0);
    const pe_runtime::Image image(dark, 8, 5);
    const std::string text = "metric: expected a metric, got NULL";
    CHECK(thrown<pe_runtime::Error>([&] { moved.score(image, image); }) == text);
    CHECK(thrown<pe_runtime::Error>([&] { moved.score_with_map(image, image); }) == text);
    CHECK(thrown<pe_runtime::Error>([&] { moved.passes(0.1, 0.2); }) == text);
    CHECK(metric.score(image, image) == 0);

    pe_runtime::Map map = metric.score_with_map(image, image).map;
    const pe_runtime::Map taken(std::move(map));
    CHECK(map.width() == 0 && map.height() == 0 && map.values().empty() && taken.width() == 8);
}

int main() {
    onnx_writer::Model model;
    model.threshold = "0.2";
    model.scale = 0.1f;
    const std::string file = onnx_writer::write(model);
    const auto* bytes = reinterpret_cast<const std::byte*>(file.data());
    pe_runtime::Options options;
    options.threads = 1;
    pe_runtime::Metric opened({bytes, file.size()}, options);
    pe_runtime::Metric metric(std::move(opened));
    CHECK(metric.kind() == "feature_distance" && metric.input() == PE_INPUT_FLOAT32 &&
          metric.min_size() == 4);
    CHECK(metric.threshold() == 0.2 && metric.has_map() && metric.metadata().front() == '{');

    const std::vector<std::uint8_t> dark(8 * 5 * 3, 0);
    const std::vector<float> light(8 * 5, 1.0f);
    std::array<std::uint16_t, 8 * 5 * 4> clear = {};
    const pe_runtime::Image first(dark, 8, 5), second(light, 8, 5, PE_GREY), third(clear, 8, 5, PE_RGBA);
    CHECK(metric.score(first, second) == 0.1);
    CHECK(metric.passes(0.1) && !metric.passes(0.1, 0.09));
    pe_score_options white = PE_SCORE_OPTIONS_INIT;
    for (std::uint8_t& value : white.background) value = 255;
    const pe_runtime::Scored scored = metric.score_with_map(first, third, white);
    CHECK(scored.score == 0.1 && scored.map.width() == 8 && scored.map.height() == 5);
    CHECK(scored.map.values().size() == 40 && scored.map(4, 7) == 1 && *scored.map.values().begin() == 1);

    CHECK(thrown<std::invalid_argument>([&] { pe_runtime::Image(dark, 8, 6); }) ==
          "samples: expected 8 x 6 pixels of 3, got 120 samples");
    CHECK(thrown<std::invalid_argument>([&] { pe_runtime::Image(dark, 0, 0); }) != "nothing");
    CHECK(thrown<pe_runtime::Error>([&] { pe_runtime::Metric("/nonexistent.onnx"); }) ==
          "/nonexistent.onnx: No such file or directory");
    const pe_runtime::Image small(pe_runtime::View<const std::uint8_t>(dark.data(), 12), 2, 2);
    CHECK(thrown<pe_runtime::Error>([&] {
              metric.score(small, small);
          }).find("expected width and height of at least 4, got 2 x 2") != std::string::npos);
    test_moved_from(file);
    return 0;
}
