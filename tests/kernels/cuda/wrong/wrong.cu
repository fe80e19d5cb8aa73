// Kernels that break one rule of CUDA each. The simulator must name the rule (tests/kernels/cuda/test_simulator.py).
#include "cuda/kernel/reduce.cuh"

namespace t5k::cuda {

struct WrongJob {
    float *x;
    int n;
};

T5K_DEVICE void diverge(const WrongJob &job) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    job.x[threadIdx.x] = 0.0f;
}

T5K_DEVICE void lock_up(const WrongJob &job) {
    if (threadIdx.x % 2)
        __syncthreads();
    else
        job.x[0] = warp_sum(1.0f);
}

T5K_DEVICE void leave_early(const WrongJob &job) {
    if (threadIdx.x == 7) return;
    job.x[threadIdx.x] = warp_sum(1.0f);
}

T5K_DEVICE void read_outside_mask(const WrongJob &job) {
    if (threadIdx.x < 16) job.x[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 16);
}

T5K_DEVICE void not_in_mask(const WrongJob &job) { job.x[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1); }

T5K_DEVICE void uninitialised(const WrongJob &job) {
    T5K_SHARED(float[64], s);
    if (threadIdx.x < 32) s[threadIdx.x] = 1.0f;
    __syncthreads();
    job.x[threadIdx.x] = s[threadIdx.x];
}

T5K_DEVICE void too_much_shared(const WrongJob &job) {
    T5K_SHARED(float[13000], s);
    s[threadIdx.x] = 1.0f;
    job.x[threadIdx.x] = s[threadIdx.x];
}

T5K_DEVICE void past_shared(const WrongJob &job) {
    T5K_SHARED(float[63], s);
    s[threadIdx.x] = 1.0f;
    job.x[threadIdx.x] = 0.0f;
}

T5K_DEVICE void past_dynamic(const WrongJob &job) {
    T5K_DYNAMIC_SHARED(float, s);
    s[threadIdx.x] = 1.0f;
    job.x[threadIdx.x] = 0.0f;
}

T5K_DEVICE void past_global(const WrongJob &job) { job.x[threadIdx.x + 1] = 0.0f; }

T5K_DEVICE void before_global(const WrongJob &job) { job.x[(int)threadIdx.x - 1] = 0.0f; }

T5K_DEVICE void misaligned(const WrongJob &job) {
    if (threadIdx.x == 0) job.x[0] = float_of_bits(load16(job.x + 1).v[0]);
}

T5K_DEVICE void early_read(const WrongJob &job) {
    T5K_SHARED(Quad[64], s);
    copy16_async(&s[threadIdx.x], job.x);
    commit_copies();
    const float seen = float_of_bits(s[threadIdx.x].v[0]);
    wait_copies<0>();
    __syncthreads();
    job.x[threadIdx.x] = seen;
}

T5K_DEVICE void never_waits(const WrongJob &job) {
    T5K_SHARED(Quad[64], s);
    copy16_async(&s[threadIdx.x], job.x);
    commit_copies();
}

// The sum is right only if no thread runs ahead of another: a barrier is missing.
T5K_DEVICE void race(const WrongJob &job) {
    T5K_SHARED(float[64], s);
    s[threadIdx.x] = (float)threadIdx.x;
    job.x[threadIdx.x] = s[63 - threadIdx.x];
}

// Lanes of a warp exchange through shared memory after a shuffle only: __syncwarp is missing.
T5K_DEVICE void race_in_warp(const WrongJob &job) {
    T5K_SHARED(float[64], s);
    s[threadIdx.x] = __shfl_xor_sync(ALL_LANES, (float)threadIdx.x, 1);
    const float other = s[threadIdx.x ^ 2];
    job.x[threadIdx.x] = __shfl_xor_sync(ALL_LANES, other, 1);
}

T5K_DEVICE void read_past_shared(const WrongJob &job) {
    T5K_SHARED(float[64], s);
    s[threadIdx.x] = 1.0f;
    __syncthreads();
    job.x[threadIdx.x] = s[threadIdx.x + 16];
}

T5K_DEVICE void read_past_global(const WrongJob &job) { job.x[0] = job.x[threadIdx.x + 64]; }

T5K_DEVICE void shift(const WrongJob &job) { job.x[threadIdx.x] = (float)(1 << (threadIdx.x + job.n)); }

#define T5K_WRONG(NAME) T5K_KERNEL(wrong_##NAME, 64, WrongJob, NAME)
T5K_WRONG(diverge)
T5K_WRONG(lock_up)
T5K_WRONG(leave_early)
T5K_WRONG(read_outside_mask)
T5K_WRONG(not_in_mask)
T5K_WRONG(uninitialised)
T5K_WRONG(too_much_shared)
T5K_WRONG(past_shared)
T5K_WRONG(past_dynamic)
T5K_WRONG(past_global)
T5K_WRONG(before_global)
T5K_WRONG(misaligned)
T5K_WRONG(early_read)
T5K_WRONG(never_waits)
T5K_WRONG(race)
T5K_WRONG(race_in_warp)
T5K_WRONG(read_past_shared)
T5K_WRONG(read_past_global)
T5K_WRONG(shift)

}  // namespace t5k::cuda
