// The four activations of the T5 family on 16 lanes; included by the ops that fuse them.
//   gelu_new  0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))    gelu  0.5 x (1 + erf(x / sqrt 2))
//   silu      x / (1 + exp(-x))                                  relu  max(x, 0)
// Absolute error against f64 below 3e-7 * max(1, |x|).
#pragma once

#include "cpu/vec.h"
#include "ops/linear.h"

namespace t5k::T5K_NS {

// x * sigmoid(z) written so that nothing overflows: exp is clamped at 88.
T5K_INLINE V16 times_sigmoid(V16 x, V16 z) { return div(x, add(bcast(1.0f), exp(sub(zero(), z)))); }

T5K_INLINE V16 gelu_new(V16 x) {
    // 0.5 (1 + tanh u) is sigmoid(2u).
    const V16 inner = fma(mul(mul(x, x), x), bcast(0.044715f), x);
    return times_sigmoid(x, mul(inner, bcast(2.0f * 0.7978845608028654f)));
}

T5K_INLINE V16 gelu_erf(V16 x) {
    float v[LANES];
    store(v, x);
    for (int i = 0; i < LANES; ++i) v[i] = 0.5f * v[i] * (1.0f + __builtin_erff(v[i] * 0.70710678118654752f));
    return load(v);
}

T5K_INLINE V16 activate(V16 x, Activation act) {
    switch (act) {
        case ACT_GELU_NEW: return gelu_new(x);
        case ACT_GELU: return gelu_erf(x);
        case ACT_SILU: return times_sigmoid(x, x);
        default: return max(x, zero());
    }
}

}  // namespace t5k::T5K_NS
