// attend_<type>, attend_merge_<type>, store_kv_<type>: decode attention over the panel caches of ops/attention.h. Contract in ops/attention.h.
#include "cuda/kernel/reduce.cuh"
#include "ops/attention.h"

namespace t5k::cuda {

constexpr int THREADS = 128;
constexpr int MAX_D = 256;

T5K_DEVICE i64 k_at(i64 t, int d, int D) { return t / 16 * 16 * D + d * 16 + t % 16; }
T5K_DEVICE i64 v_at(i64 t, int d, i64 capacity) { return (d / 16 * capacity + t) * 16 + d % 16; }
T5K_DEVICE i64 v_head(int D, i64 capacity) { return (i64)(D + 15) / 16 * 16 * capacity; }

// Bias of `key` seen from `position`: the table's saturated ends make the clamp exact.
T5K_DEVICE float bias_at(const float *bias, int key, int position, int W) {
    const int e = key - position + W + 16, last = 2 * W + 31;
    return bias[e < 0 ? 0 : e > last ? last : e];
}

T5K_DEVICE int keys_of(const AttendJob &b) { return b.gpu.position ? *b.gpu.position + 1 : (int)b.keys; }

template <class A>
T5K_DEVICE void attend(const AttendLaunch &launch) {
    T5K_DYNAMIC_SHARED(float, q);  // [D], then scores of this split
    T5K_SHARED(float[32], part_top);
    T5K_SHARED(float[32], part_sum);
    T5K_SHARED(float[THREADS / 32][MAX_D], part);
    const AttendJob b = launch.blocks[blockIdx.y];
    const int h = blockIdx.x, D = (int)b.D, keys = keys_of(b), begin = blockIdx.z * SPLIT_KEYS, W = (int)b.W;
    const int end = keys < begin + SPLIT_KEYS ? keys : begin + SPLIT_KEYS;
    const int position = b.gpu.position ? keys - 1 : (int)b.first_position;
    if (begin >= end) return;
    float *s = q + D;
    A *k = stored<A>(b.cache.k) + h * b.cache.capacity * D;                   // [ceil(T/16), D, 16]
    A *v = stored<A>(b.cache.v) + h * v_head(D, b.cache.capacity);            // [ceil(D/16), capacity, 16]
    const A *q_row = stored<A>(b.q) + h * D;                // [D]
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        q[d] = to_float(q_row[d]);
        if (!b.append_k || end < keys) continue;
        k[k_at(keys - 1, d, D)] = stored<A>(b.append_k)[h * D + d];
        v[v_at(keys - 1, d, b.cache.capacity)] = stored<A>(b.append_v)[h * D + d];
    }
    __syncthreads();

    const float *bias = b.bias ? b.bias + h * (2 * W + 32) : nullptr;
    float top = LOWEST;
    for (int key = begin + threadIdx.x; key < end; key += blockDim.x) {
        const A *column = k + k_at(key, 0, D);
        float score = 0.0f;
        for (int d = 0; d < D; ++d) score = fmaf(q[d], to_float(column[d * 16]), score);
        if (bias) score += bias_at(bias, key, position, W);
        s[key - begin] = score;
        top = fmaxf(top, score);
    }
    top = block_max(top, part_top);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < end - begin; i += blockDim.x) sum += s[i] = expf(s[i] - top);
    sum = block_sum(sum, part_sum);

    // Half-warps take every eighth key; sixteen lanes read sixteen neighbouring dims.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int d = lane % 16; d < MAX_D && d / 16 * 16 < D; d += 16) {
        float acc = 0.0f;
        for (int key = begin + threadIdx.x / 16; key < end; key += blockDim.x / 16)
            acc = fmaf(s[key - begin], to_float(v[v_at(key, d, b.cache.capacity)]), acc);
        acc += __shfl_xor_sync(ALL_LANES, acc, 16);
        if (lane < 16) part[warp][d] = acc;
    }
    __syncthreads();
    const bool is_whole = gridDim.z == 1;
    const i64 slot = ((i64)blockIdx.y * gridDim.x + h) * gridDim.z + blockIdx.z;
    float *partial = is_whole ? nullptr : launch.partial + slot * (D + 2);
    A *out = stored<A>(b.out) + h * D;
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        float total = 0.0f;
        for (u32 w = 0; w < blockDim.x / 32; ++w) total += part[w][d];
        if (is_whole)
            assign(out[d], total * (1.0f / sum));
        else
            partial[d] = total;
    }
    if (is_whole || threadIdx.x != 0) return;
    partial[D] = top;
    partial[D + 1] = sum;
}

template <class A>
T5K_DEVICE void merge(const AttendLaunch &launch) {
    const AttendJob b = launch.blocks[blockIdx.y];
    const int h = blockIdx.x, D = (int)b.D, keys = keys_of(b), used = (keys + SPLIT_KEYS - 1) / SPLIT_KEYS;
    const float *partial = launch.partial + ((i64)blockIdx.y * gridDim.x + h) * launch.splits * (D + 2);  // [splits, D + 2]
    float top = LOWEST, sum = 0.0f;
    // Few splits: nothing to gain from unrolling.
#pragma unroll 1
    for (int z = 0; z < used; ++z) top = fmaxf(top, partial[z * (D + 2) + D]);
#pragma unroll 1
    for (int z = 0; z < used; ++z) sum = fmaf(expf(partial[z * (D + 2) + D] - top), partial[z * (D + 2) + D + 1], sum);
    if (used < 1) return;
    A *out = stored<A>(b.out) + h * D;
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        float total = 0.0f;
#pragma unroll 1
        for (int z = 0; z < used; ++z) total = fmaf(expf(partial[z * (D + 2) + D] - top), partial[z * (D + 2) + d], total);
        assign(out[d], total * (1.0f / sum));
    }
}

template <class A>
T5K_DEVICE void store_kv(const StoreLaunch &launch) {
    const StoreJob b = launch.blocks[blockIdx.z];
    const int r = blockIdx.x, h = blockIdx.y, D = (int)b.D;
    if (r >= b.R) return;
    A *k = stored<A>(b.cache.k) + h * b.cache.capacity * D;
    A *v = stored<A>(b.cache.v) + h * v_head(D, b.cache.capacity);
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        const i64 from = r * b.ld + h * D + d, t = b.first + r;
        k[k_at(t, d, D)] = stored<A>(b.k)[from];
        v[v_at(t, d, b.cache.capacity)] = stored<A>(b.v)[from];
    }
}

T5K_KERNEL(attend_f32, THREADS, AttendLaunch, attend<float>)
T5K_KERNEL(attend_f16, THREADS, AttendLaunch, attend<f16>)
T5K_KERNEL(attend_bf16, THREADS, AttendLaunch, attend<bf16>)
T5K_KERNEL(attend_merge_f32, 256, AttendLaunch, merge<float>)
T5K_KERNEL(attend_merge_f16, 256, AttendLaunch, merge<f16>)
T5K_KERNEL(attend_merge_bf16, 256, AttendLaunch, merge<bf16>)
T5K_KERNEL(store_kv_f32, THREADS, StoreLaunch, store_kv<float>)
T5K_KERNEL(store_kv_f16, THREADS, StoreLaunch, store_kv<f16>)
T5K_KERNEL(store_kv_bf16, THREADS, StoreLaunch, store_kv<bf16>)

}  // namespace t5k::cuda
