// sample: a token drawn from softmax(x / temperature) after top-k and top-p, on a GPU (the CPU's choice: model/processors.cpp).
//
// Keeps values >= the k-th largest (ties stay, as in Hugging Face), then the smallest set of largest values that reaches top_p
// (the last one in is kept). The draw inverts the distribution over ids in order with the uniform number
// Philox4x32-10(key = seed, counter = step): a request's tokens never depend on its batch mates. Grid (R), 256 threads.
#pragma once

#include "ops/panels.h"

namespace t5k {

struct SampleRow {
    uint64_t seed, step;
    float temperature, top_p;  // top_p >= 1: off
    int32_t top_k;             // 0: off
    int32_t is_off;            // no draw for this row
};

struct SampleJob {
    const float *x;
    const SampleRow *rows;
    int32_t *token;
    int64_t ldx;
    int32_t V;
};

}  // namespace t5k
