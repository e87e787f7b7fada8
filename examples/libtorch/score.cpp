// score METRIC.pt REFERENCE.ppm DISTORTED.ppm
//
// Prints the score of two 8-bit RGB images (binary PPM) by a metric in TorchScript that takes float input.
// Exit code: 0, or 2 after an error.
#include <torch/script.h>

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

// (1, 3, H, W) float32 in [0, 1].
static torch::Tensor read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int64_t width = 0, height = 0, top = 0;
    file >> magic >> width >> height >> top;
    const bool sane = width > 0 && height > 0 && width <= 65535 && height <= 65535;
    if (!file || magic != "P6" || top != 255 || !sane)
        throw std::runtime_error(path + ": expected a binary PPM of 8 bits");
    file.get();
    torch::Tensor pixels = torch::empty({1, height, width, 3}, torch::kUInt8);
    file.read(reinterpret_cast<char*>(pixels.data_ptr<uint8_t>()), pixels.numel());
    if (!file)
        throw std::runtime_error(path + ": expected " + std::to_string(pixels.numel()) + " bytes of pixels");
    return pixels.permute({0, 3, 1, 2}).to(torch::kFloat32) / 255;
}

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "Usage: score METRIC.pt REFERENCE.ppm DISTORTED.ppm\n");
        return 2;
    }
    try {
        const torch::InferenceMode inference;
        torch::jit::Module metric = torch::jit::load(arguments[1]);
        const std::vector<torch::jit::IValue> images = {read_ppm(arguments[2]), read_ppm(arguments[3])};
        const torch::jit::IValue outputs = metric.forward(images);
        // With a map or a verdict, the score is the first of several.
        const torch::Tensor score =
            outputs.isTuple() ? outputs.toTuple()->elements()[0].toTensor() : outputs.toTensor();
        std::printf("%.9g\n", score.item<double>());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
    return 0;
}
