// add_shards: y[r, n] += parts[0][r, n] + parts[1][r, n] + ..., in that order: the all-reduce of tensor parallelism.
//
//   parts  count matrices [R, N] fp32, row stride ld;  y [R, N] fp32 (the residual), row stride ldy
// Exact order: the CPU adds the sum of the parts, a GPU part after part. Bytes 4 R N (count + 2).
//
// On a GPU: add_shards, Grid (R, any), any threads; MAX_SHARDS parts a launch.
#pragma once

#include "ops/panels.h"

namespace t5k {

constexpr int MAX_SHARDS = 8;

struct AddShardsJob {
    const float *const *parts = nullptr;  // on the host
    int64_t count = 0;
    int64_t ld = 0;
    float *y = nullptr;
    int64_t ldy = 0;
    int64_t R = 0;
    int64_t N = 0;

    struct Gpu {
        const float *parts[MAX_SHARDS] = {};
        int32_t count = 0;
    };
    Gpu gpu;  // set by the CUDA device: a launch's share of them
};

}  // namespace t5k
