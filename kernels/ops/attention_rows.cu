// attend_rows_f32: many query rows against a panel cache, keys in tiles of 32 under a running softmax; no [R, keys]
// buffer. A warp owns 4 query rows; in the scores a lane is a key, in the mix it is a dim. Contract in ops/attention.h.
#include "cuda/kernel/reduce.cuh"
#include "ops/attention.h"

namespace t5k::cuda {

constexpr int QUERIES = 16, WARP_QUERIES = 4, TILE = 32, MAX_PIECES = 8;  // pieces of 32 dims: D <= 256

template <class A>
struct Head {
    const A *k, *v;
    const float *q, *bias;  // shared: [WARP_QUERIES, D] of this warp; [2 W + 32] or null
    float *p;               // shared: [WARP_QUERIES, TILE] of this warp
    int D, W, keys, causal;
    i64 capacity;
};

struct Running {
    float top[WARP_QUERIES], sum[WARP_QUERIES], acc[WARP_QUERIES][MAX_PIECES];
};

// Scores of one tile, and the running maximum and sum brought up to date; probabilities go to head.p.
template <class A>
T5K_DEVICE void score_tile(const Head<A> &head, int tile, int position, Running &now) {
    const int lane = threadIdx.x % 32, key = tile + lane;
    float score[WARP_QUERIES] = {};
    if (key < head.keys) {
        const A *column = head.k + (i64)key / 16 * 16 * head.D + key % 16;  // [D, 16]
        for (int d = 0; d < head.D; ++d) {
            const float kd = to_float(column[d * 16]);
#pragma unroll
            for (int r = 0; r < WARP_QUERIES; ++r) score[r] = fmaf(head.q[r * head.D + d], kd, score[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; ++r) {
        const bool is_visible = key < head.keys && (!head.causal || key <= position + r);
        if (head.bias) {
            const int e = key - position - r + head.W + 16, last = 2 * head.W + 31;
            score[r] += head.bias[e < 0 ? 0 : e > last ? last : e];
        }
        const float top = fmaxf(now.top[r], warp_max(is_visible ? score[r] : LOWEST));
        const float p = is_visible ? expf(score[r] - top) : 0.0f, fade = expf(now.top[r] - top);
        now.top[r] = top;
        now.sum[r] = fmaf(now.sum[r], fade, p);
#pragma unroll
        for (int i = 0; i < MAX_PIECES; ++i) now.acc[r][i] *= fade;
        head.p[r * TILE + lane] = p;
    }
}

template <class A>
T5K_DEVICE void mix_tile(const Head<A> &head, int tile, Running &now) {
    const int lane = threadIdx.x % 32, count = head.keys - tile < TILE ? head.keys - tile : TILE;
    for (int t = 0; t < count; ++t) {
#pragma unroll
        for (int i = 0; i < MAX_PIECES; ++i) {
            const int d = i * 32 + lane;
            if (d >= head.D) continue;
            const float vd = to_float(head.v[(d / 16 * head.capacity + tile + t) * 16 + d % 16]);
#pragma unroll
            for (int r = 0; r < WARP_QUERIES; ++r) now.acc[r][i] = fmaf(head.p[r * TILE + t], vd, now.acc[r][i]);
        }
    }
}

template <class A>
T5K_DEVICE void attend_rows(const AttendLaunch &launch) {
    T5K_DYNAMIC_SHARED(float, shared);  // q [QUERIES, D], p [QUERIES, TILE], bias [2 W + 32]
    const AttendJob b = launch.blocks[blockIdx.z];
    const int h = blockIdx.y, D = (int)b.D, first = blockIdx.x * QUERIES, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int W = (int)b.W, keys = (int)b.keys;
    if (first >= b.R) return;
    float *p = shared + QUERIES * D, *bias = p + QUERIES * TILE;
    for (int i = threadIdx.x; i < QUERIES * D; i += blockDim.x) {
        const int r = first + i / D;
        shared[i] = r < b.R ? to_float(stored<A>(b.q)[r * b.ldq + h * D + i % D]) : 0.0f;
    }
    if (b.bias)
        for (int i = threadIdx.x; i < 2 * W + 32; i += blockDim.x) bias[i] = b.bias[h * (2 * W + 32) + i];
    __syncthreads();

    const int row = first + warp * WARP_QUERIES, position = (int)b.first_position + row;
    const Head<A> head{stored<A>(b.cache.k) + h * b.cache.capacity * D,
                       stored<A>(b.cache.v) + h * ((i64)(D + 15) / 16 * 16 * b.cache.capacity),
                       shared + warp * WARP_QUERIES * D, b.bias ? bias : nullptr, p + warp * WARP_QUERIES * TILE,
                       D, W, keys, b.causal, b.cache.capacity};
    Running now;
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; ++r) {
        now.top[r] = LOWEST;
        now.sum[r] = 0.0f;
        for (int i = 0; i < MAX_PIECES; ++i) now.acc[r][i] = 0.0f;
    }
    const int seen = b.causal && position + WARP_QUERIES < keys ? position + WARP_QUERIES : keys;
    for (int tile = 0; tile < seen; tile += TILE) {
        score_tile(head, tile, position, now);
        __syncwarp();
        mix_tile(head, tile, now);
        __syncwarp();
    }
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; ++r) {
        const float inverse = 1.0f / warp_sum(now.sum[r]);
        if (row + r >= b.R) continue;
        A *out = stored<A>(b.out) + (row + r) * b.ldo + h * D;
#pragma unroll
        for (int i = 0; i < MAX_PIECES; ++i)
            if (i * 32 + lane < D) assign(out[i * 32 + lane], now.acc[r][i] * inverse);
    }
}

T5K_KERNEL(attend_rows_f32, 128, AttendLaunch, attend_rows<float>)

}  // namespace t5k::cuda
