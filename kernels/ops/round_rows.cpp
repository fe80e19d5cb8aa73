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

// x[k .. k + 16); zeros from n on.
T5K_INLINE V16 sixteen(const float *x, int64_t k, int64_t n) {
    if (n - k >= LANES) return load(x + k);
    float lanes[LANES] = {};
    for (int64_t i = k; i < n; ++i) lanes[i - k] = x[i];
    return load(lanes);
}

T5K_INLINE I16 rounded(const float *x, int64_t k, int64_t n, float inverse) {
    return to_nearest(mul(sixteen(x, k, n), bcast(inverse)));
}

T5K_INLINE float step_of(float peak, float most) { return peak > 0.0f ? peak / most : 1.0f; }

// A row of q has room for K rounded up to 64 (cpu/device.cpp), so whole vectors are written.
void round_row_w8a8(const float *x, int64_t K, int8_t *q, float *scale) {
    *scale = step_of(peak_of(x, K), 127.0f);
    const float inverse = 1.0f / *scale;
    for (int64_t k = 0; k < K; k += LANES) put_dot8(q + k, rounded(x, k, K, inverse));
}

// put(k, v): sixteen values from k on.
template <class F>
T5K_INLINE void round_row_w8(const float *x, int64_t K, float *scale, const F &put) {
    for (int64_t k = 0; k < K; k += ROW_BLOCK) {
        const int64_t n = K - k < ROW_BLOCK ? K - k : ROW_BLOCK;
        *scale = step_of(peak_of(x + k, n), 32767.0f);
        const float inverse = 1.0f / *scale++;
        for (int64_t i = k; i < k + n; i += LANES) put(i, rounded(x, i, K, inverse));
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

void round_row_bf16_floats(const float *x, int64_t K, float *q) {
    for (int64_t k = 0; k < K; k += LANES) storei(q + k, pairs_swapped(rounded_to_bf16(sixteen(x, k, K))));
}

#if defined(T5K_ISA_AVX512)
void round_row_bf16_pairs(const float *x, int64_t K, uint16_t *q) {
    for (int64_t k = 0; k < K; k += LANES) put_bf16_pairs(q + k, rounded_to_bf16(sixteen(x, k, K)));
}

void round_row_bf16_amx(const float *x, int64_t K, uint16_t *q) {
    round_row_bf16_pairs(x, K, q);
    if ((K + LANES - 1) / LANES % 2 == 1) put_bf16_pairs(q + round_up(K, LANES), bcasti(0));
}

void round_row_w8_bytes(const float *x, int64_t K, int8_t *q, float *scale) {
    round_row_w8(x, K, scale, [&](int64_t k, I16 v) {
        int8_t *high = q + k / 64 * 128 + k % 64;
        put_bytes(high, high + 64, v);
    });
}
#endif

}  // namespace

// Rounds one row for linear's kernels; the layout is QuantizedRows'.
void quantize_row(RowRounding kind, const float *x, int64_t K, void *q, float *scale, int32_t *offset) {
    switch (kind) {
        case ROWS_W8A8: return round_row_w8a8(x, K, (int8_t *)q, scale);
        case ROWS_W8: return round_row_w8(x, K, scale, [&](int64_t k, I16 v) { put_dot16((int16_t *)q + k, v); });
        case ROWS_W4: return round_row_w4(x, K, (int8_t *)q, scale, offset);
        case ROWS_BF16_FLOATS: return round_row_bf16_floats(x, K, (float *)q);
#if defined(T5K_ISA_AVX512)
        case ROWS_BF16_PAIRS: return round_row_bf16_pairs(x, K, (uint16_t *)q);
        case ROWS_BF16_AMX: return round_row_bf16_amx(x, K, (uint16_t *)q);
        case ROWS_W8_BYTES: return round_row_w8_bytes(x, K, (int8_t *)q, scale);
#endif
        default: return;
    }
}

}  // namespace t5k::T5K_NS
