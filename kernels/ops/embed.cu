// embed_<table>: contract in ops/embed.h.
#include "ops/embed.h"

#include "cuda/kernel/compiler.cuh"

namespace t5k::cuda {

template <class T>
T5K_DEVICE void embed(const EmbedJob &job) {
    const int E = (int)job.E;
    const T *from = static_cast<const T *>(job.table) + (i64)job.ids[blockIdx.x] * E;  // [E]
    float *y = job.y + blockIdx.x * job.ldy;
    for (int e = threadIdx.x; e < E; e += blockDim.x) y[e] = to_float(from[e]);
}

T5K_KERNEL(embed_f32, 256, EmbedJob, embed<float>)
T5K_KERNEL(embed_f16, 256, EmbedJob, embed<f16>)
T5K_KERNEL(embed_bf16, 256, EmbedJob, embed<bf16>)

}  // namespace t5k::cuda
