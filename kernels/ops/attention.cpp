#include "ops/attention.h"

#include "device/kernel_table.h"
#include "device/vec.h"

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

// scores[r][key] for R query rows against every visible panel; returns each row's maximum.
template <int R>
T5K_INLINE void scores(const AttendJob &job, int64_t row, int64_t keys, float *s, int64_t lds, float *top) {
    V16 peak[R];
    for (int r = 0; r < R; ++r) peak[r] = bcast(-3.4e38f);
    for (int64_t key = 0; key < keys; key += LANES) {
        const float *k = job.cache.k + key * job.D;
        V16 acc[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[r] = zero();
        for (int64_t d = 0; d < job.D; ++d) {
            const V16 kd = load(k + d * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) acc[r] = fma(bcast(job.q[(row + r) * job.ldq + d]), kd, acc[r]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const int64_t position = job.first_position + row + r;
            if (job.bias) acc[r] = add(acc[r], bias_of(job, key, position));
            const int64_t visible = (job.causal && position + 1 < job.keys ? position + 1 : job.keys) - key;
            if (visible < LANES) acc[r] = keep_first(acc[r], visible < 0 ? 0 : (int)visible, bcast(-3.4e38f));
            peak[r] = max(peak[r], acc[r]);
            store(s + r * lds + key, acc[r]);
        }
    }
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

template <int R, int P>
T5K_INLINE void mix(const AttendJob &job, int64_t row, int64_t first, const float *s, int64_t lds, const float *inverse) {
    V16 acc[R][P];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = zero();
    const float *v = job.cache.v + first * job.cache.capacity * LANES;
    for (int64_t key = 0; key < job.keys; ++key) {
        V16 vk[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) vk[p] = load(v + (p * job.cache.capacity + key) * LANES);
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
            float *out = job.out + (row + r) * job.ldo + (first + p) * LANES;
            const V16 y = mul(acc[r][p], bcast(inverse[r]));
            const int64_t dims = job.D - (first + p) * LANES;
            if (dims >= LANES) {
                store(out, y);
                continue;
            }
            float lanes[LANES];
            store(lanes, y);
            for (int64_t i = 0; i < dims; ++i) out[i] = lanes[i];
        }
}

template <int R>
void block(const AttendJob &job, int64_t row, float *scratch) {
    const int64_t lds = round_up(job.keys, LANES);
    float top[R], inverse[R];
    scores<R>(job, row, job.keys, scratch, lds, top);
    for (int r = 0; r < R; ++r) {
        const int64_t position = job.first_position + row + r;
        const int64_t visible = job.causal && position + 1 < job.keys ? position + 1 : job.keys;
        inverse[r] = 1.0f / exponentials(scratch + r * lds, visible, job.keys, top[r]);
    }
    const int64_t panels = panel_count(job.D);
    int64_t p = 0;
    if constexpr (R == 1)
        for (; p + 4 <= panels; p += 4) mix<R, 4>(job, row, p, scratch, lds, inverse);
    for (; p < panels; ++p) mix<R, 1>(job, row, p, scratch, lds, inverse);
}

}  // namespace

void store_kv(const StoreJob &job) {
    const int64_t panels = panel_count(job.D);
    for (int64_t r = 0; r < job.R; ++r) {
        const int64_t t = job.first + r;
        const float *k = job.k + r * job.ld, *v = job.v + r * job.ld;
        float *kp = job.cache.k + t / LANES * LANES * job.D + t % LANES;
        for (int64_t d = 0; d < job.D; ++d) kp[d * LANES] = k[d];
        for (int64_t p = 0; p < panels; ++p) {
            float *vp = job.cache.v + (p * job.cache.capacity + t) * LANES;
            const int64_t dims = job.D - p * LANES < LANES ? job.D - p * LANES : LANES;
            __builtin_memcpy(vp, v + p * LANES, (size_t)dims * 4);
        }
    }
}

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
    int64_t row = 0;
    for (; row + BLOCK <= job.R; row += BLOCK) block<BLOCK>(job, row, scratch);
    for (; row < job.R; ++row) block<1>(job, row, scratch);
}

}  // namespace t5k::T5K_NS
