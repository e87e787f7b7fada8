// The language of the CUDA kernels, by emulation: tensor cores against plain products, what warps and blocks
// do together, asynchronous copies; misuse ends the program with a message.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "check.h"
#include "cuda_arena.h"
#include "cuda_constants.h"
#include "cuda_language.h"
#include "half.h"

namespace {

using namespace pe::cuda;

template <typename... P, typename... A>
void launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, A... arguments) {
    Launcher launcher(nullptr);
    launcher.launch(kernel, grid, threads, shared_bytes, arguments...);
    CHECK(launcher.ok());
}

// a is 16 x 16 in rows, b 8 x 16: its columns as rows. Both loaded as a kernel would.
__global__ void multiply(const uint16_t* a, const uint16_t* b, const float* c, float* d) {
    uint16_t* shared = reinterpret_cast<uint16_t*>(dynamic_shared());
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = lane; i < 16 * 16; i += 32) shared[i] = a[i];
    for (unsigned i = lane; i < 8 * 16; i += 32) shared[16 * 16 + i] = b[i];
    __syncwarp();
    uint32_t a_fragment[4], b_fragment[2];
    ldmatrix_x4(a_fragment, shared + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2(b_fragment, shared + 16 * 16 + lane % 8 * 16 + lane / 8 % 2 * 8);
    const unsigned row = lane / 4, column = lane % 4 * 2;
    float sum[4];
    for (unsigned r = 0; r < 4; ++r) sum[r] = c[(row + r / 2 * 8) * 8 + column + r % 2];
    mma_f16(sum, a_fragment, b_fragment, sum);
    for (unsigned r = 0; r < 4; ++r) d[(row + r / 2 * 8) * 8 + column + r % 2] = sum[r];
}

void check_mma() {
    std::mt19937 random(3);
    std::normal_distribution<double> normal;
    std::vector<uint16_t> a(16 * 16), b(8 * 16);
    std::vector<float> c(16 * 8), d(16 * 8);
    for (uint16_t& x : a) x = half::bits(half::kFloat16, normal(random));
    for (uint16_t& x : b) x = half::bits(half::kFloat16, normal(random));
    for (float& x : c) x = float(normal(random));
    launch(multiply, dim3(1), 32, 768, a.data(), b.data(), c.data(), d.data());
    for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
            double sum = c[size_t(row * 8 + column)];
            for (int k = 0; k < 16; ++k) {
                sum += half::value(half::kFloat16, a[size_t(row * 16 + k)]) *
                       half::value(half::kFloat16, b[size_t(column * 16 + k)]);
            }
            const double actual = d[size_t(row * 8 + column)];
            CHECK_RELATIVE(actual, sum, 0x1p-23);
            CHECK(std::abs(actual) <= std::abs(sum));
        }
    }
}

// The fragments that mma_f16 wants, written out from the tables of the PTX ISA instead of loaded.
__global__ void fragments(const uint16_t* rows, uint32_t* plain, uint32_t* transposed) {
    unsigned char* shared = dynamic_shared();
    const unsigned lane = threadIdx.x;
    std::memcpy(shared + 16 * lane, rows + 8 * lane, 16);
    __syncwarp();
    uint32_t four[4], two[2];
    ldmatrix_x4(four, shared + 16 * lane);
    ldmatrix_x2(two, shared + 16 * (lane % 16));
    for (int r = 0; r < 4; ++r) plain[4 * lane + r] = four[r];
    for (int r = 0; r < 2; ++r) plain[4 * lane + r] = plain[4 * lane + r] == two[r] ? two[r] : 0xffffffff;
    ldmatrix_x4_trans(four, shared + 16 * lane);
    ldmatrix_x2_trans(two, shared + 16 * (lane % 16));
    for (int r = 0; r < 4; ++r) transposed[4 * lane + r] = four[r];
    for (int r = 0; r < 2; ++r) {
        transposed[4 * lane + r] = transposed[4 * lane + r] == two[r] ? two[r] : 0xffffffff;
    }
}

void check_ldmatrix() {
    std::vector<uint16_t> rows(32 * 8);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = uint16_t(i);
    std::vector<uint32_t> plain(128), transposed(128);
    launch(fragments, dim3(1), 32, 512, rows.data(), plain.data(), transposed.data());
    const auto element = [](unsigned matrix, unsigned row, unsigned column) {
        return (8 * matrix + row) * 8 + column;
    };
    for (unsigned lane = 0; lane < 32; ++lane) {
        for (unsigned matrix = 0; matrix < 4; ++matrix) {
            const unsigned a = lane / 4, b = lane % 4 * 2;
            CHECK(plain[4 * lane + matrix] == (element(matrix, a, b + 1) << 16 | element(matrix, a, b)));
            CHECK(transposed[4 * lane + matrix] == (element(matrix, b + 1, a) << 16 | element(matrix, b, a)));
        }
    }
}

__global__ void shuffles(int* ints, double* doubles, unsigned* votes) {
    const int lane = int(threadIdx.x % 32), thread = int(threadIdx.x);
    int* mine = ints + 6 * thread;
    mine[0] = __shfl_sync(kWholeWarp, thread, 5);
    mine[1] = __shfl_sync(kWholeWarp, thread, lane + 1, 8);
    mine[2] = __shfl_xor_sync(kWholeWarp, thread, 3);
    mine[3] = __shfl_down_sync(kWholeWarp, thread, 30);
    mine[4] = __shfl_up_sync(kWholeWarp, thread, 2, 16);
    // Halves of a warp by themselves.
    mine[5] = lane < 16 ? __shfl_xor_sync(0xffffu, thread, 1) : __shfl_xor_sync(0xffff0000u, -thread, 2);
    double sum = 0.5 * lane;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
    doubles[thread] = sum;
    votes[thread] = __ballot_sync(kWholeWarp, lane % 3 == 0);
    if (__any_sync(kWholeWarp, lane == 31) == 0 || __any_sync(kWholeWarp, 0) != 0) votes[thread] = 0;
    if (__all_sync(kWholeWarp, lane < 31) != 0 || __all_sync(kWholeWarp, 1) == 0) votes[thread] = 0;
}

void check_shuffles() {
    constexpr int kThreads = 96;
    std::vector<int> ints(6 * kThreads);
    std::vector<double> doubles(kThreads);
    std::vector<unsigned> votes(kThreads);
    launch(shuffles, dim3(1), kThreads, 0, ints.data(), doubles.data(), votes.data());
    for (int thread = 0; thread < kThreads; ++thread) {
        const int lane = thread % 32, warp = thread - lane;
        const int* mine = &ints[size_t(6 * thread)];
        CHECK(mine[0] == warp + 5);
        CHECK(mine[1] == warp + lane / 8 * 8 + (lane + 1) % 8);
        CHECK(mine[2] == (thread ^ 3));
        CHECK(mine[3] == (lane < 2 ? thread + 30 : thread));
        CHECK(mine[4] == (lane % 16 < 2 ? thread : thread - 2));
        CHECK(mine[5] == (lane < 16 ? thread ^ 1 : -(thread ^ 2)));
        CHECK(doubles[size_t(thread)] == 0.5 * 31 * 16);
        CHECK(votes[size_t(thread)] == 0x49249249u);
    }
}

__global__ void count(int* counter, unsigned long long* least, float* sum, int* bits) {
    atomicAdd(counter, 1);
    atomicMin(least, (unsigned long long)(1000 + blockIdx.x * blockDim.x + threadIdx.x));
    atomicMax(least + 1, (unsigned long long)(threadIdx.x) << 40);
    atomicAdd(sum, 0.5f);
    atomicOr(bits, 1 << threadIdx.x % 31);
}

void check_atomics() {
    int counter = 0, bits = 0;
    unsigned long long extremes[] = {~0ull, 0};
    float sum = 0;
    launch(count, dim3(2, 3, 4), 64, 0, &counter, extremes, &sum, &bits);
    CHECK(counter == 24 * 64 && sum == 12 * 64 && bits == 0x7fffffff);
    CHECK(extremes[0] == 1000 && extremes[1] == 63ull << 40);
}

// Each thread passes a value on around the block, again and again.
__global__ void rotate(int* result, int steps) {
    int* shared = reinterpret_cast<int*>(dynamic_shared());
    int value = int(threadIdx.x);
    for (int step = 0; step < steps; ++step) {
        shared[threadIdx.x] = value;
        __syncthreads();
        value = shared[(threadIdx.x + 1) % blockDim.x];
        __syncthreads();
    }
    const int any = __syncthreads_or(value == 3), none = __syncthreads_or(0);
    result[blockIdx.x * blockDim.x + threadIdx.x] = any && !none ? value : -1;
}

void check_barriers() {
    constexpr int kThreads = 160, kBlocks = 5;
    for (uint64_t seed = 1; seed < 10; ++seed) {
        emulation::settings().seed = seed;
        std::vector<int> result(kThreads * kBlocks);
        launch(rotate, dim3(kBlocks), kThreads, kThreads * sizeof(int), result.data(), 7);
        for (int i = 0; i < kThreads * kBlocks; ++i) CHECK(result[size_t(i)] == (i + 7) % kThreads);
    }
}

// A sum without its barrier: what it gives depends on who comes first.
__global__ void race(int* result) {
    int* shared = reinterpret_cast<int*>(dynamic_shared());
    if (threadIdx.x == 0) shared[0] = 0;
    __syncthreads();
    const int seen = shared[0];
    __syncwarp();
    shared[0] = seen + 1;
    __syncthreads();
    if (threadIdx.x == 0) *result = shared[0];
}

// Which blocks have run before this one.
__global__ void order_of_blocks(int* next, int* order) {
    if (threadIdx.x == 0) order[blockIdx.x] = atomicAdd(next, 1);
}

void check_seeds() {
    std::set<int> results;
    std::set<std::vector<int>> orders;
    for (uint64_t seed = 1; seed < 20; ++seed) {
        emulation::settings().seed = seed;
        int result = 0, again = 0;
        launch(race, dim3(1), 128, sizeof(int), &result);
        launch(race, dim3(1), 128, sizeof(int), &again);
        CHECK(result == again);
        results.insert(result);
        int next = 0;
        std::vector<int> order(5);
        launch(order_of_blocks, dim3(5), 32, 0, &next, order.data());
        orders.insert(order);
    }
    CHECK(results.size() > 1 && orders.size() > 1);
    emulation::settings().seed = 1;
}

// 16 bytes per thread and group; what the first thread sees at each point.
__global__ void copy(const float* from, float* seen) {
    float* shared = reinterpret_cast<float*>(dynamic_shared());
    shared[0] = shared[4] = shared[8] = 1;
    __syncthreads();
    if (threadIdx.x == 0) {
        copy_async16(shared, from, true);
        commit_copies();
        copy_async16(shared + 4, from + 4, true);
        commit_copies();
        copy_async16(shared + 8, nullptr, false);
        commit_copies();
        for (int i = 0; i < 3; ++i) seen[i] = shared[4 * i];
        wait_copies<2>();
        for (int i = 0; i < 3; ++i) seen[3 + i] = shared[4 * i];
        wait_copies<0>();
        for (int i = 0; i < 12; ++i) seen[6 + i] = shared[i];
    }
}

void check_copies() {
    alignas(16) const float from[] = {2, 3, 4, 5, 6, 7, 8, 9};
    float seen[18] = {};
    launch(copy, dim3(1), 32, 48, from, seen);
    for (int i = 0; i < 3; ++i) CHECK(seen[i] != seen[i]);
    CHECK(seen[3] == 2 && seen[4] != seen[4] && seen[5] != seen[5]);
    for (int i = 0; i < 12; ++i) CHECK(seen[6 + i] == (i < 8 ? 2 + i : 0));
}

void check_storage() {
    for (uint32_t i = 0; i < 1 << 16; ++i) {
        const uint16_t bits = uint16_t(i);
        const float h = to_float(Half{bits}), b = to_float(BFloat16{bits});
        const double h_value = half::value(half::kFloat16, bits);
        const double b_value = half::value(half::kBFloat16, bits);
        CHECK(h_value != h_value ? h != h : double(h) == h_value && to_half(h).bits == bits);
        CHECK(b_value != b_value ? b != b : double(b) == b_value && to_bfloat16(b).bits == bits);
    }
    std::mt19937 random(4);
    for (int i = 0; i < 100000; ++i) {
        const float x = __uint_as_float(uint32_t(random()));
        if (x != x) continue;
        CHECK(to_half(x).bits == half::bits(half::kFloat16, x));
        CHECK(to_bfloat16(x).bits == half::bits(half::kBFloat16, x));
    }
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(to_half(nan).bits == 0x7fff && to_bfloat16(-nan).bits == 0x7fff);
    CHECK(pack_halves(1, -2) == 0xc0003c00u && pack_bfloat16s(1, -2) == 0xc0003f80u);
    CHECK(from_arithmetic<Half>(1.0f).bits == 0x3c00 && from_arithmetic<double>(2.0) == 2.0);
}

void check_order() {
    const float infinity = std::numeric_limits<float>::infinity();
    const float values[] = {-infinity, -3e38f, -1, -1e-45f, 0, 1e-45f, 1, 3e38f, infinity};
    for (size_t i = 0; i < std::size(values); ++i) {
        CHECK(from_ordered_bits(ordered_bits(values[i])) == values[i]);
        if (i > 0) CHECK(ordered_bits(values[i - 1]) < ordered_bits(values[i]));
    }
    CHECK(exp2_fast(-infinity) == 0 && exp2_fast(-130) == 0 && exp2_fast(-3) == 0.125f);
}

void check_launches() {
    int result = 0;
    Launcher launcher(nullptr);
    launcher.launch(race, dim3(3, 0), 32, 4, &result);
    CHECK(launcher.ok() && result == 0);
    launcher.launch(race, dim3(1), 33, 4, &result);
    CHECK(!launcher.ok() && std::string(launcher.error()).find("threads") != std::string::npos);
    launcher.launch(race, dim3(1), 32, 4, &result);
    CHECK(result == 0);
    Launcher greedy(nullptr);
    greedy.launch(race, dim3(1), 32, greedy.shared_limit() + 1, &result);
    CHECK(!greedy.ok());
    unsigned char bytes[] = {1, 2, 3};
    Launcher(nullptr).zero(bytes, 2);
    CHECK(bytes[0] == 0 && bytes[1] == 0 && bytes[2] == 3);
}

void check_constants() {
    for (const int64_t size : {1, 255, 256, 600}) {
        std::vector<int64_t> indices;
        std::vector<double> weights;
        for (int64_t k = 0; k < size; ++k) indices.push_back(3 * k + 1), weights.push_back(0.1 * double(k));
        for (const bool given : {false, true}) {
            std::vector<unsigned char> memory(device_channels_bytes(size) + 256);
            void* start = memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256);
            Launcher launcher(nullptr);
            const DeviceChannels channels = stage_channels(
                launcher, {size, given ? indices.data() : nullptr, given ? weights.data() : nullptr}, start);
            CHECK(launcher.ok());
            for (int64_t k = 0; k < size; ++k) {
                CHECK(channels.indices[k] == (given ? 3 * k + 1 : k));
                CHECK(channels.weights[k] == (given ? 0.1 * double(k) : 1));
                CHECK(channels.single_weights[k] == float(channels.weights[k]));
            }
        }
    }
    Arena arena(nullptr);
    CHECK(arena.take<float>(65) == nullptr && arena.used() == 512);
}

__global__ void leave_early() {
    if (threadIdx.x == 7) return;
    __syncthreads();
}
__global__ void leave_lane_out() {
    if (threadIdx.x != 20) __shfl_sync(kWholeWarp, 1, 0);
}
__global__ void disagree() {
    if (threadIdx.x < 16) {
        __syncwarp();
    } else {
        __ballot_sync(kWholeWarp, 1);
    }
}
__global__ void ask_outside() { __shfl_sync(0xffffu << (threadIdx.x & 16), 1, 0); }
__global__ void load_beyond() {
    uint32_t r[4];
    ldmatrix_x4(r, dynamic_shared() + 16 * (threadIdx.x + 1));
}
__global__ void load_askew() {
    uint32_t r[2];
    ldmatrix_x2(r, dynamic_shared() + 8 * threadIdx.x);
}
__global__ void copy_beyond() { copy_async16(dynamic_shared() + 16 * threadIdx.x + 16, nullptr, false); }
__global__ void split_barrier() {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads_or(1);
    }
}

// That the kernel ends its process, and what it says.
void check_death(void (*kernel)(), const char* message) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        Launcher(nullptr).launch(kernel, dim3(1), 64, 512);
        _exit(0);
    }
    close(ends[1]);
    std::string said;
    char buffer[256];
    for (ssize_t size; (size = read(ends[0], buffer, sizeof buffer)) > 0;) said.append(buffer, size_t(size));
    close(ends[0]);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    if (said.find(message) == std::string::npos) {
        check::fail(__FILE__, __LINE__, message + (" not in " + said));
    }
}

void check_misuse() {
    check_death(leave_early, "deadlock: 1 threads have returned, the other 63 wait");
    check_death(leave_lane_out, " waits at __shfl_sync");
    check_death(disagree, "while lane");
    check_death(ask_outside, "asks lane 0, which is not in the mask ffff0000");
    check_death(load_beyond, "16 bytes at 512 of 512 bytes of shared memory");
    check_death(load_askew, "is not aligned to 16");
    check_death(copy_beyond, "of 512 bytes of shared memory");
    check_death(split_barrier, "while other threads are at");
}

}  // namespace

int main() {
    check_mma();
    check_ldmatrix();
    check_shuffles();
    check_atomics();
    check_barriers();
    check_seeds();
    check_copies();
    check_storage();
    check_order();
    check_launches();
    check_constants();
    check_misuse();
    return 0;
}
