// What a library's product needs around it: panels as plain rows of K, and the activation of sums that it left in fp32.
// Contracts in device/cuda_jobs.h.
#include "device/cuda_epilogue.cuh"

namespace t5k::cuda {

constexpr int DEEP = 64;  // dwords of k that a block turns at a time

T5K_DEVICE void turn_panels(const UnpanelJob &job) {
    T5K_SHARED(u32[16][DEEP + 1], tile);  // 1 spare: a column's dwords then fall into different banks
    const i64 panel = blockIdx.y;
    const int first = blockIdx.x * DEEP;
    for (int i = threadIdx.x; i < DEEP * 16; i += UNPANEL_THREADS) {
        const int j = first + i / 16;
        tile[i % 16][i / 16] = j < job.depth ? job.panels[(panel * job.depth + j) * 16 + i % 16] : 0u;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < DEEP * 16; i += UNPANEL_THREADS) {
        const int j = first + i % DEEP;
        if (j < job.ld) job.rows[(panel * 16 + i / DEEP) * job.ld + j] = tile[i / DEEP][i % DEEP];
    }
}

template <class A>
T5K_DEVICE void finish_sums(const LinearJob &job) {
    const bool is_gated = job.epilogue == EPILOGUE_GATED;
    const i64 row = blockIdx.x;
    const float *sums = static_cast<const float *>(job.x) + row * job.ldx;
    for (int n = blockIdx.y * blockDim.x + threadIdx.x; n < job.N; n += gridDim.y * blockDim.x) {
        const int at = is_gated ? n / 16 * 32 + n % 16 : n;
        finish<A>(job, row, n, sums[at], is_gated ? sums[at + 16] : 0.0f);
    }
}

T5K_KERNEL(unpanel, UNPANEL_THREADS, UnpanelJob, turn_panels)
T5K_KERNEL(finish_sums_f32, 256, LinearJob, finish_sums<float>)
T5K_KERNEL(finish_sums_f16, 256, LinearJob, finish_sums<f16>)
T5K_KERNEL(finish_sums_bf16, 256, LinearJob, finish_sums<bf16>)

}  // namespace t5k::cuda
