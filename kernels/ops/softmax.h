// log_normalizer: log sum_v exp(x[v]) of one row of logits, for log-probabilities and beams.
//
//   x [V] fp32. fp32 exponentials summed in sixteen lanes of float, in blocks of 1024 folded into a double.
// Tolerance 1e-6 absolute against f64. Bytes 8 V (two passes, in cache), flops ~20 V.
//
// argmax: the largest value and the lowest index that reaches it (torch.argmax on CPU).
#pragma once

#include "ops/linear.h"

namespace t5k {

// On a GPU, where token choice stays on the device:
//
// best_panels  best[r] = the better of parts[r, 0..count), lowest index on ties. Grid (R), 32..1024 threads.
// best_logits  the same over x [R, ldx] fp32, count columns.
struct BestJob {
    const Best *parts;
    const float *x;
    Best *best;
    int64_t ldx;
    int32_t count;
};

// log_softmax: out[r] = log sum_v exp(x[r, v]); y[r, v] = x[r, v] - out[r], y may be x, or null for the sums alone.
//   Grid (R), 32..1024 threads. Each thread's fp32 sum, folded in a fixed order. Tolerance 4e-6 + 2^-22 |x - out|.
struct LogSoftmaxJob {
    const float *x;
    float *y;
    float *out;
    int64_t ldx, ldy;
    int32_t V;
};

}  // namespace t5k
