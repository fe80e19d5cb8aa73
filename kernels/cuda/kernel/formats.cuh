// Packed weights as kernels see them: k per dword, and the values of a dword (layouts in ops/panels.h).
#pragma once

#include "cuda/kernel/compiler.cuh"

namespace t5k::cuda {

constexpr int I4_DWORDS = (int)I4_GROUP_DWORDS;  // of a 32-k group: 4 x 16 of nibbles, 8 of bf16 scales

template <int FORMAT>
T5K_DEVICE constexpr int k_of_dword() {
    return FORMAT == FORMAT_F32 ? 1 : FORMAT == FORMAT_I8 ? 4 : FORMAT == FORMAT_I4 ? 8 : 2;
}

// Values k .. k + n - 1 of one column, from the dword that holds them.
template <int FORMAT>
T5K_DEVICE void unpack(u32 v, float *w) {
    if constexpr (FORMAT == FORMAT_F32) w[0] = float_of_bits(v);
    if constexpr (FORMAT == FORMAT_F16) w[0] = low_half(v, f16{}), w[1] = high_half(v, f16{});
    if constexpr (FORMAT == FORMAT_BF16) w[0] = low_half(v, bf16{}), w[1] = high_half(v, bf16{});
    if constexpr (FORMAT == FORMAT_I8)
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] = (float)(i8)(v >> (8 * i) & 0xffu);
    if constexpr (FORMAT == FORMAT_I4)
#pragma unroll
        for (int i = 0; i < 8; ++i) w[i] = (float)((int)(v << (28 - 4 * i)) >> 28);
}

// Two values of type A in a dword, the first in the low half.
template <class A>
T5K_DEVICE u32 pair_of(float low, float high) {
    A a, b;
    assign(a, low);
    assign(b, high);
    return a.bits | (u32)b.bits << 16;
}

}  // namespace t5k::cuda
