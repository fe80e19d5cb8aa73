// embed: y[r, :] = table[ids[r], :], no scaling and no position (engines.md 1.3).
//
//   table [V, E] row-major, fp32 or bf16;  ids [R] int32 in [0, V) (checked at submit);  y [R, E] fp32.
// Exact. Bytes R E (w + 4).
#pragma once

#include "ops/panels.h"
