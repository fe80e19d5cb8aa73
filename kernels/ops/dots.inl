// Dot products of packed weights with rounded rows, sixteen outputs at a time. Integer ones are exact in int32 on every ISA, so
// their order does not matter. The only file besides cpu/vec.h that names intrinsics; included by linear.cpp and round_rows.cpp.
#pragma once

#include "cpu/vec.h"

namespace t5k::T5K_NS {

// Sixteen int32 sums, one per output, and the three ways a group of packed weights is multiplied into them.
//   dot8   four int8 weights by four int8 values        (w8a8)
//   dot16  four int8 weights by four int16 values       (w8): values k0 k2 | k1 k3, as bytes widen in place
//   dot4   eight 4-bit weights by eight int8 values (int4): values k0 k2 k4 k6 | k1 k3 k5 k7. Flipping the sign bit makes
//          the weight unsigned and 8 too large; the excess, 8 x the sum of the values, is taken off per group
// put_dotN writes sixteen values as dotN reads them. Beside them the bf16 dot product, and sixteen bf16 (the upper halves of v) as it
// reads them: put_bf16_pairs, or as fp32 with each two swapped, which is the order of its sums.
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
    constexpr int FLIP_AND_MASK = 0x28;  // (a ^ b) & c
    const __m512i mask = _mm512_set1_epi8(15), eights = _mm512_set1_epi8((char)0x88);
    return {_mm512_ternarylogic_epi32(w.v, eights, mask, FLIP_AND_MASK),
            _mm512_ternarylogic_epi32(_mm512_srli_epi16(w.v, 4), eights, mask, FLIP_AND_MASK)};
}
T5K_INLINE Wide signed_nibbles(I16 w) {
    const __m512i eights = _mm512_set1_epi8(8);
    const Wide n = nibbles(w);
    return {_mm512_sub_epi8(n.even, eights), _mm512_sub_epi8(n.odd, eights)};
}
T5K_INLINE Dots dot4(Dots acc, Wide w, const int8_t *q) {
    int32_t even, odd;
    __builtin_memcpy(&even, q, 4);
    __builtin_memcpy(&odd, q + 4, 4);
    const __m512i sum = _mm512_dpbusd_epi32(acc.v, w.even, _mm512_set1_epi32(even));
    return {_mm512_dpbusd_epi32(sum, w.odd, _mm512_set1_epi32(odd))};
}
T5K_INLINE Dots dots_from(int32_t first) { return {_mm512_set1_epi32(first)}; }
T5K_INLINE V16 dots_to_float(Dots d) { return {_mm512_cvtepi32_ps(d.v)}; }
T5K_INLINE void put_dot8(int8_t *q, I16 v) {
    _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8(_mm512_add_epi32(v.v, _mm512_set1_epi32(128))));
}
// The dot product of bf16 by its name: avx512 is compiled for CPUs without it too. acc += w1 a1, then += w0 a0, both fused, round
// to nearest even, denormals zero on both sides: two fma under flush_denormals, bit for bit (tests/kernels/test_bf16.py).
T5K_INLINE V16 dot_bf16(V16 acc, I16 w, I16 a) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(a.v));
    return acc;
}
T5K_INLINE void put_bf16_pairs(void *q, I16 v) { _mm256_storeu_si256((__m256i *)q, _mm512_cvtepi32_epi16(_mm512_srli_epi32(v.v, 16))); }
// Sixteen bf16, round to nearest even, denormals zero: by its name, for CPUs that have tiles.
T5K_INLINE void put_bf16(void *q, V16 x) {
    __m256i y;
    asm("vcvtneps2bf16 %1, %0" : "=v"(y) : "v"(x.v));
    _mm256_storeu_si256((__m256i *)q, y);
}
// 2^x, relative error under 3e-6: a polynomial of degree 4 for the fraction (minimax, by Lawson's iteration). 0 where it underflows.
T5K_INLINE V16 exp2_of(V16 x) {
    constexpr int FLOOR = 9;
    const V16 f = {_mm512_reduce_ps(x.v, FLOOR)};
    V16 p = bcast(1.3534137141e-2f);
    p = fma(p, f, bcast(5.2011489905e-2f));
    p = fma(p, f, bcast(2.4144276249e-1f));
    p = fma(p, f, bcast(6.9300382636e-1f));
    p = fma(p, f, bcast(1.0000025943f));
    return {_mm512_scalef_ps(p.v, x.v)};
}
T5K_INLINE I16 pairs_swapped(I16 v) { return {_mm512_shuffle_epi32(v.v, (_MM_PERM_ENUM)0xb1)}; }
T5K_INLINE __m256i words(I16 v) { return _mm512_cvtepi32_epi16(v.v); }
T5K_INLINE __m128i bytes(I16 v) { return _mm512_cvtepi32_epi8(v.v); }
// Sixteen int16 as tiles read them: high bytes to `high`, low ones to `low`.
T5K_INLINE void put_bytes(int8_t *high, int8_t *low, I16 v) {
    _mm_storeu_si128((__m128i *)high, bytes(sar<8>(v)));
    _mm_storeu_si128((__m128i *)low, bytes(v));
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
    const __m256i mask = _mm256_set1_epi8(15), eights = _mm256_set1_epi8((char)0x88);
    const __m256i a = _mm256_xor_si256(w.a, eights), b = _mm256_xor_si256(w.b, eights);
    return {{_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)},
            {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)}};
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
T5K_INLINE Dots dots_from(int32_t first) { return {_mm256_set1_epi32(first), _mm256_set1_epi32(first)}; }
T5K_INLINE V16 dots_to_float(Dots d) { return {_mm256_cvtepi32_ps(d.a), _mm256_cvtepi32_ps(d.b)}; }
T5K_INLINE I16 pairs_swapped(I16 v) { return {_mm256_shuffle_epi32(v.a, 0xb1), _mm256_shuffle_epi32(v.b, 0xb1)}; }
// The values fit, so packing them does not saturate; it works within 128-bit halves, which the permutation undoes.
T5K_INLINE __m256i words(I16 v) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8); }
T5K_INLINE __m128i bytes(I16 v) {
    const __m256i w = words(v);
    return _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
}
T5K_INLINE void put_dot8(int8_t *q, I16 v) { _mm_storeu_si128((__m128i *)q, bytes(v)); }
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
        for (int j = 0; j < 8; ++j) acc.v[i] += (int)(((uint32_t)w.v[i] ^ 0x88888888u) >> 4 * j & 15) * q[j % 2 * 4 + j / 2];
    return acc;
}
T5K_INLINE Dots dots_from(int32_t first) {
    Dots d;
    for (int i = 0; i < 16; ++i) d.v[i] = first;
    return d;
}
T5K_INLINE V16 dots_to_float(Dots d) {
    V16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = (float)d.v[i];
    return r;
}
T5K_INLINE I16 pairs_swapped(I16 v) {
    I16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = v.v[i ^ 1];
    return r;
}
T5K_INLINE void put_dot8(int8_t *q, I16 v) {
    for (int i = 0; i < 16; ++i) q[i] = (int8_t)v.v[i];
}
T5K_INLINE void put_dot16(int16_t *q, I16 v) {
    for (int i = 0; i < 16; ++i) q[i] = (int16_t)v.v[i / 4 * 4 + i % 2 * 2 + i % 4 / 2];
}
T5K_INLINE void put_dot4(int8_t *q, I16 v) {
    for (int i = 0; i < 16; ++i) q[i] = (int8_t)v.v[i / 8 * 8 + i % 4 * 2 + i % 8 / 4];
}
#endif

#if defined(T5K_ISA_AVX512) || defined(T5K_ISA_AVX2)
T5K_INLINE void put_dot16(int16_t *q, I16 v) {
    constexpr int ORDER = 0xd8;  // 0 2 1 3
    _mm256_storeu_si256((__m256i *)q, _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words(v), ORDER), ORDER));
}
T5K_INLINE void put_dot4(int8_t *q, I16 v) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    _mm_storeu_si128((__m128i *)q, _mm_shuffle_epi8(bytes(v), order));
}
#endif

// As bf16_of_float, in the upper halves of the lanes.
T5K_INLINE I16 rounded_to_bf16(V16 x) {
    const I16 bits = as_int(x), magnitude = andi(bits, bcasti(0x7fffffff));
    const I16 is_nan = sar<31>(addi(magnitude, bcasti(0x007fffff))), is_number = sar<31>(addi(magnitude, bcasti(-0x7f800001)));
    const I16 nearest = addi(addi(bits, bcasti(0x7fff)), andi(sar<16>(bits), bcasti(1)));
    const I16 either = ori(andi(nearest, is_number), andi(ori(bits, bcasti(0x00400000)), is_nan));
    return andi(either, bcasti((int32_t)0xffff0000));
}

}  // namespace t5k::T5K_NS
