// bf16 as a bit pattern, the upper half of an fp32: rounding to it, and its value.
#pragma once

#include <stdint.h>

namespace t5k {

// The nearest bf16, ties to even; NaN stays NaN.
static inline uint16_t bf16_of_float(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float float_of_bf16(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

static inline float to_nearest_bf16(float value) { return float_of_bf16(bf16_of_float(value)); }

}  // namespace t5k
