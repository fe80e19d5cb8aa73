// What happens to one accumulated output of a linear: activation, gate, residual, rounding (ops/linear.h).
#pragma once

#include "cuda/kernel/compiler.cuh"
#include "ops/linear.h"

namespace t5k::cuda {

T5K_DEVICE float activate(float x, int act) {
    switch (act) {
        case ACT_GELU_NEW: return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * fmaf(0.044715f * x * x, x, x)));
        case ACT_GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case ACT_SILU: return x / (1.0f + expf(-x));
        default: return fmaxf(x, 0.0f);
    }
}

// y[row, n] of type A, or fp32. `other` is the gate's second product (GATED only).
template <class A>
T5K_DEVICE void finish(const LinearJob &job, i64 row, int n, float value, float other) {
    if (job.epilogue == EPILOGUE_ACT) value = activate(value, job.act);
    if (job.epilogue == EPILOGUE_GATED) value = activate(value, job.act) * other;
    value *= job.out_scale;
    const i64 at = row * job.ldy + n;
    if (job.epilogue == EPILOGUE_ADD)
        job.y[at] += value;
    else if (job.y_is_f32)
        job.y[at] = value;
    else
        assign(stored<A>(job.y)[at], value);
}

}  // namespace t5k::cuda
