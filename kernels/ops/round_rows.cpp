#include "ops/round_rows.h"

#include "device/kernel_table.h"
#include "device/vec.h"

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

// out[k] = round(x[k] * inverse) for k < n, 0 up to `width`, a multiple of 4.
T5K_INLINE void round_values(const float *x, int64_t n, int64_t width, float inverse, int32_t *out) {
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) storei(out + k, to_nearest(mul(load(x + k), bcast(inverse))));
    for (; k < n; ++k) out[k] = (int32_t)__builtin_lrintf(x[k] * inverse);
    for (; k < width; ++k) out[k] = 0;
}

// What dot8 reads: the value itself, or with AVX-512's unsigned operand the value + 128.
T5K_INLINE int8_t dot8_value(int32_t v) {
#if defined(T5K_ISA_AVX512)
    return (int8_t)(uint8_t)(v + 128);
#else
    return (int8_t)v;
#endif
}

void round_row_w8a8(const float *x, int64_t K, int8_t *q, float *scale) {
    const float peak = peak_of(x, K);
    *scale = peak > 0.0f ? peak / 127.0f : 1.0f;
    const float inverse = 1.0f / *scale;
    for (int64_t k = 0; k < K; k += ROW_BLOCK) {
        int32_t v[ROW_BLOCK];
        const int64_t n = K - k < ROW_BLOCK ? K - k : ROW_BLOCK, width = round_up(n, 4);
        round_values(x + k, n, width, inverse, v);
        for (int64_t i = 0; i < width; ++i) q[k + i] = dot8_value(v[i]);
    }
}

void round_row_w8(const float *x, int64_t K, int16_t *q, float *scale) {
    for (int64_t k = 0; k < K; k += ROW_BLOCK) {
        int32_t v[ROW_BLOCK];
        const int64_t n = K - k < ROW_BLOCK ? K - k : ROW_BLOCK, width = round_up(n, 4);
        const float peak = peak_of(x + k, n), step = peak > 0.0f ? peak / 32767.0f : 1.0f;
        *scale++ = step;
        round_values(x + k, n, width, 1.0f / step, v);
        for (int64_t i = 0; i < width; i += 4)
            for (int j = 0; j < 4; ++j) q[k + i + j] = (int16_t)v[i + j % 2 * 2 + j / 2];
    }
}

void round_row_w4(const float *x, int64_t K, int8_t *q, float *scale, int32_t *offset) {
    for (int64_t k = 0; k < K; k += I4_GROUP) {
        int32_t v[I4_GROUP], total = 0;
        const int64_t n = K - k < I4_GROUP ? K - k : I4_GROUP;
        const float peak = peak_of(x + k, n), step = peak > 0.0f ? peak / 127.0f : 1.0f;
        *scale++ = step;
        round_values(x + k, n, I4_GROUP, 1.0f / step, v);
        for (int64_t i = 0; i < I4_GROUP; i += 8)
            for (int j = 0; j < 8; ++j) {
                total += v[i + j];
                q[k + i + j] = (int8_t)v[i + j % 4 * 2 + j / 4];
            }
        *offset++ = 8 * total;
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
