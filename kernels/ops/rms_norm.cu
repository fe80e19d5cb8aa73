// rms_norm_<y>: contract in cuda/kernel/jobs.h.
#include "cuda/kernel/reduce.cuh"

namespace t5k::cuda {

// One block per row. A thread reads again only what it wrote itself, so the row needs no second barrier.
template <class Y>
T5K_DEVICE void rms_norm(const RmsNormJob &job) {
    T5K_SHARED(float[32], part);
    float *x = job.x + blockIdx.x * job.ldx;                             // [E]
    const float *delta = job.delta ? job.delta + blockIdx.x * job.ldx : nullptr;
    Y *y = static_cast<Y *>(job.y) + blockIdx.x * job.ldy;               // [E]
    float squares = 0.0f;
    for (int e = threadIdx.x; e < job.E; e += blockDim.x) {
        float v = x[e];
        if (delta) x[e] = v = v + delta[e];
        squares = fmaf(v, v, squares);
    }
    const float mean = block_sum(squares, part) / (float)job.E;
    const float scale = 1.0f / sqrtf(mean + job.eps);
    for (int e = threadIdx.x; e < job.E; e += blockDim.x) assign(y[e], job.w[e] * (x[e] * scale) * job.out_scale);
}

T5K_DEVICE void add_rows(const AddShardsJob &job) {
    float *y = job.y + blockIdx.x * job.ldy;
    for (int n = blockIdx.y * blockDim.x + threadIdx.x; n < job.N; n += gridDim.y * blockDim.x) {
        float sum = y[n];
        for (int p = 0; p < job.count; ++p) sum += job.parts[p][blockIdx.x * job.ld + n];
        y[n] = sum;
    }
}

T5K_KERNEL(rms_norm_f32, 256, RmsNormJob, rms_norm<float>)
T5K_KERNEL(rms_norm_f16, 256, RmsNormJob, rms_norm<f16>)
T5K_KERNEL(rms_norm_bf16, 256, RmsNormJob, rms_norm<bf16>)
T5K_KERNEL(add_shards, 256, AddShardsJob, add_rows)

}  // namespace t5k::cuda
