// A C++ program without Python that runs a TorchScript file with operators of pe_runtime:
//
//     torch_program FILE HEIGHT WIDTH
//
// For two feature maps (2, 8, HEIGHT, WIDTH) it prints what the file's module gives, then the contextual loss
// with its gradient, and the channel distance with its gradient, each number on a line of its own.
#include <torch/script.h>

#include <cstdio>
#include <cstdlib>

#include "autograd.h"

static void print_numbers(const torch::Tensor& values) {
    const torch::Tensor flat = values.detach().flatten();
    for (int64_t i = 0; i < flat.numel(); ++i) std::printf("%.9g\n", flat[i].item<double>());
}

int main(int, char** arguments) {
    torch::jit::Module module = torch::jit::load(arguments[1]);
    const int64_t height = std::atoll(arguments[2]), width = std::atoll(arguments[3]);
    const torch::Tensor ramp = torch::arange(2 * 8 * height * width).reshape({2, 8, height, width});
    const torch::Tensor target = torch::cos(0.11 * ramp);
    torch::Tensor source = torch::sin(0.37 * ramp);
    print_numbers(module.forward({source, target}).toTensor());

    source.set_requires_grad(true);
    const torch::Tensor channels = torch::tensor({1, 6, 3}, torch::kInt64),
                        weights = torch::tensor({0.5, 1.0, 2.0});
    pe_runtime::ContextualOptions options;
    options.bandwidth = 0.3;
    options.matmul_precision = "high";  // nothing to the CPU
    const torch::Tensor loss =
        std::get<0>(pe_runtime::contextual(source, target, channels, weights, options));
    loss.sum().backward();
    print_numbers(loss);
    print_numbers(source.grad());

    source.mutable_grad() = torch::Tensor();
    const auto [distance, map] = pe_runtime::channel_distance(source, target, std::nullopt, std::nullopt,
                                                              torch::linspace(0, 1, 8), "unit");
    (distance.sum() + map.sum()).backward();
    print_numbers(distance);
    print_numbers(source.grad());
    return 0;
}
