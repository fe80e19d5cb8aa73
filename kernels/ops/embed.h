// embed: y[r, :] = table[ids[r], :], no scaling and no position (engines.md 1.3).
//
//   table [V, E] row-major, fp32 or bf16;  ids [R] int32 in [0, V) (checked at submit);  y [R, E] fp32.
// Exact. Bytes R E (w + 4).
#pragma once

#include "ops/panels.h"

namespace t5k {

// On a GPU: embed_<table>, table f32, f16 or bf16. Grid (R), any threads.
struct EmbedJob {
    const void *table = nullptr;
    int32_t format = FORMAT_F32;
    const int32_t *ids = nullptr;
    float *y = nullptr;
    int64_t ldy = 0;
    int64_t R = 0;
    int64_t E = 0;
};

}  // namespace t5k
