// attention: out[i, :] = sum_j softmax_j( q[i] . k[j] + bias(j - i) ) v[j], one head, unscaled scores.
//
//   q      [R, D] fp32, row stride ldq; row i stands at position first_position + i
//   cache  K as panels of 16 keys [ceil(T/16), D, 16]; V as panels of 16 dims [ceil(D/16), capacity, 16]; fp32, or bf16
//          (rounded to nearest even when stored, widened when read)
//   out    [R, D] fp32, row stride ldo
//   bias   null (cross-attention), or the head's table of 2 W + 32 floats: entry e is the bias at relative position
//          (key - query) = clamp(e - W - 16, -W, W). Sixteen consecutive keys read sixteen consecutive entries, and the
//          sixteen saturated entries at either end make every clamp exact: no gather, no log, no [S, S] buffer.
//   keys   [0, keys) are visible; causal rows see [0, position] only
//
// Keys and values never need a transpose: appending position t writes D floats at stride 16 into the K panel and
// ceil(D/16) pieces into V. Both products then run on whole vectors without a horizontal sum.
//
// Accumulation  scores: fp32 chain over D in order. softmax: max subtracted, fp32 sum of sixteen lanes folded in a fixed
//               order. Values: fp32 chain over keys in order. So a row does not depend on rows computed beside it.
// Tolerance     2^-20 * max|v| against f64 on the stored keys and values.
// Preconditions keys >= 1; capacity >= keys, a multiple of 16; unused lanes of the last K panel hold finite numbers
//               (buffers start at zero); scratch holds R * round_up(keys, 16) floats.
// Bytes         decode (R = 1): 8 T D + 4 T per head, 4 T D + 4 T in bf16. Flops 4 R T D. Decode is memory-bound,
//               the encoder is FMA-bound.
// Source        T5Attention.forward (no 1/sqrt(D)); engines.md 1.3, 1.4.
#pragma once

#include "ops/panels.h"

namespace t5k {

// `n` stored numbers on from p, each of `size` bytes: what a device keeps behind a float * may be narrower (device/device.h).
template <class T>
static inline T *advanced(T *p, int64_t n, int64_t size) {
    return (T *)((uintptr_t)p + (uintptr_t)(n * size));
}

struct HeadCache {
    float *k = nullptr;
    float *v = nullptr;
    int64_t capacity = 0;
    int64_t size = 4;  // bytes of a stored number
};

static inline int64_t k_cache_floats(int64_t capacity, int64_t D) { return capacity * D; }
static inline int64_t v_cache_floats(int64_t capacity, int64_t D) { return panel_count(D) * LANES * capacity; }

// One row block, all heads of one rank: head h uses q + h D, out + h D, cache + h * stride, bias + h * (2 W + 32).
// append_k / append_v (decode, R = 1): stored at position keys - 1 before attending, head h at + h D.
struct AttendJob {
    const float *q = nullptr;
    int64_t ldq = 0;
    float *out = nullptr;
    int64_t ldo = 0;
    HeadCache cache;
    const float *append_k = nullptr;
    const float *append_v = nullptr;
    const float *bias = nullptr;
    int64_t W = 0;
    int64_t heads = 1;
    int64_t R = 0;
    int64_t D = 0;
    int64_t keys = 0;
    int64_t first_position = 0;
    bool causal = false;
    int64_t row = 0;  // of the decode batch, where append_k is set
    int64_t rank = 0;
};

// Row r of k and v (stride ld, head h at + h D) goes to position first + r.
struct StoreJob {
    const float *k = nullptr;
    const float *v = nullptr;
    int64_t ld = 0;
    HeadCache cache;
    int64_t heads = 1;
    int64_t R = 0;
    int64_t D = 0;
    int64_t first = 0;
    int64_t rank = 0;
};

static inline HeadCache head_cache(const HeadCache &c, int64_t h, int64_t D) {
    return {advanced(c.k, h * k_cache_floats(c.capacity, D), c.size),
            advanced(c.v, h * v_cache_floats(c.capacity, D), c.size), c.capacity, c.size};
}

// The same job for one of its heads.
static inline StoreJob one_head(const StoreJob &job, int64_t h) {
    StoreJob one = job;
    one.k += h * job.D;
    one.v += h * job.D;
    one.cache = head_cache(job.cache, h, job.D);
    one.heads = 1;
    return one;
}

static inline AttendJob one_head(const AttendJob &job, int64_t h) {
    AttendJob one = job;
    one.q += h * job.D;
    one.out += h * job.D;
    one.cache = head_cache(job.cache, h, job.D);
    if (job.append_k) {
        one.append_k += h * job.D;
        one.append_v += h * job.D;
    }
    if (job.bias) one.bias += h * (2 * job.W + 2 * LANES);
    one.heads = 1;
    return one;
}

}  // namespace t5k
