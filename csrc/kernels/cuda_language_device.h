// What cuda_language.h adds to the language, for nvcc. The same for plain C++: tests/cpp/emulation.
#pragma once

#include <cuda_runtime.h>

#include <tuple>
#include <utility>

namespace pe::cuda {

__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char pe_dynamic_shared[];
    return pe_dynamic_shared;
}

// Conversions round to nearest, ties to even; subnormals are kept.
__device__ __forceinline__ float to_float(Half x) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
    return result;
}
__device__ __forceinline__ float to_float(BFloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
__device__ __forceinline__ Half to_half(float x) {
    Half result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
}
__device__ __forceinline__ BFloat16 to_bfloat16(float x) {
    BFloat16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
}
// Two in a register, as they lie in memory: `low` first.
__device__ __forceinline__ uint32_t pack_halves(float low, float high) {
    uint32_t result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}
__device__ __forceinline__ uint32_t pack_bfloat16s(float low, float high) {
    uint32_t result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

// 16 bytes to global memory at once: the compiler does not always put an assignment's stores together.
__device__ __forceinline__ void store16(void* global, uint4 x) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(global), "r"(x.x), "r"(x.y), "r"(x.z),
                 "r"(x.w)
                 : "memory");
}

// The same number, about which the compiler knows nothing: it computes again what follows from it, and does
// not keep that in registers from before.
__device__ __forceinline__ int forgotten(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// 2^x to about 2 units in the last place; results below the least normal number are 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// d = a b + c for 16 x 16 halves a, 16 x 8 halves b: fragments as in PTX's mma.m16n8k16. By a whole warp.
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                        const float (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
          "f"(c[3]));
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
    return uint32_t(__cvta_generic_to_shared(shared));
}

// 8 x 8 matrices of 16-bit elements from shared memory to fragments, as in PTX's ldmatrix: lane 8 m + r
// brings the address of row r of matrix m. By a whole warp.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

// 16 bytes from global to shared memory, both aligned to 16, past the registers; zeros where not inside, and
// then nothing is read.
__device__ __forceinline__ void copy_async16(void* shared, const void* global, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(inside ? 16 : 0)
                 : "memory");
}
// The copies since the last call become a group.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's groups but the last kPending.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Launches on one stream. After an error it does nothing more.
class Launcher {
  public:
    explicit Launcher(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

    bool ok() const { return status_ == cudaSuccess; }
    // Null, or what CUDA says, in static storage.
    const char* error() const { return ok() ? nullptr : cudaGetErrorString(status_); }

    // Grids with a side of 0 launch nothing.
    template <typename... P, typename... A>
    void launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, A... arguments) {
        if (!ok() || grid.x == 0 || grid.y == 0 || grid.z == 0) return;
        constexpr size_t kAlwaysAllowed = 48 * 1024;
        if (shared_bytes > kAlwaysAllowed) {
            note(
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
            if (!ok()) return;
        }
        std::tuple<P...> values(arguments...);
        std::apply(
            [&](P&... each) {
                void* pointers[] = {static_cast<void*>(&each)..., nullptr};
                note(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(unsigned(threads)),
                                      pointers, shared_bytes, stream_));
            },
            values);
    }
    void zero(void* memory, size_t bytes) {
        if (ok() && bytes > 0) note(cudaMemsetAsync(memory, 0, bytes, stream_));
    }

    // Of the current device.
    int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount, 1); }
    size_t shared_limit() { return size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, 48 * 1024)); }

  private:
    int attribute(cudaDeviceAttr name, int otherwise) {
        int device = 0, value = otherwise;
        if (ok()) note(cudaGetDevice(&device));
        if (ok()) note(cudaDeviceGetAttribute(&value, name, device));
        return ok() ? value : otherwise;
    }
    void note(cudaError_t status) {
        if (status == cudaSuccess) return;
        status_ = status;
        // The error is the caller's to report: the next call to CUDA should not find it again.
        (void)cudaGetLastError();
    }

    cudaStream_t stream_;
    cudaError_t status_ = cudaSuccess;
};

}  // namespace pe::cuda
