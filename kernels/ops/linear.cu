// linear_<format>_<x>: a few rows times packed panels. Contract in ops/linear.h, layouts in ops/panels.h.
//
// Lane l of a warp takes columns 4 (l % 4) .. + 3 of every eighth dword group, starting at l / 4: 32 lanes read 512
// contiguous bytes. The block's warps deal the groups out among themselves and meet in shared memory.
#include "cuda/kernel/epilogue.cuh"
#include "cuda/kernel/formats.cuh"
#include "cuda/kernel/reduce.cuh"

namespace t5k::cuda {

constexpr int WARPS = LINEAR_THREADS / 32;

template <class A, int N>
T5K_DEVICE void load_x(const A *from, float *x) {
    constexpr int AT_ONCE = N * sizeof(A) > 16 ? 16 / (int)sizeof(A) : N;
    struct alignas(AT_ONCE * sizeof(A)) Several {
        A v[AT_ONCE];
    };
#pragma unroll
    for (int i = 0; i < N; i += AT_ONCE) {
        const Several s = *reinterpret_cast<const Several *>(from + i);
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) x[i + j] = to_float(s.v[j]);
    }
}

// What a lane reads of one dword group: four dwords and, in int4, the bf16 scales of its four columns.
struct alignas(8) Scales {
    u32 v[2];
};
struct Group {
    Quad weights;
    Scales scales;
};

template <int FORMAT>
T5K_DEVICE Group load_group(const u32 *panel, int group, int column) {
    const u32 *at = panel + (FORMAT == FORMAT_I4 ? group / 4 * I4_DWORDS + group % 4 * 16 : group * 16);  // [16]
    Group loaded = {load16(at + column), {}};
    if constexpr (FORMAT == FORMAT_I4)
        loaded.scales = *reinterpret_cast<const Scales *>(panel + group / 4 * I4_DWORDS + 64 + column / 2);
    return loaded;
}

template <int FORMAT, class A>
T5K_DEVICE void multiply(const LinearJob &job, const Group &loaded, int group, i64 first, int rows,
                         float (&acc)[LINEAR_ROWS][4]) {
    constexpr int G = k_of_dword<FORMAT>();
    float scale[4] = {1.0f, 1.0f, 1.0f, 1.0f}, w[4][G];
#pragma unroll
    for (int c = 0; c < 4; ++c) unpack<FORMAT>(loaded.weights.v[c], w[c]);
    if constexpr (FORMAT == FORMAT_I4) {
        unpack<FORMAT_BF16>(loaded.scales.v[0], scale);
        unpack<FORMAT_BF16>(loaded.scales.v[1], scale + 2);
    }
#pragma unroll
    for (int r = 0; r < LINEAR_ROWS; ++r) {
        if (r >= rows) break;
        float x[G];
        load_x<A, G>(stored<A>(job.x) + (first + r) * job.ldx + group * G, x);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            float sum = FORMAT == FORMAT_I4 ? 0.0f : acc[r][c];
#pragma unroll
            for (int i = 0; i < G; ++i) sum = fmaf(x[i], w[c][i], sum);
            acc[r][c] = FORMAT == FORMAT_I4 ? fmaf(scale[c], sum, acc[r][c]) : sum;
        }
    }
}

// Several groups are asked for before the first is waited for: a block alone on its SM, as in narrow products, would else
// spend a memory latency per group. int4 holds two, lest its registers leave an SM one block. The order of sums is the same.
template <int FORMAT, class A>
T5K_DEVICE void accumulate(const LinearJob &job, const u32 *panel, i64 first, int rows, float (&acc)[LINEAR_ROWS][4]) {
    constexpr int G = k_of_dword<FORMAT>(), STEP = WARPS * 8, LOADS_AHEAD = FORMAT == FORMAT_I4 ? 2 : 4;
    const int lane = threadIdx.x % 32, column = lane % 4 * 4;
    const int K = (int)job.w.K, groups = FORMAT == FORMAT_I4 ? (K + 31) / 32 * 4 : (K + G - 1) / G;
    for (int group = threadIdx.x / 32 * 8 + lane / 4; group < groups; group += LOADS_AHEAD * STEP) {
        Group loaded[LOADS_AHEAD];
#pragma unroll
        for (int u = 0; u < LOADS_AHEAD; ++u) {
            const int at = group + u * STEP;
            loaded[u] = load_group<FORMAT>(panel, at < groups ? at : group, column);
        }
#pragma unroll
        for (int u = 0; u < LOADS_AHEAD; ++u) {
            if (u > 0 && group + u * STEP >= groups) break;
            multiply<FORMAT, A>(job, loaded[u], group + u * STEP, first, rows, acc);
        }
    }
}

template <int FORMAT, class A>
T5K_DEVICE void linear(const LinearJob &job) {
    T5K_SHARED(float[2][WARPS][LINEAR_ROWS][16], part);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, K = (int)job.w.K;
    const i64 first = (i64)blockIdx.y * LINEAR_ROWS;
    const int rows = job.R - first < LINEAR_ROWS ? (int)(job.R - first) : LINEAR_ROWS;
    const int halves = job.epilogue == EPILOGUE_GATED ? 2 : 1;
    const i64 dwords = FORMAT == FORMAT_I4 ? (K + 31) / 32 * I4_DWORDS
                                           : (i64)((K + k_of_dword<FORMAT>() - 1) / k_of_dword<FORMAT>()) * 16;
    for (int half = 0; half < halves; ++half) {
        float acc[LINEAR_ROWS][4] = {};
        accumulate<FORMAT, A>(job, job.w.data + ((i64)blockIdx.x * halves + half) * dwords, first, rows, acc);
#pragma unroll
        for (int r = 0; r < LINEAR_ROWS; ++r) {
            if (r >= rows) break;
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2)
#pragma unroll
                for (int c = 0; c < 4; ++c) acc[r][c] += __shfl_xor_sync(ALL_LANES, acc[r][c], offset);
            if (lane >= 4) continue;
            for (int c = 0; c < 4; ++c) part[half][warp][r][lane * 4 + c] = acc[r][c];
        }
    }
    __syncthreads();
    if (threadIdx.x >= LINEAR_ROWS * 16) return;
    const int row = threadIdx.x / 16, column = threadIdx.x % 16, n = blockIdx.x * 16 + column;
    float sum[2] = {};
    for (int w = 0; w < WARPS && row < rows; ++w) {
        sum[0] += part[0][w][row][column];
        if (halves == 2) sum[1] += part[1][w][row][column];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (half >= halves) break;
        if (FORMAT == FORMAT_I8) sum[half] *= job.gpu.scale[(blockIdx.x * halves + half) * 16 + column];
    }
    const bool exists = row < rows && n < job.columns;
    if (job.epilogue == EPILOGUE_ARGMAX) {
        const Best best = lanes_best(exists ? Best{sum[0], (int)job.first_column + n} : nothing(), 16);
        if (row < rows && column == 0) job.gpu.best[(first + row) * job.gpu.best_stride + blockIdx.x] = best;
    } else if (exists) {
        finish<A>(job, first + row, n, sum[0], sum[1]);
    }
}

// Left to itself ptxas aims at three blocks for sm_80, and spills.
#define T5K_LINEAR(NAME, FORMAT)                                                             \
    T5K_KERNEL_FOR(2, linear_##NAME##_f32, LINEAR_THREADS, LinearJob, linear<FORMAT, float>) \
    T5K_KERNEL_FOR(2, linear_##NAME##_f16, LINEAR_THREADS, LinearJob, linear<FORMAT, f16>)   \
    T5K_KERNEL_FOR(2, linear_##NAME##_bf16, LINEAR_THREADS, LinearJob, linear<FORMAT, bf16>)
T5K_LINEAR(f32, FORMAT_F32)
T5K_LINEAR(f16, FORMAT_F16)
T5K_LINEAR(bf16, FORMAT_BF16)
T5K_LINEAR(i8, FORMAT_I8)
T5K_LINEAR(i4, FORMAT_I4)

}  // namespace t5k::cuda
