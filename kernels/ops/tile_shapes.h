// Which tile of linear computes which rows: a table per ISA and kind of weights. Included by linear.cpp.
//
// The best shape first: of the tiles that fit the rows left and the panels allowed, the first in the table is taken. Behind the
// preferred ones stand narrower tiles for what is left of a range of panels.
#pragma once

#include "ops/linear_float.inl"
#include "ops/linear_integer.inl"

namespace t5k::T5K_NS {
namespace {

template <class F, int R, int P>
constexpr Tile floats() {
    return {R, P, tile_floats<F, R, P>};
}
template <int R, int P>
constexpr Tile w8a8() {
    return {R, P, tile_w8a8<R, P>};
}
template <int R, int P>
constexpr Tile w8() {
    return {R, P, tile_w8<R, P>};
}
template <int R, int P>
constexpr Tile w4() {
    return {R, P, tile_w4<R, P>};
}

#if defined(T5K_ISA_AVX512)
template <int R, int P>
constexpr Tile bf16_amx() {
    return {R, P, tile_bf16_amx<R, P>};
}
constexpr Tile TILES_BF16_AMX[] = {
    bf16_amx<2, 4>(), bf16_amx<1, 4>(), bf16_amx<2, 2>(), bf16_amx<1, 2>(), bf16_amx<2, 1>(), bf16_amx<1, 1>(),
};
constexpr int WIDE_ROWS = 12, FEW_ROWS = 8;
constexpr int64_t GROUP_BYTES = 448 << 10;  // of a 1 MiB L2

// Thirty-two registers. Up to four rows take four panels, which keeps at least four chains for one row. More rows: 8 x 2, whose
// inputs L1 holds (12 x 2: 97 of 115 GFLOP/s at K = 2048 where 8 x 2 gives 113; bf16 by its instruction 185 of 230 where 8 x 2 gives 205).
template <class F>
constexpr Tile FLOATS[] = {
    floats<F, 8, 2>(), floats<F, 6, 2>(), floats<F, 5, 2>(), floats<F, 4, 4>(), floats<F, 3, 4>(), floats<F, 2, 4>(),
    floats<F, 1, 4>(), floats<F, 4, 2>(), floats<F, 2, 2>(), floats<F, 1, 2>(),
    floats<F, 8, 1>(), floats<F, 7, 1>(), floats<F, 6, 1>(), floats<F, 5, 1>(), floats<F, 4, 1>(), floats<F, 3, 1>(),
    floats<F, 2, 1>(), floats<F, 1, 1>(),
};
// Integers of up to eight rows wait for memory and take one panel at a time, which is one stream (two by two at eight rows:
// a decode step 1.2x slower). Many rows: 12 x 2, but 8 where groups are unpacked (w8), 12 x 1 where a second set of sums is kept (w4).
constexpr Tile TILES_W8A8[] = {
    w8a8<12, 2>(), w8a8<12, 1>(), w8a8<8, 1>(), w8a8<7, 1>(), w8a8<6, 1>(), w8a8<5, 1>(), w8a8<4, 1>(), w8a8<3, 1>(), w8a8<2, 1>(),
    w8a8<1, 1>(),
};
constexpr Tile TILES_W8[] = {
    w8<8, 1>(), w8<7, 1>(), w8<6, 1>(), w8<5, 1>(), w8<4, 1>(), w8<3, 1>(), w8<2, 1>(), w8<1, 1>(),
};
constexpr Tile TILES_W4[] = {
    w4<12, 1>(), w4<8, 1>(), w4<7, 1>(), w4<6, 1>(), w4<5, 1>(), w4<4, 1>(), w4<3, 1>(), w4<2, 1>(), w4<1, 1>(),
};
#else
constexpr int WIDE_ROWS = 6, FEW_ROWS = 6;
constexpr int64_t GROUP_BYTES = 224 << 10;  // of a 512 KiB L2

// Sixteen registers of eight lanes: 6 x 1 (12 accumulators), one row over four panels, two and three over two.
template <class F>
constexpr Tile FLOATS[] = {
    floats<F, 6, 1>(), floats<F, 5, 1>(), floats<F, 4, 1>(), floats<F, 3, 2>(), floats<F, 2, 2>(), floats<F, 1, 4>(),
    floats<F, 1, 2>(), floats<F, 3, 1>(), floats<F, 2, 1>(), floats<F, 1, 1>(),
};
constexpr Tile TILES_W8A8[] = {w8a8<6, 1>(), w8a8<5, 1>(), w8a8<4, 1>(), w8a8<3, 1>(), w8a8<2, 1>(), w8a8<1, 1>()};
constexpr Tile TILES_W8[] = {w8<6, 1>(), w8<5, 1>(), w8<4, 1>(), w8<3, 1>(), w8<2, 1>(), w8<1, 1>()};
constexpr Tile TILES_W4[] = {w4<6, 1>(), w4<5, 1>(), w4<4, 1>(), w4<3, 1>(), w4<2, 1>(), w4<1, 1>()};
#endif
constexpr int64_t WIDENED_ROWS = 256;  // from so many rows on bf16 panels are widened once for all rows
static_assert(WIDE_ROWS <= MAX_ROWS, "the tile on the stack holds MAX_ROWS rows");

// The answers for every number of rows left and of panels allowed, so that choosing a tile is one load.
struct Choice {
    Tile at_most[MAX_ROWS + 1][MAX_PANELS + 1];  // at most so many rows and panels
    Tile exactly[MAX_ROWS + 1][MAX_PANELS + 1];  // at most so many rows, exactly so many panels; run is null where there is none
};

template <int N>
constexpr Choice choice_of(const Tile (&tiles)[N]) {
    Choice choice;
    for (int rows = 1; rows <= MAX_ROWS; ++rows)
        for (int panels = 1; panels <= MAX_PANELS; ++panels)
            for (int i = N - 1; i >= 0; --i) {
                if (tiles[i].rows > rows || tiles[i].panels > panels) continue;
                choice.at_most[rows][panels] = tiles[i];
                if (tiles[i].panels == panels) choice.exactly[rows][panels] = tiles[i];
            }
    return choice;
}

constexpr Choice CHOICES[] = {  // by RowRounding
    choice_of(FLOATS<F32>), choice_of(TILES_W8A8), choice_of(TILES_W8), choice_of(TILES_W4), choice_of(FLOATS<Bf16Floats>),
#if defined(T5K_ISA_AVX512)
    choice_of(FLOATS<Bf16Pairs>), choice_of(TILES_BF16_AMX),
#endif
};
constexpr Choice WIDENED = choice_of(FLOATS<Bf16Widened>);
static_assert(ROWS_PLAIN == 0 && ROWS_W8A8 == 1 && ROWS_W8 == 2 && ROWS_W4 == 3, "the order of CHOICES");
static_assert(ROWS_BF16_FLOATS == 4 && ROWS_BF16_PAIRS == 5 && ROWS_BF16_AMX == 6, "the order of CHOICES");

}  // namespace
}  // namespace t5k::T5K_NS
