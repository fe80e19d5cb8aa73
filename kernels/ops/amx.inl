// The tile registers of Intel's AMX: eight of them, each up to 16 rows of 64 bytes. By the instructions' names, because the kernels
// are compiled for AVX-512 CPUs without them too. A process asks the kernel for them (cpu/isa.cpp), a thread configures them
// before use and releases them after. Included by linear_amx.inl and attention_amx.inl.
//
// A product of tiles adds rows of x times weights to sums: x [rows, 64 bytes], weights [16 groups of k, 16 outputs] as a panel
// holds them (ops/panels.h), sums [rows, 16] of four bytes.
#pragma once

#include "cpu/vec.h"
#include "ops/tile.inl"

namespace t5k::T5K_NS {
namespace {

constexpr int TILE_ROWS = 16;
constexpr int64_t TILE_BYTES = 64;  // of a row

// What ldtilecfg reads.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

T5K_INLINE void configure_tiles(const TileShapes &shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
T5K_INLINE void release_tiles() { asm volatile("tilerelease"); }

template <int tile>
T5K_INLINE void clear_tile() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}
template <int tile>
T5K_INLINE void load_tile(const void *from, int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(from), "r"(stride) : "memory");
}
template <int tile>
T5K_INLINE void store_tile(void *to, int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(tile), "r"(to), "r"(stride) : "memory");
}

// sums += x times weights. bf16: over 16 groups the first k of each in one chain of fused multiply-adds from zero and the second in
// another, then their sum is added; round to nearest even, denormals zero. Integers: exact in int32.
template <int sums, int x, int weights>
T5K_INLINE void dot_tiles_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(x), "i"(weights));
}
template <int sums, int x, int weights>
T5K_INLINE void dot_tiles_i8() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(x), "i"(weights));
}
template <int sums, int x, int weights>
T5K_INLINE void dot_tiles_u8() {  // x unsigned
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(x), "i"(weights));
}

// f(r, p) for every tile of sums, unrolled always: a tile is named by a constant.
template <int T, int P, int i = 0, class F>
T5K_INLINE void each_tile(const F &f) {
    if constexpr (i < T * P) {
        f(Index<i / P>{}, Index<i % P>{});
        each_tile<T, P, i + 1>(f);
    }
}

}  // namespace
}  // namespace t5k::T5K_NS
