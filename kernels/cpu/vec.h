// Sixteen fp32 lanes on every ISA: the only file that names an intrinsic of the float kernels.
//
// Every operation is lane-wise and IEEE (fma is a true fused multiply-add on all three), and the few reductions fold
// lanes in one fixed order. So an op written with V16 returns the same bits on scalar, AVX2 and AVX-512: a row's
// result depends neither on the machine nor on how many rows are computed beside it.
//
// Included only by ops/*.cpp, which are compiled once per ISA with T5K_ISA_{SCALAR,AVX2,AVX512} defined. Those sources
// include no C++ library header: an inline function of it, compiled with -mavx512f, could be the copy the linker keeps.
#pragma once

#include <stdint.h>

#if defined(T5K_ISA_AVX512)
#include <immintrin.h>
#define T5K_NS avx512
#elif defined(T5K_ISA_AVX2)
#include <immintrin.h>
#define T5K_NS avx2
#else
#define T5K_NS scalar
#endif

#define T5K_INLINE static inline __attribute__((always_inline))

namespace t5k::T5K_NS {

#if defined(T5K_ISA_AVX512)

struct V16 {
    __m512 v;
};
struct I16 {
    __m512i v;
};

T5K_INLINE V16 load(const float *p) { return {_mm512_loadu_ps(p)}; }
T5K_INLINE void store(float *p, V16 a) { _mm512_storeu_ps(p, a.v); }
T5K_INLINE V16 bcast(float f) { return {_mm512_set1_ps(f)}; }
T5K_INLINE V16 fma(V16 a, V16 b, V16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
T5K_INLINE V16 add(V16 a, V16 b) { return {_mm512_add_ps(a.v, b.v)}; }
T5K_INLINE V16 sub(V16 a, V16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
T5K_INLINE V16 mul(V16 a, V16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
T5K_INLINE V16 div(V16 a, V16 b) { return {_mm512_div_ps(a.v, b.v)}; }
T5K_INLINE V16 max(V16 a, V16 b) { return {_mm512_max_ps(a.v, b.v)}; }
T5K_INLINE V16 min(V16 a, V16 b) { return {_mm512_min_ps(a.v, b.v)}; }
T5K_INLINE I16 loadi(const void *p) { return {_mm512_loadu_si512(p)}; }
T5K_INLINE void storei(void *p, I16 a) { _mm512_storeu_si512(p, a.v); }
T5K_INLINE I16 bcasti(int32_t i) { return {_mm512_set1_epi32(i)}; }
T5K_INLINE I16 addi(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
T5K_INLINE I16 andi(I16 a, I16 b) { return {_mm512_and_si512(a.v, b.v)}; }
T5K_INLINE I16 ori(I16 a, I16 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n>
T5K_INLINE I16 shl(I16 a) {
    return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
T5K_INLINE I16 sar(I16 a) {
    return {_mm512_srai_epi32(a.v, n)};
}
T5K_INLINE V16 to_float(I16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
T5K_INLINE I16 to_nearest(V16 a) { return {_mm512_cvtps_epi32(a.v)}; }
T5K_INLINE V16 as_float(I16 a) { return {_mm512_castsi512_ps(a.v)}; }
T5K_INLINE I16 as_int(V16 a) { return {_mm512_castps_si512(a.v)}; }
T5K_INLINE I16 load_u16(const void *p) { return {_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p))}; }
// Whether any lane is above f, or not below it: the first is false for NaN, the second true.
T5K_INLINE bool any_above(V16 a, float f) { return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(f), _CMP_GT_OQ) != 0; }
T5K_INLINE bool any_not_below(V16 a, float f) { return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(f), _CMP_NLT_UQ) != 0; }
T5K_INLINE V16 keep_first(V16 a, int n, V16 fill) {
    return {_mm512_mask_blend_ps(n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1), fill.v, a.v)};
}

#elif defined(T5K_ISA_AVX2)

struct V16 {
    __m256 a, b;
};
struct I16 {
    __m256i a, b;
};

T5K_INLINE V16 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
T5K_INLINE void store(float *p, V16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
T5K_INLINE V16 bcast(float f) { return {_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
#define T5K_BOTH(name, op) \
    T5K_INLINE V16 name(V16 x, V16 y) { return {op(x.a, y.a), op(x.b, y.b)}; }
T5K_BOTH(add, _mm256_add_ps)
T5K_BOTH(sub, _mm256_sub_ps)
T5K_BOTH(mul, _mm256_mul_ps)
T5K_BOTH(div, _mm256_div_ps)
T5K_BOTH(max, _mm256_max_ps)
T5K_BOTH(min, _mm256_min_ps)
#undef T5K_BOTH
T5K_INLINE V16 fma(V16 x, V16 y, V16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
T5K_INLINE I16 loadi(const void *p) {
    return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
T5K_INLINE void storei(void *p, I16 x) {
    _mm256_storeu_si256((__m256i *)p, x.a);
    _mm256_storeu_si256((__m256i *)p + 1, x.b);
}
T5K_INLINE I16 bcasti(int32_t i) { return {_mm256_set1_epi32(i), _mm256_set1_epi32(i)}; }
T5K_INLINE I16 addi(I16 x, I16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
T5K_INLINE I16 andi(I16 x, I16 y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
T5K_INLINE I16 ori(I16 x, I16 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int n>
T5K_INLINE I16 shl(I16 x) {
    return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
template <int n>
T5K_INLINE I16 sar(I16 x) {
    return {_mm256_srai_epi32(x.a, n), _mm256_srai_epi32(x.b, n)};
}
T5K_INLINE V16 to_float(I16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
T5K_INLINE I16 to_nearest(V16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
T5K_INLINE V16 as_float(I16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
T5K_INLINE I16 as_int(V16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
T5K_INLINE I16 load_u16(const void *p) {
    return {_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)),
            _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p + 1))};
}
#define T5K_ANY(name, test)                                                                                \
    T5K_INLINE bool name(V16 x, float f) {                                                                 \
        const __m256 y = _mm256_set1_ps(f);                                                                \
        return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, y, test), _mm256_cmp_ps(x.b, y, test))) != 0; \
    }
T5K_ANY(any_above, _CMP_GT_OQ)
T5K_ANY(any_not_below, _CMP_NLT_UQ)
#undef T5K_ANY
T5K_INLINE V16 keep_first(V16 x, int n, V16 fill) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
    const __m256 high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane));
    return {_mm256_blendv_ps(fill.a, x.a, low), _mm256_blendv_ps(fill.b, x.b, high)};
}

#else

struct V16 {
    float v[16];
};
struct I16 {
    int32_t v[16];
};

#define T5K_LANES for (int i = 0; i < 16; ++i)
T5K_INLINE V16 load(const float *p) {
    V16 r;
    T5K_LANES r.v[i] = p[i];
    return r;
}
T5K_INLINE void store(float *p, V16 a) { T5K_LANES p[i] = a.v[i]; }
T5K_INLINE V16 bcast(float f) {
    V16 r;
    T5K_LANES r.v[i] = f;
    return r;
}
#define T5K_EACH(type, name, expression)    \
    T5K_INLINE type name(type a, type b) { \
        type r;                             \
        T5K_LANES r.v[i] = expression;      \
        return r;                           \
    }
T5K_EACH(V16, add, a.v[i] + b.v[i])
T5K_EACH(V16, sub, a.v[i] - b.v[i])
T5K_EACH(V16, mul, a.v[i] * b.v[i])
T5K_EACH(V16, div, a.v[i] / b.v[i])
T5K_EACH(V16, max, a.v[i] > b.v[i] ? a.v[i] : b.v[i])
T5K_EACH(V16, min, a.v[i] < b.v[i] ? a.v[i] : b.v[i])
T5K_EACH(I16, addi, (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]))
T5K_EACH(I16, andi, a.v[i] & b.v[i])
T5K_EACH(I16, ori, a.v[i] | b.v[i])
#undef T5K_EACH
T5K_INLINE V16 fma(V16 a, V16 b, V16 c) {
    V16 r;
    T5K_LANES r.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return r;
}
T5K_INLINE I16 loadi(const void *p) {
    I16 r;
    __builtin_memcpy(r.v, p, 64);
    return r;
}
T5K_INLINE void storei(void *p, I16 a) { __builtin_memcpy(p, a.v, 64); }
T5K_INLINE I16 bcasti(int32_t x) {
    I16 r;
    T5K_LANES r.v[i] = x;
    return r;
}
template <int n>
T5K_INLINE I16 shl(I16 a) {
    I16 r;
    T5K_LANES r.v[i] = (int32_t)((uint32_t)a.v[i] << n);
    return r;
}
template <int n>
T5K_INLINE I16 sar(I16 a) {
    I16 r;
    T5K_LANES r.v[i] = a.v[i] >> n;
    return r;
}
T5K_INLINE V16 to_float(I16 a) {
    V16 r;
    T5K_LANES r.v[i] = (float)a.v[i];
    return r;
}
T5K_INLINE I16 to_nearest(V16 a) {
    I16 r;
    T5K_LANES r.v[i] = (int32_t)__builtin_nearbyintf(a.v[i]);
    return r;
}
T5K_INLINE V16 as_float(I16 a) {
    V16 r;
    __builtin_memcpy(r.v, a.v, 64);
    return r;
}
T5K_INLINE I16 as_int(V16 a) {
    I16 r;
    __builtin_memcpy(r.v, a.v, 64);
    return r;
}
T5K_INLINE I16 load_u16(const void *p) {
    uint16_t h[16];
    __builtin_memcpy(h, p, 32);
    I16 r;
    T5K_LANES r.v[i] = h[i];
    return r;
}
T5K_INLINE bool any_above(V16 a, float f) {
    bool any = false;
    T5K_LANES any |= a.v[i] > f;
    return any;
}
T5K_INLINE bool any_not_below(V16 a, float f) {
    bool any = false;
    T5K_LANES any |= !(a.v[i] < f);
    return any;
}
T5K_INLINE V16 keep_first(V16 a, int n, V16 fill) {
    V16 r;
    T5K_LANES r.v[i] = i < n ? a.v[i] : fill.v[i];
    return r;
}
#undef T5K_LANES

#endif

T5K_INLINE V16 zero() { return bcast(0.0f); }

// Between the two calls denormal inputs count as zero and denormal results become zero: the arithmetic of the bf16 dot product
// instruction. On x86; elsewhere denormals stay. The empty statements keep loads and stores, and so the arithmetic, between them.
T5K_INLINE uint32_t flush_denormals() {
#if defined(__x86_64__)
    const uint32_t before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8040u);
    asm volatile("" ::: "memory");
    return before;
#else
    return 0;
#endif
}
T5K_INLINE void restore_denormals([[maybe_unused]] uint32_t before) {
#if defined(__x86_64__)
    asm volatile("" ::: "memory");
    __builtin_ia32_ldmxcsr(before);
#endif
}

// Sum of the lanes, folded halves first; one order on every ISA.
#if defined(T5K_ISA_AVX512) || defined(T5K_ISA_AVX2)
T5K_INLINE float sum8(__m256 halves) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
T5K_INLINE float largest8(__m256 halves) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#endif
#if defined(T5K_ISA_AVX512)
T5K_INLINE float sum(V16 a) { return sum8(_mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1))); }
T5K_INLINE float largest(V16 a) {
    return largest8(_mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)));
}
#elif defined(T5K_ISA_AVX2)
T5K_INLINE float sum(V16 x) { return sum8(_mm256_add_ps(x.a, x.b)); }
T5K_INLINE float largest(V16 x) { return largest8(_mm256_max_ps(x.a, x.b)); }
#else
T5K_INLINE float sum(V16 a) {
    float v[16];
    store(v, a);
    for (int half = 8; half >= 1; half /= 2)
        for (int i = 0; i < half; ++i) v[i] += v[i + half];
    return v[0];
}

T5K_INLINE float largest(V16 a) {
    float v[16];
    store(v, a);
    float m = v[0];
    for (int i = 1; i < 16; ++i) m = v[i] > m ? v[i] : m;
    return m;
}
#endif

// exp(x), relative error under 2e-7 for x in [-87, 88]; clamped outside. Cephes' polynomial with Cody-Waite reduction.
T5K_INLINE V16 exp(V16 x) {
    x = min(max(x, bcast(-87.33f)), bcast(88.0f));
    const I16 n = to_nearest(mul(x, bcast(1.44269504088896341f)));
    const V16 nf = to_float(n);
    V16 r = fma(nf, bcast(-0.693359375f), x);
    r = fma(nf, bcast(2.12194440e-4f), r);
    V16 p = bcast(1.9875691500e-4f);
    p = fma(p, r, bcast(1.3981999507e-3f));
    p = fma(p, r, bcast(8.3334519073e-3f));
    p = fma(p, r, bcast(4.1665795894e-2f));
    p = fma(p, r, bcast(1.6666665459e-1f));
    p = fma(p, r, bcast(5.0000001201e-1f));
    p = add(fma(mul(r, r), p, r), bcast(1.0f));
    return mul(p, as_float(shl<23>(addi(n, bcasti(127)))));
}

}  // namespace t5k::T5K_NS
