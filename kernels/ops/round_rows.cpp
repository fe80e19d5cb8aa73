#include "ops/round_rows.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"
#include "ops/dots.inl"

namespace t5k::T5K_NS {
namespace {

float peak_of(const float *x, int64_t n) {
    V16 top = zero();
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        const V16 v = load(x + k);
        top = max(top, max(v, sub(zero(), v)));
    }
    float peak = largest(top);
    for (; k < n; ++k) peak = x[k] > peak ? x[k] : -x[k] > peak ? -x[k] : peak;
    return peak;
}

// x[k .. k + 16) times `inverse`, rounded; zeros from n on.
T5K_INLINE I16 rounded(const float *x, int64_t k, int64_t n, float inverse) {
    if (n - k >= LANES) return to_nearest(mul(load(x + k), bcast(inverse)));
    float lanes[LANES] = {};
    for (int64_t i = k; i < n; ++i) lanes[i - k] = x[i];
    return to_nearest(mul(load(lanes), bcast(inverse)));
}

T5K_INLINE float step_of(float peak, float most) { return peak > 0.0f ? peak / most : 1.0f; }

// A row of q has room for K rounded up to 64 (cpu/device.cpp), so whole vectors are written.
void round_row_w8a8(const float *x, int64_t K, int8_t *q, float *scale) {
    *scale = step_of(peak_of(x, K), 127.0f);
    const float inverse = 1.0f / *scale;
    for (int64_t k = 0; k < K; k += LANES) put_dot8(q + k, rounded(x, k, K, inverse));
}

void round_row_w8(const float *x, int64_t K, int16_t *q, float *scale) {
    for (int64_t k = 0; k < K; k += ROW_BLOCK) {
        const int64_t n = K - k < ROW_BLOCK ? K - k : ROW_BLOCK;
        *scale = step_of(peak_of(x + k, n), 32767.0f);
        const float inverse = 1.0f / *scale++;
        for (int64_t i = k; i < k + n; i += LANES) put_dot16(q + i, rounded(x, i, K, inverse));
    }
}

void round_row_w4(const float *x, int64_t K, int8_t *q, float *scale, int32_t *offset) {
    for (int64_t k = 0; k < K; k += I4_GROUP) {
        const int64_t n = K - k < I4_GROUP ? K - k : I4_GROUP;
        *scale = step_of(peak_of(x + k, n), 127.0f);
        const float inverse = 1.0f / *scale++;
        const I16 low = rounded(x, k, K, inverse), high = rounded(x, k + LANES, K, inverse);
        put_dot4(q + k, low);
        put_dot4(q + k + LANES, high);
        *offset++ = 8 * (int32_t)sum(to_float(addi(low, high)));  // exact: at most 32 x 127
    }
}

}  // namespace

// Rounds one row for the integer kernels; the layout is QuantizedRows'.
void quantize_row(RowRounding kind, const float *x, int64_t K, void *q, float *scale, int32_t *offset) {
    switch (kind) {
        case ROWS_W8A8: return round_row_w8a8(x, K, (int8_t *)q, scale);
        case ROWS_W8: return round_row_w8(x, K, (int16_t *)q, scale);
        case ROWS_W4: return round_row_w4(x, K, (int8_t *)q, scale, offset);
        default: return;
    }
}

}  // namespace t5k::T5K_NS
