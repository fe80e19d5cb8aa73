#include "ops/attention.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"
#include "ops/bf16.h"

namespace t5k::T5K_NS {
namespace {

#if defined(T5K_ISA_AVX512)
constexpr int BLOCK = 8;
#else
constexpr int BLOCK = 4;
#endif

T5K_INLINE V16 bias_of(const AttendJob &job, int64_t key, int64_t position) {
    int64_t e = key - position + job.W + LANES;
    const int64_t last = 2 * job.W + LANES;
    e = e < 0 ? 0 : e > last ? last : e;
    return load(job.bias + e);
}

// The first n of x.
T5K_INLINE void put(float *out, V16 x, int64_t n) {
    if (n >= LANES) return store(out, x);
    float lanes[LANES];
    store(lanes, x);
    for (int64_t i = 0; i < n; ++i) out[i] = lanes[i];
}

// What a cache holds: V16 of sixteen numbers, and one number stored.
struct Floats {
    using Number = float;
    T5K_INLINE V16 sixteen(const Number *p) { return load(p); }
    T5K_INLINE Number stored(float x) { return x; }
};
struct Bf16s {
    using Number = uint16_t;
    T5K_INLINE V16 sixteen(const Number *p) { return as_float(shl<16>(load_u16(p))); }
    T5K_INLINE Number stored(float x) { return bf16_of_float(x); }
};

// scores[r][key] for R query rows against P panels of keys from `key` on; peak[r] grows.
template <class C, int R, int P>
T5K_INLINE void score_panels(const AttendJob &job, int64_t row, int64_t key, float *s, int64_t lds, V16 (&peak)[R]) {
    const typename C::Number *k = (const typename C::Number *)job.cache.k + key * job.D;
    V16 acc[R][P];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = zero();
    // One row alone waits for memory: the values of these keys come near meanwhile, a panel of dims for every sixteen d.
    constexpr int64_t STEP = P * (int64_t)sizeof(typename C::Number) * LANES;
    const char *v = (const char *)((const typename C::Number *)job.cache.v + key * LANES);
    const int64_t panel = job.cache.capacity * LANES * (int64_t)sizeof(typename C::Number);
    for (int64_t first = 0; first < job.D; first += LANES, v += panel) {
        const int64_t end = first + LANES < job.D ? first + LANES : job.D;
        for (int64_t d = first; d < end; ++d) {
            if constexpr (R == 1)
                for (int64_t b = 0; b < STEP; b += 64) __builtin_prefetch(v + (d - first) * STEP + b, 0, 3);
            V16 kd[P];
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) kd[p] = C::sixteen(k + (p * job.D + d) * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const V16 a = bcast(job.q[(row + r) * job.ldq + d]);
#pragma GCC unroll 4
                for (int p = 0; p < P; ++p) acc[r][p] = fma(a, kd[p], acc[r][p]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            const int64_t position = job.first_position + row + r, at = key + p * LANES;
            if (job.bias) acc[r][p] = add(acc[r][p], bias_of(job, at, position));
            const int64_t visible = (job.causal && position + 1 < job.keys ? position + 1 : job.keys) - at;
            if (visible < LANES) acc[r][p] = keep_first(acc[r][p], visible < 0 ? 0 : (int)visible, bcast(-3.4e38f));
            peak[r] = max(peak[r], acc[r][p]);
            store(s + r * lds + at, acc[r][p]);
        }
}

// scores[r][key] for R query rows against every visible panel; returns each row's maximum.
template <class C, int R>
T5K_INLINE void scores(const AttendJob &job, int64_t row, float *s, int64_t lds, float *top) {
    V16 peak[R];
    for (int r = 0; r < R; ++r) peak[r] = bcast(-3.4e38f);
    int64_t key = 0;
    // One row alone is a chain of fma per panel: four panels at a time hide its latency.
    if constexpr (R == 1) {
        for (; key + 4 * LANES <= lds; key += 4 * LANES) score_panels<C, R, 4>(job, row, key, s, lds, peak);
        for (; key + 2 * LANES <= lds; key += 2 * LANES) score_panels<C, R, 2>(job, row, key, s, lds, peak);
    }
    for (; key < lds; key += LANES) score_panels<C, R, 1>(job, row, key, s, lds, peak);
    for (int r = 0; r < R; ++r) top[r] = largest(peak[r]);
}

// s becomes exp(s - top) with hidden keys at exactly 0; returns the sum.
T5K_INLINE float exponentials(float *s, int64_t visible, int64_t keys, float top) {
    V16 total = zero();
    for (int64_t key = 0; key < keys; key += LANES) {
        V16 p = exp(sub(load(s + key), bcast(top)));
        if (visible - key < LANES) p = keep_first(p, visible - key < 0 ? 0 : (int)(visible - key), zero());
        total = add(total, p);
        store(s + key, p);
    }
    return sum(total);
}

template <class C, int R, int P>
T5K_INLINE void mix(const AttendJob &job, int64_t row, int64_t first, const float *s, int64_t lds, const float *inverse) {
    V16 acc[R][P];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = zero();
    const typename C::Number *v = (const typename C::Number *)job.cache.v + first * job.cache.capacity * LANES;
    // While one row's values are mixed, the next head's keys come near: they follow this head's.
    constexpr int64_t STEP = P * (int64_t)sizeof(typename C::Number) * LANES;
    const auto *k = (const typename C::Number *)job.cache.k + job.cache.capacity * job.D + first * job.keys * LANES;
    for (int64_t key = 0; key < job.keys; ++key) {
        if constexpr (R == 1)
            for (int64_t b = 0; b < STEP; b += 64) __builtin_prefetch((const char *)k + key * STEP + b, 0, 3);
        V16 vk[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) vk[p] = C::sixteen(v + (p * job.cache.capacity + key) * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const V16 a = bcast(s[r * lds + key]);
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) acc[r][p] = fma(a, vk[p], acc[r][p]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            put(job.out + (row + r) * job.ldo + (first + p) * LANES, mul(acc[r][p], bcast(inverse[r])), job.D - (first + p) * LANES);
        }
}

template <class C, int R>
void block(const AttendJob &job, int64_t row, float *scratch) {
    const int64_t lds = round_up(job.keys, LANES);
    float top[R], inverse[R];
    scores<C, R>(job, row, scratch, lds, top);
    for (int r = 0; r < R; ++r) {
        const int64_t position = job.first_position + row + r;
        const int64_t visible = job.causal && position + 1 < job.keys ? position + 1 : job.keys;
        inverse[r] = 1.0f / exponentials(scratch + r * lds, visible, job.keys, top[r]);
    }
    const int64_t panels = panel_count(job.D);
    int64_t p = 0;
    if constexpr (R == 1)
        for (; p + 4 <= panels; p += 4) mix<C, R, 4>(job, row, p, scratch, lds, inverse);
    for (; p < panels; ++p) mix<C, R, 1>(job, row, p, scratch, lds, inverse);
}

template <class C>
void store_rows(const StoreJob &job) {
    using Number = typename C::Number;
    const int64_t panels = panel_count(job.D);
    for (int64_t r = 0; r < job.R; ++r) {
        const int64_t t = job.first + r;
        const float *k = job.k + r * job.ld, *v = job.v + r * job.ld;
        Number *kp = (Number *)job.cache.k + t / LANES * LANES * job.D + t % LANES;
        for (int64_t d = 0; d < job.D; ++d) kp[d * LANES] = C::stored(k[d]);
        for (int64_t p = 0; p < panels; ++p) {
            Number *vp = (Number *)job.cache.v + (p * job.cache.capacity + t) * LANES;
            const int64_t dims = job.D - p * LANES < LANES ? job.D - p * LANES : LANES;
            for (int64_t i = 0; i < dims; ++i) vp[i] = C::stored(v[p * LANES + i]);
        }
    }
}

template <class C>
void attend_rows(const AttendJob &job, float *scratch) {
    int64_t row = 0;
    for (; row + BLOCK <= job.R; row += BLOCK) block<C, BLOCK>(job, row, scratch);
    for (; row < job.R; ++row) block<C, 1>(job, row, scratch);
}

}  // namespace
}  // namespace t5k::T5K_NS

#if defined(T5K_ISA_AVX512)
#include "ops/attention_amx.inl"
#endif

namespace t5k::T5K_NS {

void store_kv(const StoreJob &job) { job.cache.size == 2 ? store_rows<Bf16s>(job) : store_rows<Floats>(job); }

// One head (job.heads is 1: the device has split the job).
void attend(const AttendJob &job, float *scratch) {
    if (job.append_k) {
        StoreJob append;
        append.k = job.append_k;
        append.v = job.append_v;
        append.cache = job.cache;
        append.R = 1;
        append.D = job.D;
        append.first = job.keys - 1;
        store_kv(append);
    }
    job.cache.size == 2 ? attend_rows<Bf16s>(job, scratch) : attend_rows<Floats>(job, scratch);
}

#if defined(T5K_ISA_AVX512)
// The same, by tiles where the job allows its roundings.
void attend_amx(const AttendJob &job, float *scratch) {
    if (!is_by_tiles(job)) return attend(job, scratch);
    const HeadTiles tiles = head_tiles(job, scratch);
    put_tiles(job, tiles);
    configure_attention();
    RowBlock rows;
    for (int64_t row = 0; row < job.R; row += TILE_ROWS) attend_block(job, tiles, row, rows);
    release_tiles();
}
#endif

}  // namespace t5k::T5K_NS
