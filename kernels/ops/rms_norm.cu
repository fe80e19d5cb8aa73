// rms_norm_<y>: contract in ops/rms_norm.h.
#include "ops/rms_norm.h"

#include "cuda/kernel/reduce.cuh"

namespace t5k::cuda {

// One block per row.
template <class Y>
T5K_DEVICE void rms_norm(const RmsNormJob &job) {
    T5K_SHARED(float[32], part);
    const int E = (int)job.E;
    const float *x = job.x + blockIdx.x * job.ldx;          // [E]
    Y *y = stored<Y>(job.y) + blockIdx.x * job.ldy;         // [E]
    float squares = 0.0f;
    for (int e = threadIdx.x; e < E; e += blockDim.x) squares = fmaf(x[e], x[e], squares);
    const float mean = block_sum(squares, part) / (float)E;
    const float scale = 1.0f / sqrtf(mean + job.eps);
    for (int e = threadIdx.x; e < E; e += blockDim.x) assign(y[e], job.w[e] * (x[e] * scale) * job.out_scale);
}

T5K_KERNEL(rms_norm_f32, 256, RmsNormJob, rms_norm<float>)
T5K_KERNEL(rms_norm_f16, 256, RmsNormJob, rms_norm<f16>)
T5K_KERNEL(rms_norm_bf16, 256, RmsNormJob, rms_norm<bf16>)

}  // namespace t5k::cuda
