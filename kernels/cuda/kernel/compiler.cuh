// The one place where a .cu file meets its compiler: nvcc, NVRTC, or g++ with the simulator (T5K_SIM, sim/sim.h).
//
// A .cu file holds device code only: no <<<>>>, no host header, no CUDA header either. Storage types of 16 bits are our
// own, arithmetic is fp32, and the few machine instructions behind them are written here, for sm_80 and later.
//
// A record is handed over by value, the same bytes for g++, nvcc, NVRTC and ctypes; its contract is in ops/<op>.h. Records hold
// 64-bit sizes for both devices: kernels take them as int where they index within a row.
//
//   T5K_KERNEL(name, threads, Job, body)   extern "C" kernel `name` of at most `threads` threads: calls body(job)
//   T5K_KERNEL_FOR(blocks, ...)            the same, registers chosen for that many blocks on a multiprocessor
//   T5K_SHARED(type, name)                 one object of the block's static shared memory, uninitialised
//   T5K_DYNAMIC_SHARED(type, name)         pointer to the block's dynamic shared memory, 16-byte aligned
#pragma once

#if defined(T5K_SIM)
#include "sim/sim.h"
#define T5K_DEVICE static inline
#define T5K_KERNEL_FOR(BLOCKS, ...) T5K_KERNEL(__VA_ARGS__)
#else
#define T5K_DEVICE static __device__ __forceinline__
#define T5K_KERNEL(NAME, THREADS, JOB, ...) \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const __grid_constant__ JOB job) { __VA_ARGS__(job); }
#define T5K_KERNEL_FOR(BLOCKS, NAME, THREADS, JOB, ...)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ JOB job) {        \
        __VA_ARGS__(job);                                                                                        \
    }
#define T5K_SHARED(TYPE, NAME)    \
    using NAME##_type = TYPE;     \
    __shared__ NAME##_type NAME
#define T5K_DYNAMIC_SHARED(TYPE, NAME)                               \
    extern __shared__ __align__(16) unsigned char t5k_dynamic_bytes[]; \
    TYPE *NAME = reinterpret_cast<TYPE *>(t5k_dynamic_bytes)
#endif

#include "ops/panels.h"

namespace t5k::cuda {

using i8 = signed char;
using u32 = unsigned int;
using i64 = long long;

struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

constexpr u32 ALL_LANES = 0xffffffffu;
constexpr float LOWEST = -3.4e38f;

#if defined(T5K_SIM)

T5K_DEVICE float to_float(f16 v) { return sim::float_of_f16(v.bits); }
T5K_DEVICE float to_float(bf16 v) { return sim::float_of_bits((u32)v.bits << 16); }
T5K_DEVICE void assign(f16 &to, float v) { to.bits = sim::f16_of_float(v); }
T5K_DEVICE void assign(bf16 &to, float v) { to.bits = sim::bf16_of_float(v); }
T5K_DEVICE float float_of_bits(u32 v) { return sim::float_of_bits(v); }
T5K_DEVICE u32 bits_of_float(float v) { return sim::bits_of_float(v); }
T5K_DEVICE u32 multiply_high(u32 a, u32 b) { return (u32)(((unsigned long long)a * b) >> 32); }
T5K_DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], f16, int line = __builtin_LINE()) {
    sim::mma(d, a, b, sim::float_of_f16, line);
}
T5K_DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], bf16, int line = __builtin_LINE()) {
    sim::mma(d, a, b, [](unsigned short v) { return sim::float_of_bits((u32)v << 16); }, line);
}

#else

T5K_DEVICE float float_of_bits(u32 v) { return __uint_as_float(v); }
T5K_DEVICE u32 bits_of_float(float v) { return __float_as_uint(v); }
T5K_DEVICE u32 multiply_high(u32 a, u32 b) { return __umulhi(a, b); }
T5K_DEVICE float to_float(f16 v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
}
T5K_DEVICE float to_float(bf16 v) { return __uint_as_float((u32)v.bits << 16); }
T5K_DEVICE void assign(f16 &to, float v) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(v)); }
T5K_DEVICE void assign(bf16 &to, float v) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(v)); }

// Copies 16 bytes from global to shared memory behind the program's back: they are there after wait_copies + barrier.
T5K_DEVICE void copy16_async(void *shared, const void *global) {
    const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
T5K_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING of this thread's committed groups are under way.
template <int PENDING>
T5K_DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// d [16, 8] += a [16, 16] b [16, 8] across a warp, fragments as the PTX manual lays them out for mma.m16n8k16.
T5K_DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
T5K_DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

// What lies behind a record's float *: numbers of the stored type A.
template <class A>
T5K_DEVICE A *stored(float *p) {
    return reinterpret_cast<A *>(p);
}
template <class A>
T5K_DEVICE const A *stored(const float *p) {
    return reinterpret_cast<const A *>(p);
}

T5K_DEVICE float to_float(float v) { return v; }
T5K_DEVICE void assign(float &to, float v) { to = v; }

// A 16-bit value of type A in the low or high half of a dword.
T5K_DEVICE float low_half(u32 v, f16) { return to_float(f16{(unsigned short)(v & 0xffffu)}); }
T5K_DEVICE float high_half(u32 v, f16) { return to_float(f16{(unsigned short)(v >> 16)}); }
T5K_DEVICE float low_half(u32 v, bf16) { return float_of_bits(v << 16); }
T5K_DEVICE float high_half(u32 v, bf16) { return float_of_bits(v & 0xffff0000u); }

// 16 bytes in one transaction; `p` must be 16-byte aligned (the simulator checks).
struct alignas(16) Quad {
    u32 v[4];
};
T5K_DEVICE Quad load16(const void *p) {
#if defined(T5K_SIM)
    sim::check_aligned(p, 16);
#endif
    return *static_cast<const Quad *>(p);
}

}  // namespace t5k::cuda
