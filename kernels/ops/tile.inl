// What a tile of linear is: R rows times P panels of 16 outputs, accumulated in registers over the whole of K. Included by
// linear.cpp and its tiles.
#pragma once

#include "cpu/vec.h"
#include "ops/linear.h"

namespace t5k::T5K_NS {

constexpr int MAX_ROWS = 12;
constexpr int MAX_PANELS = 4;

// run: out[r][16 p + lane], row stride MAX_PANELS * 16 = rows row .. row + rows of the product with panels first .. first + panels.
struct Tile {
    int rows = 0, panels = 0;
    void (*run)(const LinearJob &job, int64_t row, int64_t first, float *out) = nullptr;
};

// Prefetch distance in dwords, across page ends, where the hardware prefetcher stops: 1 KB ahead of a stream of floats; the
// integer tiles spend a quarter of the time on a line and need 4 KB (measured: 4 to 12 % at one row, nothing for floats).
constexpr int64_t AHEAD = 256;
constexpr int64_t AHEAD_INTEGER = 1024;

T5K_INLINE void prefetch(const uint32_t *p) { __builtin_prefetch(p, 0, 3); }

namespace {

// Calls f(r, p) for every element of a tile, unrolled by the front end: GCC 12 unrolls loops only after it has decided which
// arrays live in registers, and then stores every sum of the larger tiles on each turn of their loop.
template <int N>
struct Index {
    T5K_MEMBER constexpr operator int() const { return N; }
};
template <int R, int P, int i = 0, class F>
T5K_INLINE void each(const F &f) {
// No registers to win, and minutes of compiling under a sanitizer.
#if defined(T5K_ISA_SCALAR) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) f(r, p);
#else
    if constexpr (i < R * P) {
        f(Index<i / P>{}, Index<i % P>{});
        each<R, P, i + 1>(f);
    }
#endif
}
#define T5K_ELEMENT [&](auto r, auto p) __attribute__((always_inline))

}  // namespace
}  // namespace t5k::T5K_NS
