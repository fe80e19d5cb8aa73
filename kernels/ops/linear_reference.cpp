#include "ops/linear_reference.h"

#include <cmath>
#include <cstring>

#include "ops/bf16.h"

namespace t5k {
namespace {

uint32_t dword(const Panels &w, int64_t group, int64_t n, int64_t group_dwords) {
    return w.panel(n / LANES)[group * group_dwords + n % LANES];
}

float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// W(k, n) as stored: a float, or the integer that its scale belongs to.
float weight(const Panels &w, int64_t k, int64_t n) {
    switch (w.format) {
        case FORMAT_BF16: return float_of_bits(dword(w, k / 2, n, LANES) >> 16 * (k % 2) << 16);
        case FORMAT_I8: return static_cast<int8_t>(dword(w, k / 4, n, LANES) >> 8 * (k % 4));
        case FORMAT_I4: {
            const int64_t row = k % I4_GROUP / 8;  // of the group's four rows of dwords
            const uint32_t eight = w.panel(n / LANES)[k / I4_GROUP * I4_GROUP_DWORDS + row * LANES + n % LANES];
            return static_cast<float>(static_cast<int32_t>(eight << (28 - 4 * (k % 8))) >> 28);
        }
        default: return float_of_bits(dword(w, k, n, LANES));
    }
}

// The scale of column n, for int4 in k's group of 32.
float scale(const Panels &w, int64_t k, int64_t n) {
    if (w.format == FORMAT_I8) return w.scales()[n];
    const auto *scales = reinterpret_cast<const uint16_t *>(w.panel(n / LANES) + k / I4_GROUP * I4_GROUP_DWORDS + 4 * LANES);
    return float_of_bits(uint32_t{scales[n % LANES]} << 16);
}

float plain_sum(const LinearJob &job, const float *x, int64_t n) {
    float sum = 0.0f;
    for (int64_t k = 0; k < job.w.K; ++k) sum = std::fma(x[k], weight(job.w, k, n), sum);
    return sum;
}

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// a b + c for a and b in bf16, rounded once; a result below 2^-126, rounded as if exponents had no end, is zero. Scaling makes
// that end far away, and nothing near a small result is large enough to overflow by it.
float flushed_fma(float a, float b, float c) {
    a = flushed(a), b = flushed(b), c = flushed(c);
    const float sum = std::fma(a, b, c);
    if (sum == 0.0f || !(std::fabs(sum) <= 0x1p-120f)) return sum;
    const float scaled = std::fma(a * 0x1p64f, b, c * 0x1p64f);
    return std::fabs(scaled) < 0x1p-62f ? std::copysign(0.0f, scaled) : scaled * 0x1p-64f;
}

// As the dot product instruction of bf16: of each two k the second first.
float bf16_sum(const LinearJob &job, const float *x, int64_t n) {
    float sum = 0.0f;
    for (int64_t k = 0; k < job.w.K; k += 2) {
        const bool is_pair = k + 1 < job.w.K;
        sum = flushed_fma(is_pair ? to_nearest_bf16(x[k + 1]) : 0.0f, is_pair ? weight(job.w, k + 1, n) : 0.0f, sum);
        sum = flushed_fma(to_nearest_bf16(x[k]), weight(job.w, k, n), sum);
    }
    return sum;
}

// As AMX's product of tiles: over each 32 k, zeros beyond K, the even ones in one chain and the odd ones in another.
float amx_sum(const LinearJob &job, const float *x, int64_t n) {
    float sum = 0.0f;
    for (int64_t first = 0; first < job.w.K; first += 32) {
        float chains[2] = {};
        for (int64_t k = first; k < first + 32; ++k) {
            const bool is_there = k < job.w.K;
            float &chain = chains[k % 2];
            chain = flushed_fma(is_there ? to_nearest_bf16(x[k]) : 0.0f, is_there ? weight(job.w, k, n) : 0.0f, chain);
        }
        sum = flushed_fma(flushed_fma(chains[0], 1.0f, chains[1]), 1.0f, sum);
    }
    return sum;
}

// Rows are rounded to integers block by block; the products of a block are exact, and its scales meet in fp32.
float rounded_sum(const LinearJob &job, const float *x, int64_t n) {
    const RowRounding rounding = rounding_of(job, ROWS_BF16_FLOATS, ROWS_W8);
    const int64_t K = job.w.K, block = rounding == ROWS_W8A8 ? K : rounding == ROWS_W8 ? ROW_BLOCK : I4_GROUP;
    const float most = rounding == ROWS_W8 ? 32767.0f : 127.0f;
    float sum = 0.0f;
    for (int64_t first = 0; first < K; first += block) {
        const int64_t end = first + block < K ? first + block : K;
        float peak = 0.0f;
        for (int64_t k = first; k < end; ++k) peak = std::fmax(peak, std::fabs(x[k]));
        const float step = peak > 0.0f ? peak / most : 1.0f, inverse = 1.0f / step;
        int32_t dot = 0;
        for (int64_t k = first; k < end; ++k)
            dot += static_cast<int32_t>(std::nearbyint(x[k] * inverse)) * static_cast<int32_t>(weight(job.w, k, n));
        const float value = static_cast<float>(dot);
        if (rounding == ROWS_W8A8) return value * (step * scale(job.w, 0, n));
        sum = std::fma(value, rounding == ROWS_W8 ? step : scale(job.w, first, n) * step, sum);
    }
    return rounding == ROWS_W8 ? sum * scale(job.w, 0, n) : sum;
}

float product(const LinearJob &job, int64_t r, int64_t n) {
    const float *x = job.x + r * job.ldx;
    if (job.w.format == FORMAT_F32) return plain_sum(job, x, n);
    if (job.w.format != FORMAT_BF16) return rounded_sum(job, x, n);
    return job.rows.kind == ROWS_BF16_AMX ? amx_sum(job, x, n) : bf16_sum(job, x, n);
}

float activate(float x, Activation act) {
    switch (act) {
        case ACT_GELU_NEW: return 0.5f * x * (1.0f + std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
        case ACT_GELU: return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
        case ACT_SILU: return x / (1.0f + std::exp(-x));
        default: return x > 0.0f ? x : 0.0f;
    }
}

}  // namespace

void linear_reference(const LinearJob &job, Best *best) {
    for (int64_t r = 0; r < job.R; ++r) {
        float *y = job.y + r * job.ldy;
        if (best) best[r] = {-INFINITY, 0};
        for (int64_t n = 0; n < job.columns; ++n) {
            if (job.epilogue == EPILOGUE_GATED) {
                const int64_t column = n / LANES * 2 * LANES + n % LANES;  // panels of wi_0 and wi_1 alternate
                y[n] = activate(product(job, r, column), job.act) * product(job, r, column + LANES);
                continue;
            }
            const float sum = product(job, r, n);
            switch (job.epilogue) {
                case EPILOGUE_ADD: y[n] += sum; break;
                case EPILOGUE_ACT: y[n] = activate(sum, job.act); break;
                case EPILOGUE_ARGMAX:
                    if (sum > best[r].value) best[r] = {sum, static_cast<int32_t>(job.first_column + n)};
                    break;
                default: y[n] = sum;
            }
        }
    }
}

}  // namespace t5k
