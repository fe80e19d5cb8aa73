// gemm_<type>: many rows times packed panels on tensor cores (mma.m16n8k16). Contract in device/cuda_jobs.h.
//
// A dword of a 16-bit panel holds k, k + 1 of one column: exactly a register of the B fragment, so weights need no
// shuffling. Block: 64 rows x 4 panels, K in steps of 32, two stages in flight by cp.async; a warp computes 32 x 32.
#include "device/cuda_epilogue.cuh"

namespace t5k::cuda {

constexpr int STEP = 32, PANELS = 4;
constexpr int A_DWORDS = STEP / 2 + 4;  // 4 spare: eight rows of a fragment then fall into 32 different banks

struct alignas(16) Stage {
    u32 a[GEMM_ROWS][A_DWORDS];
    u32 b[PANELS][STEP / 2][16];
};

// Rows beyond R and panels beyond the matrix repeat the last one (never stored); k beyond K is zero.
T5K_DEVICE void load_stage(const LinearJob &job, Stage &stage, int k) {
    const int groups = (job.K + 1) / 2;
    for (int i = threadIdx.x; i < GEMM_ROWS * 4; i += GEMM_THREADS) {
        const int r = i / 4, piece = i % 4 * 4;
        const int wanted = (int)blockIdx.y * GEMM_ROWS + r, row = wanted < job.R ? wanted : job.R - 1;
        copy16_async(&stage.a[r][piece], static_cast<const unsigned short *>(job.x) + row * job.ldx + k + piece * 2);
    }
    for (int i = threadIdx.x; i < PANELS * (STEP / 2) * 4; i += GEMM_THREADS) {
        const int p = i / 64, group = i / 4 % 16, piece = i % 4 * 4;
        const int wanted = (int)blockIdx.x * PANELS + p, panel = wanted < job.panels ? wanted : job.panels - 1;
        u32 *to = &stage.b[p][group][piece];
        if (k / 2 + group < groups)
            copy16_async(to, job.w + ((i64)panel * groups + k / 2 + group) * 16 + piece);
        else
            *reinterpret_cast<Quad *>(to) = Quad{};
    }
}

template <class A>
T5K_DEVICE void multiply(const Stage &stage, int row, int column, float (&acc)[2][4][4]) {
    const int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < STEP / 2; k += 8) {
        u32 a[2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            const int r = row + m * 16 + group;
            a[m][0] = stage.a[r][k + t];
            a[m][1] = stage.a[r + 8][k + t];
            a[m][2] = stage.a[r][k + t + 4];
            a[m][3] = stage.a[r + 8][k + t + 4];
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            const int c = column + n * 8 + group;
            const u32 b[2] = {stage.b[c / 16][k + t][c % 16], stage.b[c / 16][k + t + 4][c % 16]};
#pragma unroll
            for (int m = 0; m < 2; ++m) mma(acc[m][n], a[m], b, A{});
        }
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
                if (column < job.N) finish<A>(job, r, column, acc[m][n][i], acc[m][(n + 2) % 4][i]);
            }
}

template <class A>
T5K_DEVICE void gemm(const LinearJob &job) {
    T5K_SHARED(Stage[2], stages);
    const int warp = threadIdx.x / 32, row = warp % 2 * 32, column = warp / 2 * 32;
    const int steps = (job.K + STEP - 1) / STEP;
    float acc[2][4][4] = {};
    load_stage(job, stages[0], 0);
    commit_copies();
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) load_stage(job, stages[(step + 1) % 2], (step + 1) * STEP);
        commit_copies();
        wait_copies<1>();
        __syncthreads();
        multiply<A>(stages[step % 2], row, column, acc);
        __syncthreads();
    }
    wait_copies<0>();
    store_tile<A>(job, blockIdx.y * GEMM_ROWS + row, blockIdx.x * PANELS + column / 16, acc);
}

T5K_KERNEL(gemm_f16, GEMM_THREADS, LinearJob, gemm<f16>)
T5K_KERNEL(gemm_bf16, GEMM_THREADS, LinearJob, gemm<bf16>)

}  // namespace t5k::cuda
