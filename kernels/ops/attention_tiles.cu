// attend_rows_f16, attend_rows_bf16: many query rows against a panel cache on tensor cores (mma.m16n8k16), 64 keys at a time
// under a running softmax; no [R, keys] buffer. Contract in ops/attention.h.
//
// A block has 16 query rows. Of 64 keys each warp scores 16; the four meet in shared memory twice, for the rows' maxima and
// for the probabilities; then each warp mixes its own panels of 16 dims. Which key (or dim) is which column of a fragment is
// free as long as both products agree: columns 2 c and 2 c + 1 of a pair of tiles are neighbours in memory, so that caches are
// read as whole dwords and a lane's four probabilities are four neighbouring keys.
#include "cuda/kernel/formats.cuh"
#include "cuda/kernel/reduce.cuh"
#include "ops/attention.h"

namespace t5k::cuda {

constexpr int SPAN = 64, SPAN_DWORDS = SPAN / 2 + 4;  // 4 spare: rows begin in different banks
constexpr int WARP_PANELS = 4;                        // panels of 16 dims per warp: D <= 256

T5K_DEVICE u32 low_halves(u32 a, u32 b) { return (a & 0xffffu) | b << 16; }
T5K_DEVICE u32 high_halves(u32 a, u32 b) { return a >> 16 | (b & 0xffff0000u); }

// Of four rows of dwords, the B fragments of even and of odd columns; each is a 16 x 8 product away from d.
template <class A>
T5K_DEVICE void mma_pair(float (&d)[2][4], const u32 (&a)[4], const u32 (&rows)[4]) {
    const u32 even[2] = {low_halves(rows[0], rows[1]), low_halves(rows[2], rows[3])};
    const u32 odd[2] = {high_halves(rows[0], rows[1]), high_halves(rows[2], rows[3])};
    mma(d[0], a, even, A{});
    mma(d[1], a, odd, A{});
}

// q . k of 16 rows and the 16 keys of one panel [D, 8 dwords]. s[n][i]: row g + i / 2 * 8, key 4 t + 2 (i % 2) + n.
template <class A>
T5K_DEVICE void score_panel(const u32 *q, int q_dwords, const u32 *panel, int D, float (&s)[2][4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int d = 0; d < D; d += 16) {
        const u32 *at = q + d / 2 + t;
        const u32 a[4] = {at[g * q_dwords], at[(g + 8) * q_dwords], at[g * q_dwords + 4], at[(g + 8) * q_dwords + 4]};
        u32 rows[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = d + 2 * t + i % 2 + i / 2 * 8;
            rows[i] = row < D ? panel[row * 8 + g] : 0u;
        }
        mma_pair<A>(s, a, rows);
    }
}

template <class A>
T5K_DEVICE void attend_tiles(const AttendLaunch &launch) {
    T5K_DYNAMIC_SHARED(u32, q);  // [16, q_dwords], then bias [2 W + 32]
    T5K_SHARED(u32[16][SPAN_DWORDS], p);
    T5K_SHARED(float[4][16], tops);
    T5K_SHARED(float[4][16], sums);
    const AttendJob b = launch.blocks[blockIdx.z];
    const int h = blockIdx.y, D = (int)b.D, panels = (D + 15) / 16, q_dwords = panels * 8 + 4, first = blockIdx.x * 16;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int W = (int)b.W, keys = (int)b.keys;
    if (first >= b.R) return;
    float *bias = reinterpret_cast<float *>(q + 16 * q_dwords);
    for (int i = threadIdx.x; i < 16 * q_dwords * 2; i += blockDim.x) {
        const int r = first + i / (q_dwords * 2), d = i % (q_dwords * 2);
        const unsigned short *from = stored<unsigned short>(b.q) + r * b.ldq + h * D + d;
        reinterpret_cast<unsigned short *>(q)[i] = r < b.R && d < D ? *from : (unsigned short)0;
    }
    if (b.bias)
        for (int i = threadIdx.x; i < 2 * W + 32; i += blockDim.x) bias[i] = b.bias[h * (2 * W + 32) + i];
    __syncthreads();

    const u32 *k = stored<u32>(b.cache.k) + h * b.cache.capacity * D / 2;
    const u32 *v = stored<u32>(b.cache.v) + h * b.cache.capacity * panels * 8;
    const int position = (int)b.first_position + first + g;  // of row g
    const int last = (int)b.first_position + first + 16, seen = b.causal && last < keys ? last : keys;
    float top[2] = {LOWEST, LOWEST}, sum[2] = {}, acc[WARP_PANELS][2][4] = {};
    for (int span = 0; span < seen; span += SPAN) {
        const int tile = span + warp * 16;
        float s[2][4] = {}, fade[2], mine[2] = {LOWEST, LOWEST};
        if (tile < seen) score_panel<A>(q, q_dwords, k + (i64)tile / 16 * 8 * D, D, s);
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int key = tile + 4 * t + 2 * (i % 2) + n, at = position + i / 2 * 8, end = 2 * W + 31;
                const int e = key - at + W + 16;
                if (b.bias) s[n][i] += bias[e < 0 ? 0 : e > end ? end : e];
                if (key >= keys || (b.causal && key > at)) s[n][i] = LOWEST;
                mine[i / 2] = fmaxf(mine[i / 2], s[n][i]);
            }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            mine[r] = fmaxf(mine[r], __shfl_xor_sync(ALL_LANES, mine[r], 1));
            mine[r] = fmaxf(mine[r], __shfl_xor_sync(ALL_LANES, mine[r], 2));
            if (t == 0) tops[warp][g + r * 8] = mine[r];
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = g + r * 8;
            const float before = top[r];
            for (int w = 0; w < 4; ++w) top[r] = fmaxf(top[r], tops[w][row]);
            fade[r] = expf(before - top[r]);
            float e[4], total = 0.0f;  // of keys 4 t ..
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float score = s[i % 2][r * 2 + i / 2];
                e[i] = score > LOWEST ? expf(score - top[r]) : 0.0f;
                total += e[i];
            }
            total += __shfl_xor_sync(ALL_LANES, total, 1);
            total += __shfl_xor_sync(ALL_LANES, total, 2);
            if (t == 0) sums[warp][row] = total;
            p[row][warp * 8 + 2 * t] = pair_of<A>(e[0], e[1]);
            p[row][warp * 8 + 2 * t + 1] = pair_of<A>(e[2], e[3]);
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            sum[r] *= fade[r];
            for (int w = 0; w < 4; ++w) sum[r] += sums[w][g + r * 8];
        }
#pragma unroll
        for (int i = 0; i < WARP_PANELS * 8; ++i) acc[i / 8][i / 4 % 2][i % 4] *= fade[i % 4 / 2];
        for (int part = 0; part < 4 && span + part * 16 < seen; ++part) {
            const int key = span + part * 16 + 4 * t, at = part * 8 + 2 * t;
            const u32 a[4] = {p[g][at], p[g + 8][at], p[g][at + 1], p[g + 8][at + 1]};
#pragma unroll
            for (int j = 0; j < WARP_PANELS; ++j) {
                const int panel = warp + 4 * j;
                if (panel >= panels) break;
                u32 rows[4];
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    rows[i] = key + i < keys ? v[((i64)panel * b.cache.capacity + key + i) * 8 + g] : 0u;
                mma_pair<A>(acc[j], a, rows);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < WARP_PANELS; ++j)
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int r = i % 4 / 2, row = first + g + r * 8, d = (warp + 4 * j) * 16 + 4 * t + 2 * (i % 2) + i / 4;
            if (row >= b.R || d >= D) continue;
            assign(stored<A>(b.out)[row * b.ldo + h * D + d], acc[j][i / 4][i % 4] * (1.0f / sum[r]));
        }
}

T5K_KERNEL(attend_rows_f16, 128, AttendLaunch, attend_tiles<f16>)
T5K_KERNEL(attend_rows_bf16, 128, AttendLaunch, attend_tiles<bf16>)

}  // namespace t5k::cuda
