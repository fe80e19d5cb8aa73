// Reductions over a warp and over a block, in a fixed order: the same numbers in the same places, every run.
//
// Block reductions: every thread of the block calls, blockDim.x is a multiple of 32, every thread gets the result.
// `part` is a shared array of one entry per warp (at most 32); the caller may use it again after the next barrier.
#pragma once

#include "cuda/kernel/compiler.cuh"
#include "ops/linear.h"

namespace t5k::cuda {

T5K_DEVICE float warp_sum(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(ALL_LANES, v, offset);
    return v;
}

T5K_DEVICE float warp_max(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, offset));
    return v;
}

T5K_DEVICE float block_sum(float v, float *part) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float total = 0.0f;
    for (u32 w = 0; w < blockDim.x / 32; ++w) total += part[w];
    return total;
}

T5K_DEVICE float block_max(float v, float *part) {
    v = warp_max(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float top = part[0];
    for (u32 w = 1; w < blockDim.x / 32; ++w) top = fmaxf(top, part[w]);
    return top;
}

// Loses against every number, and every tie.
T5K_DEVICE Best nothing() { return {float_of_bits(0xff800000u), 0x7fffffff}; }

// The larger value; of equals the lower index. A NaN never wins.
T5K_DEVICE Best better(Best a, Best b) {
    const bool takes_b = b.value > a.value || (b.value == a.value && b.index < a.index);
    return takes_b ? b : a;
}

// Over `width` neighbouring lanes (a power of two); all of them get the result.
T5K_DEVICE Best lanes_best(Best v, int width) {
    for (int offset = width / 2; offset > 0; offset >>= 1) {
        const Best other{__shfl_xor_sync(ALL_LANES, v.value, offset), __shfl_xor_sync(ALL_LANES, v.index, offset)};
        v = better(v, other);
    }
    return v;
}

T5K_DEVICE Best block_best(Best v, Best *part) {
    v = lanes_best(v, 32);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    Best best = part[0];
    for (u32 w = 1; w < blockDim.x / 32; ++w) best = better(best, part[w]);
    return best;
}

}  // namespace t5k::cuda
