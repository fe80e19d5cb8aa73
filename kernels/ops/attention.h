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
//               Where is_rounded and the CPU has AMX: products in the tiles' order (ops/amx.inl), both sides of them in bf16,
//               the maximum found by blocks of 512 keys (attention_amx.inl). Still by itself, whatever the rows beside it.
// Tolerance     2^-20 * max|v| against f64 on the stored keys and values; by tiles 2^-9 * max|v| against f64 on rounded q, keys, values,
//               and a NaN score makes its row NaN.
// Preconditions keys >= 1; capacity >= keys, a multiple of 16; unused lanes of the last K panel hold finite numbers
//               (buffers start at zero); scratch holds attend_scratch(job) floats.
// Bytes         decode (R = 1): 8 T D + 4 T per head, 4 T D + 4 T in bf16. Flops 4 R T D. Decode is memory-bound,
//               the encoder is FMA-bound.
// Source        T5Attention.forward (no 1/sqrt(D)); engines.md 1.3, 1.4.
#pragma once

#include "ops/panels.h"

namespace t5k {

// `n` stored numbers on from p, each of `size` bytes: what a device keeps behind a float * may be narrower (device/device.h).
template <class T>
T5K_STATIC T *advanced(T *p, int64_t n, int64_t size) {
    return (T *)((uintptr_t)p + (uintptr_t)(n * size));
}

struct HeadCache {
    float *k = nullptr;
    float *v = nullptr;
    int64_t capacity = 0;
    int64_t size = 4;  // bytes of a stored number
};

T5K_STATIC int64_t k_cache_floats(int64_t capacity, int64_t D) { return capacity * D; }
T5K_STATIC int64_t v_cache_floats(int64_t capacity, int64_t D) { return panel_count(D) * LANES * capacity; }

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
    bool is_rounded = false;  // q, keys, values and exponentials may be rounded to bf16; the cache is fp32
    int64_t row = 0;  // of the decode batch, where append_k is set
    int64_t rank = 0;

    struct Gpu {
        const int32_t *position = nullptr;  // attend only, or null: then *position is first_position, and *position + 1 is keys
    };
    Gpu gpu;  // set by the CUDA device
};

// Floats of one thread's scratch: the scores of a block of eight rows, or by tiles the head's keys and values.
constexpr int64_t MOST_TILE_DIMS = 256;
T5K_STATIC bool is_by_tiles(const AttendJob &job) { return job.is_rounded && job.D <= MOST_TILE_DIMS; }
T5K_STATIC int64_t attend_scratch(const AttendJob &job, bool has_tiles) {
    const int64_t keys = round_up(job.keys, 32);
    return has_tiles && is_by_tiles(job) ? keys * round_up(job.D, 32) : 8 * keys;
}

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

// On a GPU (attention.cu, attention_rows.cu, attention_tiles.cu): jobs lie in device memory, one launch serves several of them.
//
// attend_<type>        one query row each (R = 1): append, scores + bias, softmax, mix. Grid (heads, blocks, splits), 128 threads;
//                      split z sees keys [z, z + 1) * SPLIT_KEYS and there are enough splits for the longest row. Dynamic shared
//                      memory 4 * (D + round_up(min(most keys, SPLIT_KEYS), 16)) bytes. <type> of q, out and caches: f32, f16,
//                      bf16. A block without keys (0, or *position = -1) does nothing. With one split `out` is written; with
//                      more, `partial` [blocks, heads, splits, D + 2]: unscaled mix, maximum, sum - which
// attend_merge_<type>  folds into out. Grid (heads, blocks), any threads. How a row is split depends on its own keys alone.
// attend_rows_<type>   many query rows (encoder), keys seen tile by tile with a running softmax: no [R, keys] buffer. f32 by fma,
//                      f16 and bf16 by mma.m16n8k16, where probabilities are rounded to <type> before they meet the values.
//                      Grid (ceil(R / 16), heads, blocks), 128 threads, dynamic shared 4 * (16 * D + 2 W + 32 + 16 * 32). D <= 256.
// store_kv_<type>      Grid (R, heads, blocks).
// Tolerance 2^-20 max|v| before rounding; attend_rows of 16 bits: half a unit in the last place of max|v| more.
constexpr int SPLIT_KEYS = 512;

struct AttendLaunch {
    const AttendJob *blocks;  // of the same D, W and heads
    float *partial;
    int32_t splits;
};

struct StoreLaunch {
    const StoreJob *blocks;  // of the same D and heads
};

T5K_STATIC HeadCache head_cache(const HeadCache &c, int64_t h, int64_t D) {
    return {advanced(c.k, h * k_cache_floats(c.capacity, D), c.size),
            advanced(c.v, h * v_cache_floats(c.capacity, D), c.size), c.capacity, c.size};
}

// The same job for one of its heads.
T5K_STATIC StoreJob one_head(const StoreJob &job, int64_t h) {
    StoreJob one = job;
    one.k += h * job.D;
    one.v += h * job.D;
    one.cache = head_cache(job.cache, h, job.D);
    one.heads = 1;
    return one;
}

T5K_STATIC AttendJob one_head(const AttendJob &job, int64_t h) {
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
