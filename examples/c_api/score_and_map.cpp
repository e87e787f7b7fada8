// score_and_map METRIC.onnx REFERENCE.ppm DISTORTED.ppm MAP.pgm
//
// Prints the score of two 8-bit RGB images (binary PPM) and writes the metric's difference map as a greyscale
// image, white where they differ most. Exit code: 0, or 2 after an error.
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <pe_runtime.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
    std::int64_t width = 0, height = 0;
    std::vector<std::uint8_t> pixels;
};

static Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int top = 0;
    Picture picture;
    file >> magic >> picture.width >> picture.height >> top;
    const bool sane =
        picture.width > 0 && picture.height > 0 && picture.width <= 65535 && picture.height <= 65535;
    if (!file || magic != "P6" || top != 255 || !sane)
        throw std::runtime_error(path + ": expected a binary PPM of 8 bits");
    file.get();
    picture.pixels.resize(static_cast<std::size_t>(picture.width * picture.height * 3));
    file.read(reinterpret_cast<char*>(picture.pixels.data()),
              static_cast<std::streamsize>(picture.pixels.size()));
    if (!file)
        throw std::runtime_error(path + ": expected " + std::to_string(picture.pixels.size()) +
                                 " bytes of pixels");
    return picture;
}

static void write_pgm(const pe_runtime::Map& map, const std::string& path) {
    const pe_runtime::View<const float> values = map.values();
    const float top = std::max(*std::max_element(values.begin(), values.end()), 1e-12f);
    std::ofstream file(path, std::ios::binary);
    file << "P5 " << map.width() << ' ' << map.height() << " 255\n";
    for (const float value : values) file.put(static_cast<char>(std::clamp(value / top, 0.0f, 1.0f) * 255));
    if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

int main(int count, char** arguments) {
    if (count != 5) {
        std::cerr << "Usage: score_and_map METRIC.onnx REFERENCE.ppm DISTORTED.ppm MAP.pgm\n";
        return 2;
    }
    try {
        const pe_runtime::Metric metric(arguments[1]);
        const Picture first = read_ppm(arguments[2]), second = read_ppm(arguments[3]);
        const pe_runtime::Image reference(first.pixels, first.width, first.height),
            distorted(second.pixels, second.width, second.height);
        const pe_runtime::Scored scored = metric.score_with_map(reference, distorted);
        write_pgm(scored.map, arguments[4]);
        std::cout.precision(9);
        std::cout << scored.score << '\n';
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 2;
    }
    return 0;
}
