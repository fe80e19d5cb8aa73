// log_normalizer: log sum_v exp(x[v]) of one row of logits, for log-probabilities and beams.
//
//   x [V] fp32. fp32 exponentials summed in sixteen lanes of float, in blocks of 1024 folded into a double.
// Tolerance 1e-6 absolute against f64. Bytes 8 V (two passes, in cache), flops ~20 V.
//
// argmax: the largest value and the lowest index that reaches it (torch.argmax on CPU).
#pragma once

#include "ops/linear.h"
