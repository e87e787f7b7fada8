// CUDA's vector types, with the alignment that they have there. Kernels read and write any elements through
// them, which C++ would otherwise forbid.
#pragma once

#define PE_VECTOR(bytes) __attribute__((aligned(bytes), may_alias))

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
    unsigned x, y, z;
};

struct PE_VECTOR(8) float2 {
    float x, y;
};
struct PE_VECTOR(16) float4 {
    float x, y, z, w;
};
struct PE_VECTOR(16) double2 {
    double x, y;
};
struct PE_VECTOR(8) int2 {
    int x, y;
};
struct PE_VECTOR(16) int4 {
    int x, y, z, w;
};
struct PE_VECTOR(8) uint2 {
    unsigned x, y;
};
struct PE_VECTOR(16) uint4 {
    unsigned x, y, z, w;
};

#undef PE_VECTOR

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
