// fp16 as a bit pattern: its value, for hosts (no CPU kernel computes in fp16).
#pragma once

#include <stdint.h>

namespace t5k {

// The value of an fp16, exactly.
static inline float float_of_f16(uint16_t half) {
    uint32_t bits = (half & 0x7fffu) << 13;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    value *= 5.192296858534828e33f;  // 2^112, the difference of the exponents' biases; right for subnormals too
    __builtin_memcpy(&bits, &value, 4);
    if ((half & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;  // infinite, or NaN
    bits |= (half & 0x8000u) << 16;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

}  // namespace t5k
