// beam_step: per request the `wanted` best of score[b] + logp[b, v] over its beams, best first; of equals the lower b * V + v (the
// order of a flattened top-k). On a GPU; the CPU's choice: model/beams.cpp.
//
//   logp [requests * beams, ld] fp32; score [requests * beams]; out [requests, wanted]. Grid (requests), 256 threads.
#pragma once

#include "ops/panels.h"

namespace t5k {

struct BeamCandidate {
    float score;
    int32_t beam, token;
};

struct BeamJob {
    const float *logp;
    const float *score;
    BeamCandidate *out;
    int64_t ld;
    int32_t V, beams, wanted;
};

}  // namespace t5k
