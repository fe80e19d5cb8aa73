#include "ops/rms_norm.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"

namespace t5k::T5K_NS {

void rms_norm_row(const float *x, const float *w, float *y, int64_t E, float eps, float out_scale) {
    V16 squares = zero();
    int64_t e = 0;
    for (; e + LANES <= E; e += LANES) {
        const V16 v = load(x + e);
        squares = fma(v, v, squares);
    }
    float total = sum(squares);
    for (; e < E; ++e) total = __builtin_fmaf(x[e], x[e], total);
    const float scale = 1.0f / __builtin_sqrtf(total / (float)E + eps);
    for (e = 0; e + LANES <= E; e += LANES)
        store(y + e, mul(mul(load(w + e), mul(load(x + e), bcast(scale))), bcast(out_scale)));
    for (; e < E; ++e) y[e] = w[e] * (x[e] * scale) * out_scale;
}

}  // namespace t5k::T5K_NS
