// rms_norm: y[r, e] = w[e] * (x[r, e] * rsqrt(mean_e x[r, e]^2 + eps)) * out_scale
//
//   x [R, E] fp32 (the residual), w [E] fp32, y [R, E] fp32, row strides ldx and ldy; y may not alias x.
// Accumulation  fp32, sixteen lane sums folded in a fixed order; 1 / sqrt, not an estimate.
// Tolerance     4 * 2^-23 relative per element.
// Preconditions E >= 1; checked when the model is built.
// Bytes 4 E (2 R + 1), flops 4 R E; memory-bound, in cache.
// out_scale     d_model^-0.5 before a tied head, else 1 (T5 1.0; engines.md 1.2).
// Source        T5LayerNorm (no mean, no bias), arXiv:1910.07467.
#pragma once

#include "ops/panels.h"

namespace t5k {

// On a GPU: rms_norm_<y>, y stored as f32, f16 or bf16. Grid (R), 32..256 threads. Bytes R E (4 + w_y).
struct RmsNormJob {
    const float *x = nullptr;
    int64_t ldx = 0;
    const float *w = nullptr;
    float *y = nullptr;
    int64_t ldy = 0;
    int64_t R = 0;
    int64_t E = 0;
    float eps = 0.0f;
    float out_scale = 1.0f;
};

}  // namespace t5k
