// round_rows: one row of activations rounded to integers for linear's integer formats; layout in ops/linear.h, QuantizedRows.
//
//   W8A8  q = round(x / s), s = max|x| / 127 over the row
//   W8    q = round(x / s), s = max|x| / 32767 over each 128 k
//   W4    q = round(x / s), s = max|x| / 127 over each 32 k, and offset = 8 * sum q
// A block of zeros has scale 1. Rounding is to nearest even. |q s - x| <= s / 2.
// Bytes 4 K + K (int8) or 2 K (int16). In cache; done once per linear and shared by its shards.
#pragma once

#include "ops/linear.h"
