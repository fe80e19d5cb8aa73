// probe: what the machine can do, measured with the same vectors as the kernels: read bandwidth and FMA peak.
//
// read_block  adds up `bytes` (a multiple of 512) so that every byte is loaded once; returns a value nobody needs.
// fma_block   `rounds` x 24 independent 16-lane fused multiply-adds in registers = rounds * 24 * 16 * 2 flop.
#pragma once

#include <stdint.h>

namespace t5k {

constexpr int64_t FMA_FLOPS_PER_ROUND = 24 * 16 * 2;

}  // namespace t5k
