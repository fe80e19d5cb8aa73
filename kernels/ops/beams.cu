// beam_step: the best continuations of each request's beams. Contract in ops/beams.h.
//
// `wanted` passes, each finding the best candidate after the one before: the simplest kernel that is exact on ties.
#include "ops/beams.h"

#include "cuda/kernel/reduce.cuh"

namespace t5k::cuda {

T5K_DEVICE void beam_candidates(const BeamJob &job) {
    T5K_SHARED(Best[32], part);
    const i64 first = (i64)blockIdx.x * job.beams;
    Best last{float_of_bits(0x7f800000u), -1};  // +inf, before everything
    for (int w = 0; w < job.wanted; ++w) {
        Best best = nothing();
        for (int b = 0; b < job.beams; ++b) {
            const float *row = job.logp + (first + b) * job.ld;  // [V]
            const float score = job.score[first + b];
            for (int v = threadIdx.x; v < job.V; v += blockDim.x) {
                const Best each{score + row[v], b * job.V + v};
                const bool is_next = each.value < last.value || (each.value == last.value && each.index > last.index);
                if (is_next) best = better(best, each);
            }
        }
        last = block_best(best, part);
        __syncthreads();  // before `part` is written again
        if (threadIdx.x == 0)
            job.out[(i64)blockIdx.x * job.wanted + w] = {last.value, last.index / job.V, last.index % job.V};
    }
}

T5K_KERNEL(beam_step, 256, BeamJob, beam_candidates)

}  // namespace t5k::cuda
