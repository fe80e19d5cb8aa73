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

// Groups [begin, end) of each panel; `ahead` is where to prefetch, in dwords from the group that is read.
template <class F, int R, int P>
T5K_INLINE void chain(V16 (&acc)[R][P], const uint32_t *const (&w)[P], const float *x, int64_t ldx, int64_t begin,
                      int64_t end, int64_t ahead) {
    for (int64_t i = begin; i < end; ++i) {
        I16 g[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            prefetch(w[p] + i * LANES + ahead);
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
    // Near the end of its panel a stream goes on in the panel P further, which is where the next tile reads.
    const int64_t groups = (job.w.K + F::PER - 1) / F::PER, near = groups < AHEAD / LANES ? 0 : groups - AHEAD / LANES;
    chain<F, R, P>(acc, w, x, job.ldx, 0, near, AHEAD);
    chain<F, R, P>(acc, w, x, job.ldx, near, groups, AHEAD + (P - 1) * groups * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) store(out + r * MAX_PANELS * LANES + p * LANES, acc[r][p]);
}

// ---- integer dot products: exact in int32, so their order does not matter ------------------------------------------

// Sixteen int32 sums, one per output, and the three ways a group of packed weights is multiplied into them.
//   dot8   four int8 weights by four int8 values        (w8a8)
//   dot16  four int8 weights by four int16 values       (w8): values k0 k2 | k1 k3, as bytes widen in place
//   dot4   eight 4-bit weights + 8 by eight int8 values (int4): values k0 k2 k4 k6 | k1 k3 k5 k7; the + 8 goes later
#if defined(T5K_ISA_AVX512)
struct Dots {
    __m512i v;
};
T5K_INLINE Dots no_dots() { return {_mm512_setzero_si512()}; }
T5K_INLINE Dots added(Dots x, Dots y) { return {_mm512_add_epi32(x.v, y.v)}; }
// The values are stored as a + 128, unsigned; 128 * (sum of weights) is taken off once per tile.
T5K_INLINE Dots dot8(Dots acc, I16 w, const int8_t *q) {
    int32_t a;
    __builtin_memcpy(&a, q, 4);
    return {_mm512_dpbusd_epi32(acc.v, _mm512_set1_epi32(a), w.v)};
}
T5K_INLINE V16 dots8_to_float(Dots d, const int32_t *sums) {
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(d.v, _mm512_slli_epi32(_mm512_loadu_si512(sums), 7)))};
}
struct Wide {
    __m512i even, odd;
};
T5K_INLINE Wide widened(I16 w) {
    return {_mm512_srai_epi16(_mm512_slli_epi16(w.v, 8), 8), _mm512_srai_epi16(w.v, 8)};
}
T5K_INLINE Dots dot16(Dots acc, Wide w, const int16_t *q) {
    int32_t even, odd;
    __builtin_memcpy(&even, q, 4);
    __builtin_memcpy(&odd, q + 2, 4);
    const __m512i sum = _mm512_dpwssd_epi32(acc.v, w.even, _mm512_set1_epi32(even));
    return {_mm512_dpwssd_epi32(sum, w.odd, _mm512_set1_epi32(odd))};
}
T5K_INLINE Wide nibbles(I16 w) {
    const __m512i mask = _mm512_set1_epi8(15);
    return {_mm512_and_si512(w.v, mask), _mm512_and_si512(_mm512_srli_epi16(w.v, 4), mask)};
}
T5K_INLINE Dots dot4(Dots acc, Wide w, const int8_t *q) {
    int32_t even, odd;
    __builtin_memcpy(&even, q, 4);
    __builtin_memcpy(&odd, q + 4, 4);
    const __m512i sum = _mm512_dpbusd_epi32(acc.v, w.even, _mm512_set1_epi32(even));
    return {_mm512_dpbusd_epi32(sum, w.odd, _mm512_set1_epi32(odd))};
}
T5K_INLINE V16 dots_to_float(Dots d, int32_t offset) {
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(d.v, _mm512_set1_epi32(offset)))};
}
#elif defined(T5K_ISA_AVX2)
struct Dots {
    __m256i a, b;
};
struct Wide {
    I16 even, odd;
};
T5K_INLINE Dots no_dots() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
T5K_INLINE Dots added(Dots x, Dots y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
T5K_INLINE __m256i pairs_added(__m256i acc, __m256i pairs) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
T5K_INLINE Dots dot8(Dots acc, I16 w, const int8_t *q) {
    int32_t bytes;
    __builtin_memcpy(&bytes, q, 4);
    const __m256i a = _mm256_set1_epi32(bytes), magnitude = _mm256_abs_epi8(a);
    return {pairs_added(acc.a, _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w.a, a))),
            pairs_added(acc.b, _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w.b, a)))};
}
T5K_INLINE V16 dots8_to_float(Dots d, const int32_t *) { return {_mm256_cvtepi32_ps(d.a), _mm256_cvtepi32_ps(d.b)}; }
T5K_INLINE Wide widened(I16 w) {
    return {{_mm256_srai_epi16(_mm256_slli_epi16(w.a, 8), 8), _mm256_srai_epi16(_mm256_slli_epi16(w.b, 8), 8)},
            {_mm256_srai_epi16(w.a, 8), _mm256_srai_epi16(w.b, 8)}};
}
T5K_INLINE Dots dot16(Dots acc, Wide w, const int16_t *q) {
    int32_t low, high;
    __builtin_memcpy(&low, q, 4);
    __builtin_memcpy(&high, q + 2, 4);
    const __m256i even = _mm256_set1_epi32(low), odd = _mm256_set1_epi32(high);
    const __m256i a = _mm256_add_epi32(_mm256_madd_epi16(w.even.a, even), _mm256_madd_epi16(w.odd.a, odd));
    const __m256i b = _mm256_add_epi32(_mm256_madd_epi16(w.even.b, even), _mm256_madd_epi16(w.odd.b, odd));
    return {_mm256_add_epi32(acc.a, a), _mm256_add_epi32(acc.b, b)};
}
T5K_INLINE Wide nibbles(I16 w) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {{_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)},
            {_mm256_and_si256(_mm256_srli_epi16(w.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(w.b, 4), mask)}};
}
T5K_INLINE Dots dot4(Dots acc, Wide w, const int8_t *q) {
    int32_t low, high;
    __builtin_memcpy(&low, q, 4);
    __builtin_memcpy(&high, q + 4, 4);
    const __m256i even = _mm256_set1_epi32(low), odd = _mm256_set1_epi32(high);
    // 4 * 15 * 127 = 7620 per 16-bit lane: no saturation.
    return {pairs_added(acc.a, _mm256_add_epi16(_mm256_maddubs_epi16(w.even.a, even), _mm256_maddubs_epi16(w.odd.a, odd))),
            pairs_added(acc.b, _mm256_add_epi16(_mm256_maddubs_epi16(w.even.b, even), _mm256_maddubs_epi16(w.odd.b, odd)))};
}
T5K_INLINE V16 dots_to_float(Dots d, int32_t offset) {
    const __m256i o = _mm256_set1_epi32(offset);
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(d.a, o)), _mm256_cvtepi32_ps(_mm256_sub_epi32(d.b, o))};
}
#else
struct Dots {
    int32_t v[16];
};
using Wide = I16;
T5K_INLINE Dots no_dots() { return {}; }
T5K_INLINE Dots added(Dots x, Dots y) {
    for (int i = 0; i < 16; ++i) x.v[i] += y.v[i];
    return x;
}
T5K_INLINE Dots dot8(Dots acc, I16 w, const int8_t *q) {
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 4; ++j) acc.v[i] += (int8_t)((uint32_t)w.v[i] >> 8 * j) * q[j];
    return acc;
}
T5K_INLINE V16 dots8_to_float(Dots d, const int32_t *) {
    V16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = (float)d.v[i];
    return r;
}
T5K_INLINE Wide widened(I16 w) { return w; }
T5K_INLINE Wide nibbles(I16 w) { return w; }
T5K_INLINE Dots dot16(Dots acc, Wide w, const int16_t *q) {
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 4; ++j) acc.v[i] += (int8_t)((uint32_t)w.v[i] >> 8 * j) * q[j % 2 * 2 + j / 2];
    return acc;
}
T5K_INLINE Dots dot4(Dots acc, Wide w, const int8_t *q) {
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j) acc.v[i] += (int)((uint32_t)w.v[i] >> 4 * j & 15) * q[j % 2 * 4 + j / 2];
    return acc;
}
T5K_INLINE V16 dots_to_float(Dots d, int32_t offset) {
    V16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = (float)(d.v[i] - offset);
    return r;
}
#endif

// Each kind names: the k values of one 64-byte group and of one block of rows, and how a group is unpacked and used.
struct W8A8 {
    using Value = int8_t;
    using Group = I16;
    static constexpr int PER = 4;
    T5K_INLINE Group unpacked(const uint32_t *w) { return loadi(w); }
    T5K_INLINE Dots dot(Dots acc, Group w, const Value *q) { return dot8(acc, w, q); }
};
struct W8 {
    using Value = int16_t;
    using Group = Wide;
    static constexpr int PER = 4;
    T5K_INLINE Group unpacked(const uint32_t *w) { return widened(loadi(w)); }
    T5K_INLINE Dots dot(Dots acc, Group w, const Value *q) { return dot16(acc, w, q); }
};
struct W4 {
    using Value = int8_t;
    using Group = Wide;
    static constexpr int PER = 8;
    T5K_INLINE Group unpacked(const uint32_t *w) { return nibbles(loadi(w)); }
    T5K_INLINE Dots dot(Dots acc, Group w, const Value *q) { return dot4(acc, w, q); }
};

// Independent sums per tile element, so that a dot product's latency is hidden when the tile is small. Integer sums may be
// taken in any order, so a small tile is one panel wide: one sequential stream, which the prefetchers like best.
constexpr int sums_for(int R, int P) { return R * P <= 2 ? 4 : R * P <= 4 ? 2 : 1; }

// sums[r][p] = the next `groups` groups of each panel times the values at q (row stride ldq); advances w.
template <class Kind, int R, int P>
T5K_INLINE void dot_groups(Dots (&sums)[R][P], const uint32_t *(&w)[P], const typename Kind::Value *q, int64_t ldq,
                           int64_t groups) {
    constexpr int U = sums_for(R, P);
    Dots part[U][R][P];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) part[u][r][p] = no_dots();
    const auto take = [&](int u, int64_t i) __attribute__((always_inline)) {
        typename Kind::Group g[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            prefetch(w[p] + AHEAD);
            g[p] = Kind::unpacked(w[p]);
            w[p] += LANES;
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) part[u][r][p] = Kind::dot(part[u][r][p], g[p], q + r * ldq + i * Kind::PER);
    };
    int64_t i = 0;
    for (; i + U <= groups; i += U)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) take(u, i + u);
    for (; i < groups; ++i) take(0, i);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            sums[r][p] = part[0][r][p];
#pragma GCC unroll 4
            for (int u = 1; u < U; ++u) sums[r][p] = added(sums[r][p], part[u][r][p]);
        }
}

template <int R, int P>
void tile_w8a8(const LinearJob &job, int64_t row, int64_t first, float *out) {
    Dots sums[R][P];
    const uint32_t *w[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) w[p] = job.w.panel(first + p);
    dot_groups<W8A8, R, P>(sums, w, (const int8_t *)job.rows.q + row * job.rows.ldq, job.rows.ldq, (job.w.K + 3) / 4);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            const V16 scale = mul(bcast(job.rows.scale[(row + r) * job.rows.lds]), load(job.w.scales() + (first + p) * LANES));
            const V16 v = dots8_to_float(sums[r][p], job.w.sums() + (first + p) * LANES);
            store(out + r * MAX_PANELS * LANES + p * LANES, mul(v, scale));
        }
}

template <int R, int P>
void tile_w8(const LinearJob &job, int64_t row, int64_t first, float *out) {
    V16 acc[R][P];
    const uint32_t *w[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) w[p] = job.w.panel(first + p);
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) acc[r][p] = zero();
    const int16_t *q = (const int16_t *)job.rows.q + row * job.rows.ldq;
    for (int64_t k = 0, block = 0; k < job.w.K; k += ROW_BLOCK, ++block) {
        const int64_t left = (job.w.K - k + 3) / 4, groups = left < ROW_BLOCK / 4 ? left : ROW_BLOCK / 4;
        Dots sums[R][P];
        dot_groups<W8, R, P>(sums, w, q + k, job.rows.ldq, groups);
        for (int r = 0; r < R; ++r) {
            const V16 scale = bcast(job.rows.scale[(row + r) * job.rows.lds + block]);
            for (int p = 0; p < P; ++p) acc[r][p] = fma(dots_to_float(sums[r][p], 0), scale, acc[r][p]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p)
            store(out + r * MAX_PANELS * LANES + p * LANES, mul(acc[r][p], load(job.w.scales() + (first + p) * LANES)));
}

template <int R, int P>
void tile_w4(const LinearJob &job, int64_t row, int64_t first, float *out) {
    V16 acc[R][P];
    const uint32_t *w[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) w[p] = job.w.panel(first + p);
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) acc[r][p] = zero();
    const int8_t *q = (const int8_t *)job.rows.q + row * job.rows.ldq;
    for (int64_t k = 0, block = 0; k < job.w.K; k += I4_GROUP, ++block) {
        Dots sums[R][P];
        dot_groups<W4, R, P>(sums, w, q + k, job.rows.ldq, I4_GROUP / 8);
        V16 scale[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            scale[p] = as_float(shl<16>(load_u16(w[p])));
            w[p] += LANES / 2;
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const int64_t at = (row + r) * job.rows.lds + block;
            const V16 mine = bcast(job.rows.scale[at]);
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p)
                acc[r][p] = fma(dots_to_float(sums[r][p], job.rows.offset[at]), mul(scale[p], mine), acc[r][p]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) store(out + r * MAX_PANELS * LANES + p * LANES, acc[r][p]);
}

// ---- dispatch over rows, panels and formats -------------------------------------------------------------------------

template <int R, int P>
void tile_any(const LinearJob &job, int64_t row, int64_t first, float *out) {
    const float *x = job.x + row * job.ldx;
    switch (job.w.format) {
        case FORMAT_BF16: return tile<Bf16, R, P>(job, x, first, out);
        case FORMAT_I8:
            return job.quantize_rows ? tile_w8a8<R, P>(job, row, first, out) : tile_w8<R, P>(job, row, first, out);
        case FORMAT_I4: return tile_w4<R, P>(job, row, first, out);
        default: return tile<F32, R, P>(job, x, first, out);
    }
}

#if defined(T5K_ISA_AVX512)
// Thirty-two registers: 12 x 2 tiles; up to four rows over four panels keeps at least four chains for R = 1.
constexpr int WIDE_ROWS = 12;
int panels_for(int rows, bool is_integer) { return rows <= 4 ? (is_integer ? 1 : 4) : 2; }
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
    if (rows == 3) return tile_any<3, 1>(job, row, first, out), 3;
    if (rows == 2) return tile_any<2, 1>(job, row, first, out), 2;
    if (rows >= 4) return tile_any<4, 1>(job, row, first, out), 4;
    return tile_any<1, 1>(job, row, first, out), 1;
}
#else
// Sixteen registers of eight lanes: 6 x 1 tiles (12 accumulators), R = 1 over four panels, 2 and 3 over two.
constexpr int WIDE_ROWS = 6;
int panels_for(int rows, bool is_integer) { return is_integer ? 1 : rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
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
    const bool is_integer = rounding_of(job) != ROWS_PLAIN;
    int want = panels_for(wide, is_integer);
    if (job.epilogue == EPILOGUE_GATED && want < 2) want = 2;
    for (int64_t first = begin; first < end;) {
        int panels = want;
        while (panels > end - first) panels /= 2;
        for (int64_t row = 0; row < job.R;) {
            const int rows = job.R - row < WIDE_ROWS ? (int)(job.R - row) : WIDE_ROWS;
            int done = rows;
            // A pair of panels for a gated epilogue may be wider than this ISA's tile: compute it in two passes.
            const int step = panels_for(rows, is_integer) < panels && panels == 2 ? 1 : panels;
            for (int p = 0; p < panels; p += step) done = tile_rows(job, row, rows, first + p, step, acc + p * LANES);
            for (int r = 0; r < done; ++r)
                finish_row(job, row + r, first, panels, acc + r * MAX_PANELS * LANES, best);
            row += done;
        }
        first += panels;
    }
}

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
