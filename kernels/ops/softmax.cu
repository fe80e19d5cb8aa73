// best_panels, best_logits, log_softmax: contracts in ops/softmax.h.
#include "ops/softmax.h"

#include "cuda/kernel/reduce.cuh"

namespace t5k::cuda {

T5K_DEVICE void reduce_panels(const BestJob &job) {
    T5K_SHARED(Best[32], part);
    const Best *parts = job.parts + (i64)blockIdx.x * job.count;  // [count]
    Best best = nothing();
    for (int i = threadIdx.x; i < job.count; i += blockDim.x) best = better(best, parts[i]);
    best = block_best(best, part);
    if (threadIdx.x == 0) job.best[blockIdx.x] = best;
}

T5K_DEVICE void reduce_logits(const BestJob &job) {
    T5K_SHARED(Best[32], part);
    const float *x = job.x + blockIdx.x * job.ldx;  // [count]
    Best best = nothing();
    for (int v = threadIdx.x; v < job.count; v += blockDim.x) best = better(best, Best{x[v], v});
    best = block_best(best, part);
    if (threadIdx.x == 0) job.best[blockIdx.x] = best;
}

T5K_DEVICE void normalize(const LogSoftmaxJob &job) {
    T5K_SHARED(float[32], part_top);
    T5K_SHARED(float[32], part_sum);
    const float *x = job.x + blockIdx.x * job.ldx;  // [V]
    float top = LOWEST;
    for (int v = threadIdx.x; v < job.V; v += blockDim.x) top = fmaxf(top, x[v]);
    top = block_max(top, part_top);
    float sum = 0.0f;
    for (int v = threadIdx.x; v < job.V; v += blockDim.x) sum += expf(x[v] - top);
    const float normalizer = top + logf(block_sum(sum, part_sum));
    if (threadIdx.x == 0) job.out[blockIdx.x] = normalizer;
    if (!job.y) return;
    float *y = job.y + blockIdx.x * job.ldy;
    for (int v = threadIdx.x; v < job.V; v += blockDim.x) y[v] = x[v] - normalizer;
}

T5K_KERNEL(best_panels, 1024, BestJob, reduce_panels)
T5K_KERNEL(best_logits, 1024, BestJob, reduce_logits)
T5K_KERNEL(log_softmax, 1024, LogSoftmaxJob, normalize)

}  // namespace t5k::cuda
