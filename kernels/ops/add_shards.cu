// add_shards: contract in ops/add_shards.h.
#include "ops/add_shards.h"

#include "cuda/kernel/compiler.cuh"

namespace t5k::cuda {

T5K_DEVICE void add_rows(const AddShardsJob &job) {
    const int N = (int)job.N;
    float *y = job.y + blockIdx.x * job.ldy;
    for (int n = blockIdx.y * blockDim.x + threadIdx.x; n < N; n += gridDim.y * blockDim.x) {
        float sum = y[n];
        for (int p = 0; p < job.gpu.count; ++p) sum += job.gpu.parts[p][blockIdx.x * job.ld + n];
        y[n] = sum;
    }
}

T5K_KERNEL(add_shards, 256, AddShardsJob, add_rows)

}  // namespace t5k::cuda
