// What a .cu file sees instead of a GPU: CUDA's thread language for g++, run by block.cpp on fibers.
//
// One fiber per CUDA thread, one block at a time, blocks and lanes in an order drawn from a seed. Collectives carry the
// source line of their call (a defaulted argument), so that a barrier met at two places is named. A kernel that breaks a
// rule ends its launch with a sentence: divergent barrier, deadlock, exited or unnamed lane, misaligned 16-byte access,
// too much static shared memory, a write past shared memory. Shared and fresh global memory is filled with NaN.
// Not modelled: weak memory ordering, blocks that wait for each other, GPU arithmetic (IEEE here), time.
#pragma once

#include <math.h>
#include <stddef.h>
#include <string.h>

namespace t5k::sim {

struct Dim {
    unsigned x, y, z;
};
struct Thread {
    Dim thread, block;
};
extern Thread self;  // of the fiber that runs now
extern Dim block_dim, grid_dim;

using Body = void (*)(const void *job);
struct Kernel {
    const char *name;
    Body body;
    size_t job_bytes;
    unsigned max_threads;
    Kernel *next;
    Kernel(const char *name_, Body body_, size_t job_bytes_, unsigned max_threads_);
};

[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *shared(const void *key, size_t bytes);
void *dynamic_shared();
void barrier(int line);
// Exchanges `bytes` (at most 64) per lane: afterwards all 32 lanes' values are at `values`, lane l at l * bytes. Lanes
// outside the mask hold NaN bits. `kind` tells one sort of collective from another.
const unsigned char *exchange(unsigned mask, const void *value, size_t bytes, int kind, int line);
int lane();
void copy_async(void *shared, const void *global);
void commit_copies();
void wait_copies(int pending);

inline void check_aligned(const void *p, size_t bytes) {
    if (reinterpret_cast<size_t>(p) % bytes) fail("misaligned access of %zu bytes at %p", bytes, p);
}
inline float float_of_bits(unsigned v) {
    float f;
    memcpy(&f, &v, 4);
    return f;
}
inline unsigned bits_of_float(float f) {
    unsigned v;
    memcpy(&v, &f, 4);
    return v;
}
float float_of_f16(unsigned short bits);
unsigned short f16_of_float(float v);
unsigned short bf16_of_float(float v);
// One mma.m16n8k16: `to_float` reads the 16-bit type.
void mma(float *d, const unsigned *a, const unsigned *b, float (*to_float)(unsigned short), int line);

enum Kind { KIND_SHUFFLE = 1, KIND_SYNC, KIND_MMA };

template <class T>
T shuffle(unsigned mask, T v, int from, int line) {
    const unsigned char *all = exchange(mask, &v, sizeof v, KIND_SHUFFLE, line);
    if (!(mask >> (from & 31) & 1)) fail("line %d: shuffle reads lane %d, outside its mask %08x", line, from & 31, mask);
    memcpy(&v, all + (from & 31) * sizeof v, sizeof v);
    return v;
}

}  // namespace t5k::sim

#define threadIdx (::t5k::sim::self.thread)
#define blockIdx (::t5k::sim::self.block)
#define blockDim (::t5k::sim::block_dim)
#define gridDim (::t5k::sim::grid_dim)

#define T5K_DEVICE static inline
#define T5K_KERNEL(NAME, THREADS, JOB, ...)                                                                          \
    static void NAME##_body(const void *bytes) {                                                                     \
        JOB job;                                                                                                     \
        memcpy(&job, bytes, sizeof job);                                                                             \
        __VA_ARGS__(job);                                                                                            \
    }                                                                                                                \
    static ::t5k::sim::Kernel NAME##_kernel(#NAME, NAME##_body, sizeof(JOB), THREADS);
#define T5K_SHARED(TYPE, NAME)      \
    using NAME##_type = TYPE;       \
    static const char NAME##_key = 0; \
    NAME##_type &NAME = *static_cast<NAME##_type *>(::t5k::sim::shared(&NAME##_key, sizeof(NAME##_type)))
#define T5K_DYNAMIC_SHARED(TYPE, NAME) TYPE *NAME = static_cast<TYPE *>(::t5k::sim::dynamic_shared())

inline void __syncthreads(int line = __builtin_LINE()) { ::t5k::sim::barrier(line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    const char nothing = 0;
    ::t5k::sim::exchange(mask, &nothing, 1, ::t5k::sim::KIND_SYNC, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int lanes, int line = __builtin_LINE()) {
    return ::t5k::sim::shuffle(mask, v, ::t5k::sim::lane() ^ lanes, line);
}
template <class T>
T __shfl_sync(unsigned mask, T v, int from, int line = __builtin_LINE()) {
    return ::t5k::sim::shuffle(mask, v, from, line);
}

namespace t5k::cuda {

inline void copy16_async(void *shared, const void *global) { sim::copy_async(shared, global); }
inline void commit_copies() { sim::commit_copies(); }
template <int PENDING>
inline void wait_copies() {
    sim::wait_copies(PENDING);
}
}  // namespace t5k::cuda
