#include "ops/linear.h"

#include "device/kernel_table.h"
#include "device/vec.h"
#include "ops/activation.inl"

namespace t5k::T5K_NS {
namespace {

constexpr int MAX_ROWS = 12;
constexpr int MAX_PANELS = 4;

// Prefetch distance in dwords: 1 KB ahead of the stream, across page ends, where the hardware prefetcher stops.
constexpr int64_t AHEAD = 256;

T5K_INLINE void prefetch(const uint32_t *p) { __builtin_prefetch(p, 0, 3); }

// Each format names: K per 64-byte group, and value<j>(group) -> 16 floats of k + j.
struct F32 {
    static constexpr int PER = 1;
    template <int>
    T5K_INLINE V16 value(I16 g) {
        return as_float(g);
    }
};
struct Bf16 {
    static constexpr int PER = 2;
    template <int j>
    T5K_INLINE V16 value(I16 g) {
        if constexpr (j == 0) return as_float(shl<16>(g));
        return as_float(andi(g, bcasti((int32_t)0xffff0000)));
    }
};
struct I8 {
    static constexpr int PER = 4;
    template <int j>
    T5K_INLINE V16 value(I16 g) {
        if constexpr (j == 3) return to_float(sar<24>(g));
        return to_float(sar<24>(shl<24 - 8 * (j < 3 ? j : 0)>(g)));
    }
};
struct I4 {
    static constexpr int PER = 8;
    template <int j>
    T5K_INLINE V16 value(I16 g) {
        if constexpr (j == 7) return to_float(sar<28>(g));
        return to_float(sar<28>(shl<28 - 4 * (j < 7 ? j : 0)>(g)));
    }
};

// acc[r][p] += x[r][k0 + j] * group_p[j] for j = 0..PER-1, in k order.
template <class F, int R, int P, int j>
T5K_INLINE void steps(V16 (&acc)[R][P], const I16 (&g)[P], const float *x, int64_t ldx) {
    if constexpr (j < F::PER) {
        V16 w[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) w[p] = F::template value<j>(g[p]);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const V16 a = bcast(x[r * ldx + j]);
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) acc[r][p] = fma(a, w[p], acc[r][p]);
        }
        steps<F, R, P, j + 1>(acc, g, x, ldx);
    }
}

template <class F, int R, int P>
T5K_INLINE void chain(V16 (&acc)[R][P], const uint32_t *const (&w)[P], const float *x, int64_t ldx, int64_t groups) {
    for (int64_t i = 0; i < groups; ++i) {
        I16 g[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            prefetch(w[p] + i * LANES + AHEAD);
            g[p] = loadi(w[p] + i * LANES);
        }
        steps<F, R, P, 0>(acc, g, x + i * F::PER, ldx);
    }
}

// out[r][16 p + lane], row stride MAX_PANELS * 16: the accumulated tile of panels first .. first + P.
template <class F, int R, int P>
void tile(const LinearJob &job, const float *x, int64_t first, float *out) {
    V16 acc[R][P];
    const uint32_t *w[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) w[p] = job.w.panel(first + p);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = zero();
    if constexpr (F::PER == 8) {
        for (int64_t k = 0; k < job.w.K; k += I4_GROUP) {
            V16 part[R][P];
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                for (int p = 0; p < P; ++p) part[r][p] = zero();
            chain<F, R, P>(part, w, x + k, job.ldx, 4);
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) {
                const V16 scale = as_float(shl<16>(load_u16(w[p] + 4 * LANES)));
#pragma GCC unroll 12
                for (int r = 0; r < R; ++r) acc[r][p] = fma(part[r][p], scale, acc[r][p]);
                w[p] += I4_GROUP_DWORDS;
            }
        }
    } else {
        chain<F, R, P>(acc, w, x, job.ldx, (job.w.K + F::PER - 1) / F::PER);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            V16 v = acc[r][p];
            if constexpr (F::PER == 4) v = mul(v, load(job.w.scales() + (first + p) * LANES));
            store(out + r * MAX_PANELS * LANES + p * LANES, v);
        }
}

// ---- w8a8: exact integer dot products -------------------------------------------------------------------------------

#if defined(T5K_ISA_AVX512)
struct Dots {
    __m512i v;
};
T5K_INLINE Dots no_dots() { return {_mm512_setzero_si512()}; }
// a + 128 is unsigned, so the sum is 128 * (sum of w) too large; removed once per tile with the stored column sums.
T5K_INLINE Dots dot(Dots acc, const uint32_t *w, int32_t a) {
    const __m512i u = _mm512_xor_si512(_mm512_set1_epi32(a), _mm512_set1_epi8((char)0x80));
    return {_mm512_dpbusd_epi32(acc.v, u, _mm512_loadu_si512(w))};
}
T5K_INLINE V16 dots_to_float(Dots d, const int32_t *sums) {
    const __m512i offset = _mm512_slli_epi32(_mm512_loadu_si512(sums), 7);
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(d.v, offset))};
}
#elif defined(T5K_ISA_AVX2)
struct Dots {
    __m256i a, b;
};
T5K_INLINE Dots no_dots() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
T5K_INLINE __m256i dot8(__m256i acc, const uint32_t *w, __m256i a, __m256i magnitude) {
    const __m256i signed_w = _mm256_sign_epi8(_mm256_loadu_si256((const __m256i *)w), a);
    const __m256i pairs = _mm256_maddubs_epi16(magnitude, signed_w);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
T5K_INLINE Dots dot(Dots acc, const uint32_t *w, int32_t a) {
    const __m256i x = _mm256_set1_epi32(a);
    const __m256i magnitude = _mm256_abs_epi8(x);
    return {dot8(acc.a, w, x, magnitude), dot8(acc.b, w + 8, x, magnitude)};
}
T5K_INLINE V16 dots_to_float(Dots d, const int32_t *) { return {_mm256_cvtepi32_ps(d.a), _mm256_cvtepi32_ps(d.b)}; }
#else
struct Dots {
    int32_t v[16];
};
T5K_INLINE Dots no_dots() { return {}; }
T5K_INLINE Dots dot(Dots acc, const uint32_t *w, int32_t a) {
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 4; ++j) acc.v[i] += (int8_t)(w[i] >> 8 * j) * (int8_t)((uint32_t)a >> 8 * j);
    return acc;
}
T5K_INLINE V16 dots_to_float(Dots d, const int32_t *) {
    V16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = (float)d.v[i];
    return r;
}
#endif

template <int R, int P>
void tile_w8a8(const LinearJob &job, int64_t row, int64_t first, float *out) {
    Dots acc[R][P];
    const uint32_t *w[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) w[p] = job.w.panel(first + p);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = no_dots();
    const int8_t *q = job.rows.q + row * job.rows.ldq;
    const int64_t groups = (job.w.K + 3) / 4;
    for (int64_t i = 0; i < groups; ++i) {
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) prefetch(w[p] + i * LANES + AHEAD);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            int32_t a;
            __builtin_memcpy(&a, q + r * job.rows.ldq + i * 4, 4);
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) acc[r][p] = dot(acc[r][p], w[p] + i * LANES, a);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            const V16 scale = mul(bcast(job.rows.scale[row + r]), load(job.w.scales() + (first + p) * LANES));
            const V16 v = dots_to_float(acc[r][p], job.w.sums() + (first + p) * LANES);
            store(out + r * MAX_PANELS * LANES + p * LANES, mul(v, scale));
        }
}

// ---- dispatch over rows, panels and formats -------------------------------------------------------------------------

template <int R, int P>
void tile_any(const LinearJob &job, int64_t row, int64_t first, float *out) {
    const float *x = job.x + row * job.ldx;
    if (job.quantize_rows) return tile_w8a8<R, P>(job, row, first, out);
    switch (job.w.format) {
        case FORMAT_BF16: return tile<Bf16, R, P>(job, x, first, out);
        case FORMAT_I8: return tile<I8, R, P>(job, x, first, out);
        case FORMAT_I4: return tile<I4, R, P>(job, x, first, out);
        default: return tile<F32, R, P>(job, x, first, out);
    }
}

#if defined(T5K_ISA_AVX512)
// Thirty-two registers: 12 x 2 tiles; up to four rows over four panels keeps at least four chains for R = 1.
constexpr int WIDE_ROWS = 12;
int panels_for(int rows) { return rows <= 4 ? 4 : 2; }
int tile_rows(const LinearJob &job, int64_t row, int rows, int64_t first, int panels, float *out) {
    if (panels == 4) switch (rows) {
            case 1: return tile_any<1, 4>(job, row, first, out), 1;
            case 2: return tile_any<2, 4>(job, row, first, out), 2;
            case 3: return tile_any<3, 4>(job, row, first, out), 3;
            default: return tile_any<4, 4>(job, row, first, out), 4;
        }
    if (panels == 2) {
        if (rows >= 12) return tile_any<12, 2>(job, row, first, out), 12;
        if (rows >= 8) return tile_any<8, 2>(job, row, first, out), 8;
        if (rows >= 6) return tile_any<6, 2>(job, row, first, out), 6;
        if (rows == 5) return tile_any<5, 2>(job, row, first, out), 5;
        if (rows == 4) return tile_any<4, 2>(job, row, first, out), 4;
        if (rows >= 2) return tile_any<2, 2>(job, row, first, out), 2;
        return tile_any<1, 2>(job, row, first, out), 1;
    }
    if (rows >= 12) return tile_any<12, 1>(job, row, first, out), 12;
    if (rows >= 4) return tile_any<4, 1>(job, row, first, out), 4;
    return tile_any<1, 1>(job, row, first, out), 1;
}
#else
// Sixteen registers of eight lanes: 6 x 1 tiles (12 accumulators), R = 1 over four panels, 2 and 3 over two.
constexpr int WIDE_ROWS = 6;
int panels_for(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
int tile_rows(const LinearJob &job, int64_t row, int rows, int64_t first, int panels, float *out) {
    if (panels == 4) return tile_any<1, 4>(job, row, first, out), 1;
    if (panels == 2) switch (rows) {
            case 1: return tile_any<1, 2>(job, row, first, out), 1;
            case 2: return tile_any<2, 2>(job, row, first, out), 2;
            default: return tile_any<3, 2>(job, row, first, out), 3;
        }
    switch (rows) {
        case 1: return tile_any<1, 1>(job, row, first, out), 1;
        case 2: return tile_any<2, 1>(job, row, first, out), 2;
        case 3: return tile_any<3, 1>(job, row, first, out), 3;
        case 4: return tile_any<4, 1>(job, row, first, out), 4;
        case 5: return tile_any<5, 1>(job, row, first, out), 5;
        default: return tile_any<6, 1>(job, row, first, out), 6;
    }
}
#endif
static_assert(WIDE_ROWS <= MAX_ROWS, "the tile on the stack holds MAX_ROWS rows");

// ---- epilogues ------------------------------------------------------------------------------------------------------

// Writes the first `columns` lanes of v.
T5K_INLINE void store_first(float *y, V16 v, int64_t columns) {
    if (columns >= LANES) return store(y, v);
    float lanes[LANES];
    store(lanes, v);
    for (int64_t i = 0; i < columns; ++i) y[i] = lanes[i];
}

T5K_INLINE V16 load_first(const float *y, int64_t columns) {
    if (columns >= LANES) return load(y);
    float lanes[LANES] = {};
    for (int64_t i = 0; i < columns; ++i) lanes[i] = y[i];
    return load(lanes);
}

void best_of(const float *acc, int64_t column, int64_t columns, Best *best) {
    for (int64_t i = 0; i < columns; ++i)
        if (acc[i] > best->value) *best = {acc[i], (int32_t)(column + i)};
}

void finish_row(const LinearJob &job, int64_t row, int64_t first, int panels, const float *acc, Best *best) {
    float *y = job.y + row * job.ldy;
    if (job.epilogue == EPILOGUE_GATED) {
        for (int p = 0; p < panels; p += 2) {
            const int64_t column = (first + p) / 2 * LANES;
            const V16 v = mul(activate(load(acc + p * LANES), job.act), load(acc + (p + 1) * LANES));
            store_first(y + column, v, job.columns - column);
        }
        return;
    }
    for (int p = 0; p < panels; ++p) {
        const int64_t column = (first + p) * LANES, left = job.columns - column, columns = left < LANES ? left : LANES;
        const V16 v = load(acc + p * LANES);
        switch (job.epilogue) {
            case EPILOGUE_ADD: store_first(y + column, add(load_first(y + column, columns), v), columns); break;
            case EPILOGUE_ACT: store_first(y + column, activate(v, job.act), columns); break;
            case EPILOGUE_ARGMAX: best_of(acc + p * LANES, job.first_column + column, columns, best + row); break;
            default: store_first(y + column, v, columns);
        }
    }
}

}  // namespace

// Computes panels [begin, end) of one job for all its rows. Gated jobs get even bounds. best: [R], ARGMAX only.
void linear_panels(const LinearJob &job, int64_t begin, int64_t end, Best *best) {
    alignas(64) float acc[MAX_ROWS * MAX_PANELS * LANES];
    const int wide = job.R > WIDE_ROWS ? WIDE_ROWS : (int)job.R;
    int want = panels_for(wide);
    if (job.epilogue == EPILOGUE_GATED && want < 2) want = 2;
    for (int64_t first = begin; first < end;) {
        int panels = want;
        while (panels > end - first) panels /= 2;
        for (int64_t row = 0; row < job.R;) {
            const int rows = job.R - row < WIDE_ROWS ? (int)(job.R - row) : WIDE_ROWS;
            int done = rows;
            // A pair of panels for a gated epilogue may be wider than this ISA's tile: compute it in two passes.
            const int step = panels_for(rows) < panels && panels == 2 ? 1 : panels;
            for (int p = 0; p < panels; p += step) done = tile_rows(job, row, rows, first + p, step, acc + p * LANES);
            for (int r = 0; r < done; ++r)
                finish_row(job, row + r, first, panels, acc + r * MAX_PANELS * LANES, best);
            row += done;
        }
        first += panels;
    }
}

// Rounds one row to int8: q = round(x / scale), scale = max|x| / 127 (1 for a zero row). K4: K rounded up to 4.
float quantize_row(const float *x, int64_t K, int64_t K4, int8_t *q) {
    V16 top = zero();
    int64_t k = 0;
    for (; k + LANES <= K; k += LANES) {
        const V16 v = load(x + k);
        top = max(top, max(v, sub(zero(), v)));
    }
    float peak = largest(top);
    for (; k < K; ++k) peak = x[k] > peak ? x[k] : -x[k] > peak ? -x[k] : peak;
    const float scale = peak > 0.0f ? peak / 127.0f : 1.0f, inverse = 1.0f / scale;
    for (k = 0; k + LANES <= K; k += LANES) {
        int32_t lanes[LANES];
        storei(lanes, to_nearest(mul(load(x + k), bcast(inverse))));
        for (int i = 0; i < LANES; ++i) q[k + i] = (int8_t)lanes[i];
    }
    for (; k < K; ++k) q[k] = (int8_t)__builtin_lrintf(x[k] * inverse);
    for (; k < K4; ++k) q[k] = 0;
    return scale;
}

}  // namespace t5k::T5K_NS
