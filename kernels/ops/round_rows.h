// round_rows: one row of activations rounded as linear's formats want it (fp32 takes it as it is); layout in ops/linear.h, QuantizedRows.
//
//   W8A8  q = round(x / s), s = max|x| / 127 over the row
//   W8    q = round(x / s), s = max|x| / 32767 over each 128 k
//   W4    q = round(x / s), s = max|x| / 127 over each 32 k, and offset = 8 * sum q
//   BF16  (whatever the layout) q = the nearest bf16, |q - x| <= 2^-9 |x| (2^-134 where |x| is denormal); NaN stays NaN, beyond 3.39e38 infinity
// A block of zeros has scale 1. Rounding is to nearest even. |q s - x| <= s / 2.
// Bytes 4 K + K (int8), 2 K (int16, bf16) or 4 K (bf16 as fp32). In cache; done once per linear and shared by its shards.
#pragma once

#include "ops/linear.h"
