// The packed weight matrix: what every linear op streams, and what a partition file holds.
//
// A matrix W [K, N] (K inputs, N outputs; y = x W) is cut into panels of 16 output columns, N padded with zero columns.
// Inside a panel the k axis is contiguous, in groups of `group` values; one group is 16 dwords, one per column, so a
// 64-byte load holds the same k values for 16 outputs:
//
//   format  k per dword   dword of column n                           bytes per weight   extra per matrix
//   f32     1             the float                                   4                  -
//   bf16    2             k+0 in the low half                         2                  -
//   f16     2             as bf16                                     2                  - (no CPU kernels)
//   i8      4             k+0 in the low byte, in [-127, 127]         1                  scale f32 [Np], sum i32 [Np]
//   i4      8             k+0 in the low nibble, two's complement     0.5625             bf16 scale per 32 k, in line
//
// K is padded with zeros to a multiple of `group`: 1, 2, 2, 4, 32. i4: each 32-k group is 4 x 16 dwords of nibbles and
// then 16 bf16 scales. i8: scale[n] = max|W[:, n]| / 127, and sum[n] = sum over k of the stored integers (the offset
// term of unsigned dot-product instructions). Np is N rounded up to 16.
//
// The layout is the same for every ISA, so a partition made on one machine runs on any other.
#pragma once

#if defined(__CUDACC_RTC__)  // NVRTC comes without the C headers
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long;
using uint64_t = unsigned long;
using uintptr_t = unsigned long;
#else
#include <stddef.h>
#include <stdint.h>
#endif

namespace t5k {

// Op headers are compiled under every ISA's flags, and for GPUs. Their functions are static and their members always inlined, so
// that no copy built for a wide ISA can be the one the linker keeps for all (tests/kernels checks: no weak symbols).
#if defined(__CUDACC__)
#define T5K_MEMBER __host__ __device__
#define T5K_STATIC static inline __host__ __device__
#else
#define T5K_MEMBER __attribute__((always_inline))
#define T5K_STATIC static inline
#endif

enum Format { FORMAT_F32 = 0, FORMAT_BF16 = 1, FORMAT_I8 = 2, FORMAT_I4 = 3, FORMAT_F16 = 4 };
constexpr int FORMATS = 5;

constexpr int64_t LANES = 16;
constexpr int64_t I4_GROUP = 32;
constexpr int64_t I4_GROUP_DWORDS = 4 * LANES + LANES / 2;

T5K_STATIC int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
T5K_STATIC int64_t panel_count(int64_t N) { return (N + LANES - 1) / LANES; }

// Dwords of one panel of K inputs.
T5K_STATIC int64_t panel_dwords(int format, int64_t K) {
    switch (format) {
        case FORMAT_F16:
        case FORMAT_BF16: return round_up(K, 2) / 2 * LANES;
        case FORMAT_I8: return round_up(K, 4) / 4 * LANES;
        case FORMAT_I4: return round_up(K, I4_GROUP) / I4_GROUP * I4_GROUP_DWORDS;
        default: return K * LANES;
    }
}

// Bytes of the whole packed matrix, extras included.
T5K_STATIC int64_t packed_bytes(int format, int64_t K, int64_t N) {
    const int64_t panels = panel_count(N);
    return panels * panel_dwords(format, K) * 4 + (format == FORMAT_I8 ? panels * LANES * 8 : 0);
}

// A view of packed memory (64-byte aligned, owned by whoever mapped or allocated it).
struct Panels {
    const uint32_t *data = nullptr;
    int format = FORMAT_F32;
    int64_t K = 0;
    int64_t N = 0;

    T5K_MEMBER const uint32_t *panel(int64_t p) const { return data + p * panel_dwords(format, K); }
    T5K_MEMBER const float *scales() const {
        return reinterpret_cast<const float *>(data + panel_count(N) * panel_dwords(format, K));
    }
    T5K_MEMBER const int32_t *sums() const { return reinterpret_cast<const int32_t *>(scales() + panel_count(N) * LANES); }
};

}  // namespace t5k
