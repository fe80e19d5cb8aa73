// gemm_<type>, gemm_<format>_<type>: many rows times packed panels on tensor cores (mma.m16n8k16). Contract in
// ops/linear.h.
//
// A dword of a 16-bit panel holds k, k + 1 of one column: exactly a register of the B fragment, so weights need no
// shuffling. Integer weights come as they lie in memory and are widened to such dwords in shared memory: every integer of
// theirs is exact in 16 bits, and their scales meet fp32 sums - int4's a group of 32 k at a time, which is one step.
// Block: 64 rows x 4 panels, K in steps of 32, two stages in flight by cp.async; a warp computes 32 x 32.
#include "cuda/kernel/epilogue.cuh"
#include "cuda/kernel/formats.cuh"
#include "cuda/kernel/reduce.cuh"

namespace t5k::cuda {

constexpr int STEP = 32, PANELS = GEMM_PANELS;
constexpr int A_DWORDS = STEP / 2 + 4;  // 4 spare: eight rows of a fragment then fall into 32 different banks

template <int FORMAT>
T5K_DEVICE constexpr int step_dwords() {
    return FORMAT == FORMAT_I4 ? I4_DWORDS : STEP / k_of_dword<FORMAT>() * 16;
}

template <int FORMAT>
struct alignas(16) Stage {
    u32 a[GEMM_ROWS][A_DWORDS];
    u32 b[PANELS][step_dwords<FORMAT>()];  // as packed
};
using Pairs = u32[PANELS][STEP / 2 * 16];  // k, k + 1 of each column

// Rows beyond R and panels beyond the matrix repeat the last one (never stored); k beyond K is zero.
template <int FORMAT>
T5K_DEVICE void load_stage(const LinearJob &job, Stage<FORMAT> &stage, int step) {
    constexpr int DWORDS = step_dwords<FORMAT>(), G = FORMAT == FORMAT_I4 ? STEP : k_of_dword<FORMAT>();
    const int K = (int)job.w.K, R = (int)job.R, panels = (int)panel_count(job.w.N);
    const int panel_dwords = (K + G - 1) / G * (FORMAT == FORMAT_I4 ? I4_DWORDS : 16);
    for (int i = threadIdx.x; i < GEMM_ROWS * 4; i += GEMM_THREADS) {
        const int r = i / 4, piece = i % 4 * 4;
        const int wanted = (int)blockIdx.y * GEMM_ROWS + r, row = wanted < R ? wanted : R - 1;
        copy16_async(&stage.a[r][piece], stored<unsigned short>(job.x) + row * job.ldx + step * STEP + piece * 2);
    }
    for (int i = threadIdx.x; i < PANELS * DWORDS / 4; i += GEMM_THREADS) {
        const int p = i / (DWORDS / 4), at = i % (DWORDS / 4) * 4;
        const int wanted = (int)blockIdx.x * PANELS + p, panel = wanted < panels ? wanted : panels - 1;
        if (step * DWORDS + at < panel_dwords)
            copy16_async(&stage.b[p][at], job.w.data + (i64)panel * panel_dwords + step * DWORDS + at);
        else
            *reinterpret_cast<Quad *>(&stage.b[p][at]) = Quad{};
    }
}

// Integers of one step as pairs of 16-bit floats: exact, for they have at most eight bits.
template <int FORMAT, class A>
T5K_DEVICE void widen(const Stage<FORMAT> &stage, Pairs &pairs) {
    constexpr int G = k_of_dword<FORMAT>(), DWORDS = STEP / G * 16;
    for (int i = threadIdx.x; i < PANELS * DWORDS; i += GEMM_THREADS) {
        const int p = i / DWORDS, at = i % DWORDS;
        float w[G];
        unpack<FORMAT>(stage.b[p][at], w);
#pragma unroll
        for (int j = 0; j < G / 2; ++j) pairs[p][(at / 16 * (G / 2) + j) * 16 + at % 16] = pair_of<A>(w[2 * j], w[2 * j + 1]);
    }
}

template <class A>
T5K_DEVICE void multiply(const u32 (&a_rows)[GEMM_ROWS][A_DWORDS], const Pairs &pairs, int row, int column,
                         float (&acc)[2][4][4]) {
    const int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < STEP / 2; k += 8) {
        u32 a[2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            const int r = row + m * 16 + group;
            a[m][0] = a_rows[r][k + t];
            a[m][1] = a_rows[r + 8][k + t];
            a[m][2] = a_rows[r][k + t + 4];
            a[m][3] = a_rows[r + 8][k + t + 4];
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            const int c = column + n * 8 + group;
            const u32 b[2] = {pairs[c / 16][(k + t) * 16 + c % 16], pairs[c / 16][(k + t + 4) * 16 + c % 16]};
#pragma unroll
            for (int m = 0; m < 2; ++m) mma(acc[m][n], a[m], b, A{});
        }
    }
}

// acc += the step's int4 scales times its own sums.
T5K_DEVICE void fold(const Stage<FORMAT_I4> &stage, int column, const float (&sums)[2][4][4], float (&acc)[2][4][4]) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        const u32 pair = stage.b[column / 16 + n / 2][64 + n % 2 * 4 + t];
        const float scale[2] = {low_half(pair, bf16{}), high_half(pair, bf16{})};
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) acc[m][n][i] = fmaf(scale[i % 2], sums[m][n][i], acc[m][n][i]);
    }
}

// Per row and panel the best of 16 columns: four of them in each of four neighbouring lanes.
T5K_DEVICE void store_best(const LinearJob &job, int row, int panel, const float (&acc)[2][4][4]) {
    const int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4, N = (int)job.columns, panels = (N + 15) / 16;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            const int r = row + m * 16 + group + part / 2 * 8, p = panel + part % 2;
            Best best = nothing();
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int column = p * 16 + i / 2 * 8 + 2 * t + i % 2;
                const float value = acc[m][part % 2 * 2 + i / 2][part / 2 * 2 + i % 2];
                if (column < N) best = better(best, Best{value, (int)job.first_column + column});
            }
            best = lanes_best(best, 4);
            if (t == 0 && r < job.R && p < panels) job.gpu.best[r * job.gpu.best_stride + p] = best;
        }
}

template <class A>
T5K_DEVICE void store_tile(const LinearJob &job, int row, int panel, const float (&acc)[2][4][4]) {
    const int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const bool is_gated = job.epilogue == EPILOGUE_GATED;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int r = row + m * 16 + group + i / 2 * 8, c = n * 8 + 2 * t + i % 2;
                // A gated warp holds one pair of panels: columns 0..15 are act's argument, 16..31 the factor.
                if (r >= job.R || (is_gated && n >= 2)) continue;
                const int column = (is_gated ? panel / 2 : panel) * 16 + c;
                if (column < job.columns) finish<A>(job, r, column, acc[m][n][i], acc[m][(n + 2) % 4][i]);
            }
}

template <int FORMAT, class A>
T5K_DEVICE void gemm(const LinearJob &job) {
    constexpr bool IS_WIDE = FORMAT == FORMAT_F16 || FORMAT == FORMAT_BF16;
    T5K_SHARED(Stage<FORMAT>[2], stages);
    const int warp = threadIdx.x / 32, row = warp % 2 * 32, column = warp / 2 * 32;
    const int steps = ((int)job.w.K + STEP - 1) / STEP, panel = blockIdx.x * PANELS + column / 16;
    float acc[2][4][4] = {};
    load_stage<FORMAT>(job, stages[0], 0);
    commit_copies();
    for (int step = 0; step < steps; ++step) {
        Stage<FORMAT> &stage = stages[step % 2];
        if (step + 1 < steps) load_stage<FORMAT>(job, stages[(step + 1) % 2], step + 1);
        commit_copies();
        wait_copies<1>();
        __syncthreads();
        if constexpr (IS_WIDE) {
            multiply<A>(stage.a, stage.b, row, column, acc);
        } else {
            T5K_SHARED(Pairs, pairs);
            widen<FORMAT, A>(stage, pairs);
            __syncthreads();
            if constexpr (FORMAT == FORMAT_I4) {
                float sums[2][4][4] = {};
                multiply<A>(stage.a, pairs, row, column, sums);
                fold(stage, column, sums, acc);
            } else {
                multiply<A>(stage.a, pairs, row, column, acc);
            }
        }
        __syncthreads();
    }
    wait_copies<0>();
    if constexpr (FORMAT == FORMAT_I8)
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            const int wanted = panel * 16 + i / 4 % 4 * 8 + 2 * (threadIdx.x % 4) + i % 2, last = (int)panel_count(job.w.N) * 16 - 1;
            acc[i / 16][i / 4 % 4][i % 4] *= job.gpu.scale[wanted < last ? wanted : last];
        }
    if (job.epilogue == EPILOGUE_ARGMAX)
        store_best(job, blockIdx.y * GEMM_ROWS + row, panel, acc);
    else
        store_tile<A>(job, blockIdx.y * GEMM_ROWS + row, panel, acc);
}

// Left to itself ptxas aims at seven blocks for sm_80, and spills.
#define T5K_GEMM(NAME, FORMAT, A) T5K_KERNEL_FOR(5, gemm_##NAME, GEMM_THREADS, LinearJob, gemm<FORMAT, A>)
T5K_GEMM(f16, FORMAT_F16, f16)
T5K_GEMM(bf16, FORMAT_BF16, bf16)
T5K_GEMM(i8_bf16, FORMAT_I8, bf16)
T5K_GEMM(i4_bf16, FORMAT_I4, bf16)

}  // namespace t5k::cuda
