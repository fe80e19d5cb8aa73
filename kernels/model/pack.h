// Packing a row-major matrix into panels (ops/panels.h), on the host, one matrix at a time.
#pragma once

#include "device/status.h"
#include "ops/panels.h"

namespace t5k {

// source [N, K] row-major fp32 with row stride ld: N outputs of K inputs, as torch keeps a Linear. The outputs go to
// panels first, first + step, first + 2 step, ... of a packed matrix with total_N outputs; only those bytes are written.
struct PackJob {
    int format;
    const float *source;
    int64_t ld;
    int64_t K;
    int64_t N;
    int64_t total_N;
    int64_t first_panel;
    int64_t step;
    void *packed;
    const float *peaks;  // i8: max|W[:, n]| of each output over all ranks, so that every rank rounds alike; null: own
};

Status pack(const PackJob &job);

// The stored weights as fp32, row-major [N, K]; what the kernels compute with.
Status unpack(const Panels &panels, float *out);

}  // namespace t5k
