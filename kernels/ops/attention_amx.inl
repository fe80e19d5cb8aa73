// Attention of many rows by AMX's tiles (ops/amx.inl), sixteen rows at a time; q, keys, values and the exponentials are rounded to
// bf16. Included by attention.cpp.
//
// Keys come in blocks of KEY_BLOCK, whose scores stay in L1. A row's maximum so far is subtracted; where a block raises it, what was
// summed before is multiplied by exp(old - new), which is 1 exactly for rows that keep theirs. So blocks begin at key 0, and a row
// has the same bits in any company (Milakov and Gimelshein 2018; Dao et al. 2022).
#pragma once

#include "cpu/vec.h"
#include "ops/amx.inl"
#include "ops/attention.h"
#include "ops/dots.inl"
#include "ops/tile.inl"

namespace t5k::T5K_NS {
namespace {

constexpr int64_t KEY_BLOCK = 512;
constexpr float LOG2_E = 1.44269504088896341f;
constexpr int64_t TILE_K = 32;                        // bf16 of a tile's row: dims of keys, keys of values
constexpr int64_t TILE_NUMBERS = TILE_ROWS * TILE_K;  // bf16 of a tile

// Keys and values of one head as tiles: of keys [panel][32 dims], of values [32 keys][panel of dims]; zeros where there are none.
struct HeadTiles {
    uint16_t *k, *v;
    int64_t k_panels, k_steps, v_steps, v_panels;
};
HeadTiles head_tiles(const AttendJob &job, float *scratch) {
    const int64_t v_steps = (job.keys + TILE_K - 1) / TILE_K, k_panels = 2 * v_steps, k_steps = (job.D + TILE_K - 1) / TILE_K;
    auto *k = (uint16_t *)scratch;
    return {k, k + k_panels * k_steps * TILE_NUMBERS, k_panels, k_steps, v_steps, panel_count(job.D)};
}

// Rows `at` and at + 1 of [rows, 16], rounded, side by side as a tile holds two k of sixteen columns; zeros from `rows` on.
T5K_INLINE void put_pair(const float *from, int64_t at, int64_t rows, uint16_t *to) {
    const V16 first = at < rows ? load(from + at * LANES) : zero(), second = at + 1 < rows ? load(from + (at + 1) * LANES) : zero();
    storei(to, ori(andi(sar<16>(rounded_to_bf16(first)), bcasti(0xffff)), rounded_to_bf16(second)));
}

void put_tiles(const AttendJob &job, const HeadTiles &tiles) {
    const int64_t panels = panel_count(job.keys);
    uint16_t *to = tiles.k;
    for (int64_t p = 0; p < tiles.k_panels; ++p)
        for (int64_t d = 0; d < tiles.k_steps * TILE_K; d += 2, to += TILE_K)
            put_pair(job.cache.k + p * LANES * job.D, d, p < panels ? job.D : 0, to);
    to = tiles.v;
    for (int64_t key = 0; key < tiles.v_steps * TILE_K; key += TILE_K)
        for (int64_t p = 0; p < tiles.v_panels; ++p)
            for (int64_t i = 0; i < TILE_K; i += 2, to += TILE_K) put_pair(job.cache.v + p * job.cache.capacity * LANES, key + i, job.keys, to);
}

// Tiles 0 to 3 are sums, 4 sixteen rows of q or of exponentials, 6 and 7 keys or values.
void configure_attention() {
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) {
        shapes.bytes[tile] = (uint16_t)TILE_BYTES;
        shapes.rows[tile] = TILE_ROWS;
    }
    configure_tiles(shapes);
}

// out[16][16 P] (+)= x [16, 32 steps] times P panels of tiles: `step` and `panel` are the tiles from one to the next. ldx and ldo in
// bytes.
template <int P, bool IS_ADDED>
T5K_INLINE void multiply(const void *x, int64_t ldx, const uint16_t *w, int64_t steps, int64_t step, int64_t panel, float *out,
                         int64_t ldo) {
    each_tile<1, P>([&](auto, auto p) __attribute__((always_inline)) {
        if constexpr (IS_ADDED)
            load_tile<p>(out + p * LANES, ldo);
        else
            clear_tile<p>();
    });
    for (int64_t i = 0; i < steps; ++i) {
        load_tile<4>((const char *)x + i * TILE_BYTES, ldx);
        each_tile<1, P>([&](auto, auto p) __attribute__((always_inline)) {
            constexpr int weights = 6 + p % 2;
            load_tile<weights>(w + (i * step + p * panel) * TILE_NUMBERS, TILE_BYTES);
            dot_tiles_bf16<p, 4, weights>();
        });
    }
    each_tile<1, P>([&](auto, auto p) __attribute__((always_inline)) { store_tile<p>(out + p * LANES, ldo); });
}

template <bool IS_ADDED>
void multiply_all(const void *x, int64_t ldx, const uint16_t *w, int64_t steps, int64_t step, int64_t panels, int64_t panel, float *out,
                  int64_t ldo) {
    int64_t p = 0;
    for (; p + 4 <= panels; p += 4)
        multiply<4, IS_ADDED>(x, ldx, w + p * panel * TILE_NUMBERS, steps, step, panel, out + p * LANES, ldo);
    for (; p < panels; ++p) multiply<1, IS_ADDED>(x, ldx, w + p * panel * TILE_NUMBERS, steps, step, panel, out + p * LANES, ldo);
}

// Sixteen rows, of which some may not exist, and what is known of them after the keys so far.
struct RowBlock {
    alignas(64) uint16_t q[TILE_ROWS * MOST_TILE_DIMS];    // [16][32 k_steps]; what stands in rows that do not exist reaches no other
    alignas(64) float scores[TILE_ROWS * KEY_BLOCK];  // then the exponentials, bf16, at the beginning of each row
    alignas(64) float out[TILE_ROWS * MOST_TILE_DIMS];     // [16][16 v_panels]
    V16 sum[TILE_ROWS];
    float top[TILE_ROWS];
};

// Scores of keys first .. first + KEY_BLOCK of row r become exponentials; sum and out follow the new maximum.
T5K_INLINE void soften(const AttendJob &job, RowBlock &b, int64_t row, int r, int64_t first, int64_t count, int64_t ldo) {
    const int64_t position = job.first_position + row + r;
    const int64_t visible = (job.causal && position + 1 < job.keys ? position + 1 : job.keys) - first;
    float *const s = b.scores + r * KEY_BLOCK;
    V16 peak = bcast(-3.4e38f);
    for (int64_t i = 0; i < count; i += LANES) {
        V16 x = load(s + i);
        if (job.bias) x = add(x, bias_of(job, first + i, position));
        if (visible - i < LANES) x = keep_first(x, visible < i ? 0 : (int)(visible - i), bcast(-3.4e38f));
        peak = max(peak, x);
        store(s + i, x);
    }
    const float before = b.top[r], top = largest(max(peak, bcast(before)));
    if (top > before) {
        const V16 less = first == 0 ? zero() : exp(bcast(before - top));
        b.sum[r] = mul(b.sum[r], less);
        for (int64_t i = 0; i < ldo && first > 0; i += LANES) store(b.out + r * ldo + i, mul(load(b.out + r * ldo + i), less));
        b.top[r] = top;
    }
    V16 total = b.sum[r];
    for (int64_t i = 0; i < count; i += LANES) {
        V16 p = exp2_of(mul(sub(load(s + i), bcast(top)), bcast(LOG2_E)));
        if (visible - i < LANES) p = keep_first(p, visible < i ? 0 : (int)(visible - i), zero());
        total = add(total, p);
        put_bf16((uint16_t *)s + i, p);
    }
    b.sum[r] = total;
}

void attend_block(const AttendJob &job, const HeadTiles &tiles, int64_t row, RowBlock &b) {
    const int rows = job.R - row < TILE_ROWS ? (int)(job.R - row) : TILE_ROWS;
    const int64_t ldq = tiles.k_steps * TILE_K, ldo = tiles.v_panels * LANES;
    for (int r = 0; r < rows; ++r) {
        b.top[r] = -3.4e38f;
        b.sum[r] = zero();
        quantize_row(ROWS_BF16_AMX, job.q + (row + r) * job.ldq, job.D, b.q + r * ldq, nullptr, nullptr);
    }
    for (int64_t first = 0; first < job.keys; first += KEY_BLOCK) {
        const int64_t left = round_up(job.keys - first, TILE_K), count = left < KEY_BLOCK ? left : KEY_BLOCK;
        multiply_all<false>(b.q, ldq * 2, tiles.k + first * ldq, tiles.k_steps, 1, count / LANES, tiles.k_steps, b.scores, KEY_BLOCK * 4);
        for (int r = 0; r < rows; ++r) soften(job, b, row, r, first, count, ldo);
        const uint16_t *v = tiles.v + first * ldo;
        const auto mixed = first == 0 ? multiply_all<false> : multiply_all<true>;
        mixed(b.scores, KEY_BLOCK * 4, v, count / TILE_K, tiles.v_panels, tiles.v_panels, 1, b.out, ldo * 4);
    }
    for (int r = 0; r < rows; ++r) {
        const V16 inverse = bcast(1.0f / sum(b.sum[r]));
        for (int64_t d = 0; d < job.D; d += LANES) put(job.out + (row + r) * job.ldo + d, mul(load(b.out + r * ldo + d), inverse), job.D - d);
    }
}

}  // namespace
}  // namespace t5k::T5K_NS
