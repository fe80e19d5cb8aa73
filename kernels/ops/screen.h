// screen: the exact argmax of x W at the cost of reading an int8 copy of W (engines.md 4.4).
//
// With q the int8 copy, s its scales and xr the rounded row of w8, the approximation a[n] = sum_k xr[k] s[n] q[k, n] obeys
//
//   |a[n] - (x W)[n]|  <=  |x|_2 * |W[:, n] - s q[:, n]|_2  +  |x - xr|_2 * |s q[:, n]|_2  +  fp32 rounding
//
// (Cauchy-Schwarz twice). Norms of the residual and of the copy are stored per column; |x - xr|_2 is bounded by the row's
// rounding steps. Where W is bf16 its product rounds x too: |x - x bf16|_2 times the two norms is added. Columns whose upper bound reaches the largest lower bound may hold the argmax: their panels are
// computed from W itself, with the very chain the full product would use, so the result is the full product's, bit by
// bit, ties included. Above MAX_SCREENED panels the caller computes all of W instead.
//
//   approx [columns], norms [2, Np] (residual, then copy); lowest: the largest lower bound
// Bytes K N (int8) + 8 N norms + 4 N + 64 K per candidate panel, instead of 4 K N. Flops 2 K N.
// Checked by tests/engines/t5/test_exact_head.py: identical ids on every parity prompt.
#pragma once

#include "ops/linear.h"

namespace t5k {

constexpr int MAX_SCREENED = 256;

struct ScreenJob {
    const float *approx = nullptr;
    const float *norms = nullptr;
    int64_t padded = 0;   // Np
    int64_t columns = 0;
    float x_norm = 0.0f;      // bound factor of the residual norms
    float round_norm = 0.0f;  // bound factor of the copy's norms
};

}  // namespace t5k
