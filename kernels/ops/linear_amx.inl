// linear by AMX tiles, for every format but fp32: up to 32 rows times two panels at a time, or 16 times one where the sums of each
// block of k are scaled; k in chunks, but for the first rows, which bring the weights from memory. Integer sums are exact, so their
// bits are those of every ISA; bf16 has an order of sums for itself (linear.h). Included by linear.cpp.
#pragma once

#include "ops/amx.inl"
#include "ops/linear.h"
#include "ops/tile_shapes.h"

namespace t5k::T5K_NS {
namespace {

constexpr int AMX_ROWS = 2 * TILE_ROWS;
constexpr int64_t AMX_GROUP_BYTES = 768 << 10;           // weights that stay in L2, of the 2 MiB that every CPU with AMX has
constexpr int64_t AMX_PANELS = 64;                       // of a group at most
constexpr int64_t AMX_LDO = AMX_PANELS * LANES + LANES;  // rows 4 KB apart would share one set of L1
constexpr int64_t AMX_K_GROUPS = 12 * TILE_ROWS;         // of a chunk of k: 32 rows of it take half of L1
constexpr int64_t I4_TILE_GROUPS = I4_GROUP / 4;         // of four k each, once unpacked

// A tile of sums: rows row .. row + rows of x, panels first .. first + panels, groups begin .. end of their k.
struct AmxBlock {
    const LinearJob &job;
    const uint32_t *unpacked;  // int4 only: panel `first` as int8
    int64_t row;
    int rows;
    int64_t first;
    int panels;
    int64_t begin, end;
    int64_t ahead;  // where to prefetch weights, in dwords from those that are read; 0: nowhere
    float *out;     // row stride AMX_LDO: the sums of the groups before `begin`, then of those before `end`
};

// Tiles 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 `groups` groups of weights. 2, 3 and 5 belong to rows 16 and up where there are
// such, else to the same rows.
void configure_amx(int rows, int groups) {
    const int first = rows < TILE_ROWS ? rows : TILE_ROWS, second = rows > TILE_ROWS ? rows - TILE_ROWS : first;
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) {
        shapes.bytes[tile] = (uint16_t)(tile == 4 || tile == 5 ? groups * 4 : TILE_BYTES);
        shapes.rows[tile] = (uint8_t)(tile >= 6 ? groups : tile == 2 || tile == 3 || tile == 5 ? second : first);
    }
    configure_tiles(shapes);
}

// Sixteen groups of a panel, of which `left` exist: in place, or completed with zeros in `padded`.
T5K_INLINE const uint32_t *weights_at(const uint32_t *w, int64_t left, uint32_t *padded) {
    if (left >= TILE_ROWS) return w;
    __builtin_memset(padded, 0, TILE_ROWS * TILE_BYTES);
    __builtin_memcpy(padded, w, (size_t)(left * TILE_BYTES));
    return padded;
}

T5K_INLINE void prefetch_tile(const uint32_t *w, int64_t ahead) {
    if (ahead == 0) return;
    w += ahead;
    asm("" : "+r"(w));  // one address, or each of the sixteen lives in a register that there is not
#pragma GCC unroll 16
    for (int i = 0; i < TILE_ROWS; ++i) prefetch(w + i * LANES);
}

struct AmxBf16 {
    static constexpr int64_t PER = 2, WIDTH = 2;  // k of a group, bytes of a value
    template <int sums, int x, int weights>
    T5K_INLINE void dot() {
        dot_tiles_bf16<sums, x, weights>();
    }
};
struct AmxW8A8 {
    static constexpr int64_t PER = 4, WIDTH = 1;
    template <int sums, int x, int weights>
    T5K_INLINE void dot() {
        dot_tiles_u8<sums, x, weights>();
    }
};

// The tile of sums of rows r and panel p.
template <int T>
constexpr int sum_of(int r, int p) {
    return T == 2 ? 2 * r + p : p;
}

// Sums in tiles from the first group to the last: T tiles of rows times P panels, T P <= 4.
template <class Kind, int T, int P>
void amx_sums(const AmxBlock &b) {
    alignas(64) uint32_t padded[TILE_ROWS * LANES];
    const int64_t ldq = b.job.rows.ldq * Kind::WIDTH, groups = (b.job.w.K + Kind::PER - 1) / Kind::PER;
    const char *q = (const char *)b.job.rows.q + b.row * ldq + b.begin * 4;
    const uint32_t *w[P];
    for (int p = 0; p < P; ++p) w[p] = b.job.w.panel(b.first + p) + b.begin * LANES;
    each_tile<T, P>([&](auto r, auto p) __attribute__((always_inline)) {
        constexpr int sum = sum_of<T>(r, p);
        if (b.begin == 0) return clear_tile<sum>();
        load_tile<sum>(b.out + r * TILE_ROWS * AMX_LDO + p * LANES, AMX_LDO * 4);
    });
    for (int64_t g = b.begin; g < b.end; g += TILE_ROWS, q += TILE_BYTES) {
        load_tile<4>(q, ldq);
        if constexpr (T == 2) load_tile<5>(q + TILE_ROWS * ldq, ldq);
        each_tile<1, P>([&](auto, auto p) __attribute__((always_inline)) {
            constexpr int weights = 6 + p % 2;
            prefetch_tile(w[p], b.ahead);
            load_tile<weights>(weights_at(w[p], groups - g, padded), TILE_BYTES);
            w[p] += TILE_ROWS * LANES;
            Kind::template dot<p, 4, weights>();
            if constexpr (T == 2) Kind::template dot<sum_of<T>(1, p), 5, weights>();
        });
    }
    each_tile<T, P>([&](auto r, auto p) __attribute__((always_inline)) {
        store_tile<sum_of<T>(r, p)>(b.out + r * TILE_ROWS * AMX_LDO + p * LANES, AMX_LDO * 4);
    });
}

template <class Kind>
void amx_whole(const AmxBlock &b) {
    if (b.rows > TILE_ROWS) return b.panels == 2 ? amx_sums<Kind, 2, 2>(b) : amx_sums<Kind, 2, 1>(b);
    return b.panels == 4 ? amx_sums<Kind, 1, 4>(b) : b.panels == 2 ? amx_sums<Kind, 1, 2>(b) : amx_sums<Kind, 1, 1>(b);
}

// Formats whose sums are scaled block by block of k, sixteen rows times one panel at a time. Each names, for blocks that it walks
// in order: `sum`, which multiplies one block of k into the tiles of sums `at` and at + 1; `keep`, which stores those; and `scaled`,
// which adds row r of what was kept to acc.
//
// The sums of a block are stored and scaled while the tiles multiply the next, for which there is a second pair.
template <class Kind>
void amx_blocks(const AmxBlock &b) {
    for (int p = 0; p < b.panels; ++p) {
        Kind blocks(b, p);
        float *const out = b.out + p * LANES;
        if (b.rows < TILE_ROWS) {
            for (int r = 0; r < b.rows && b.begin == 0; ++r) store(out + r * AMX_LDO, zero());
            for (int64_t i = 0; i < blocks.count; ++i) {
                blocks.template sum<0>();
                blocks.template keep<0>();
                for (int r = 0; r < b.rows; ++r) store(out + r * AMX_LDO, blocks.template scaled<0>(r, load(out + r * AMX_LDO)));
                blocks.next();
            }
            continue;
        }
        V16 acc[TILE_ROWS];
        each<TILE_ROWS, 1>([&](auto r, auto) __attribute__((always_inline)) { acc[r] = b.begin == 0 ? zero() : load(out + r * AMX_LDO); });
        blocks.template sum<0>();
        for (int64_t i = 0; i < blocks.count; i += 2) {
            blocks.template keep<0>();
            if (i + 1 < blocks.count) blocks.template sum<2>();
            each<TILE_ROWS, 1>([&](auto r, auto) __attribute__((always_inline)) { acc[r] = blocks.template scaled<0>(r, acc[r]); });
            blocks.next();
            if (i + 1 == blocks.count) break;
            blocks.template keep<2>();
            if (i + 2 < blocks.count) blocks.template sum<0>();
            each<TILE_ROWS, 1>([&](auto r, auto) __attribute__((always_inline)) { acc[r] = blocks.template scaled<2>(r, acc[r]); });
            blocks.next();
        }
        each<TILE_ROWS, 1>([&](auto r, auto) __attribute__((always_inline)) { store(out + r * AMX_LDO, acc[r]); });
    }
}

// Rows in ROWS_W8_BYTES: the products with the high bytes, 256 times, and with the low ones, of each block of 128 k.
struct AmxW8 {
    const AmxBlock &b;
    const int64_t ldq, lds, count;
    int64_t left;  // groups that `sum` has not met
    const char *q;
    const uint32_t *w;
    const float *step;
    alignas(64) uint32_t padded[TILE_ROWS * LANES];
    alignas(64) int32_t kept[4][TILE_ROWS * LANES];

    T5K_MEMBER AmxW8(const AmxBlock &block, int p)
        : b(block), ldq(b.job.rows.ldq * 2), lds(b.job.rows.lds), count((b.end - b.begin + ROW_BLOCK / 4 - 1) / (ROW_BLOCK / 4)),
          left((b.job.w.K + 3) / 4 - b.begin), q((const char *)b.job.rows.q + b.row * ldq + b.begin * 8),
          w(b.job.w.panel(b.first + p) + b.begin * LANES), step(b.job.rows.scale + b.row * lds + b.begin * 4 / ROW_BLOCK) {}

    template <int at>
    T5K_MEMBER void half() {
        load_tile<4>(q, ldq);
        load_tile<5>(q + TILE_BYTES, ldq);
        prefetch_tile(w, b.ahead);
        load_tile<6>(weights_at(w, left, padded), TILE_BYTES);
        dot_tiles_i8<at, 4, 6>();
        dot_tiles_u8<at + 1, 5, 6>();
        q += 2 * TILE_BYTES;
        w += TILE_ROWS * LANES;
        left -= TILE_ROWS;
    }
    template <int at>
    T5K_MEMBER void sum() {
        clear_tile<at>();
        clear_tile<at + 1>();
        half<at>();
        if (left > 0) half<at>();
    }
    template <int at>
    T5K_MEMBER void keep() {
        store_tile<at>(kept[at], TILE_BYTES);
        store_tile<at + 1>(kept[at + 1], TILE_BYTES);
    }
    template <int at>
    T5K_MEMBER V16 scaled(int r, V16 acc) const {
        const I16 sum = addi(shl<8>(loadi(kept[at] + r * LANES)), loadi(kept[at + 1] + r * LANES));
        return fma(to_float(sum), bcast(step[r * lds]), acc);
    }
    T5K_MEMBER void next() { ++step; }
};

// Panel p of int4 as int8: of each dword of eight k first those of even index, then the odd ones, as rows of x have them.
int64_t unpacked_dwords(const Panels &w) { return round_up(w.K, I4_GROUP) / 4 * LANES; }

void unpack_i4(const Panels &w, int64_t p, uint32_t *out) {
    const uint32_t *panel = w.panel(p);
    for (int64_t k = 0; k < w.K; k += I4_GROUP, panel += LANES / 2)
        for (int i = 0; i < 4; ++i, panel += LANES, out += 2 * LANES) {
            prefetch(panel + AHEAD_INTEGER);
            const Wide ints = signed_nibbles(loadi(panel));
            storei(out, {ints.even});
            storei(out + LANES, {ints.odd});
        }
}

struct AmxW4 {
    const AmxBlock &b;
    const int64_t ldq, lds, count;
    const char *q;
    const uint32_t *w, *packed;
    const float *step;
    alignas(64) int32_t kept[4][TILE_ROWS * LANES];

    T5K_MEMBER AmxW4(const AmxBlock &block, int p)
        : b(block), ldq(b.job.rows.ldq), lds(b.job.rows.lds), count((b.end - b.begin) / I4_TILE_GROUPS),
          q((const char *)b.job.rows.q + b.row * ldq + b.begin * 4), w(b.unpacked + p * unpacked_dwords(b.job.w) + b.begin * LANES),
          packed(b.job.w.panel(b.first + p) + b.begin / I4_TILE_GROUPS * I4_GROUP_DWORDS + 4 * LANES),
          step(b.job.rows.scale + b.row * lds + b.begin / I4_TILE_GROUPS) {}

    template <int at>
    T5K_MEMBER void sum() {
        clear_tile<at>();
        load_tile<4>(q, ldq);
        load_tile<6>(w, TILE_BYTES);
        dot_tiles_i8<at, 4, 6>();
        q += I4_GROUP;
        w += I4_TILE_GROUPS * LANES;
    }
    template <int at>
    T5K_MEMBER void keep() {
        store_tile<at>(kept[at], TILE_BYTES);
    }
    template <int at>
    T5K_MEMBER V16 scaled(int r, V16 acc) const {
        const V16 both = mul(as_float(shl<16>(load_u16(packed))), bcast(step[r * lds]));
        return fma(to_float(loadi(kept[at] + r * LANES)), both, acc);
    }
    T5K_MEMBER void next() {
        packed += I4_GROUP_DWORDS;
        ++step;
    }
};

// What is left to do with row r's sums of a whole product.
void scale_w8a8(const LinearJob &job, int64_t r, int64_t first, int64_t panels, float *sums) {
    const V16 step = bcast(job.rows.scale[r * job.rows.lds]);
    const float *scales = job.w.scales() + first * LANES;
    const int32_t *excess = job.w.sums() + first * LANES;
    for (int64_t i = 0; i < panels * LANES; i += LANES)
        store(sums + i, mul(dots8_to_float({loadi(sums + i).v}, excess + i), mul(step, load(scales + i))));
}
void scale_w8(const LinearJob &job, int64_t, int64_t first, int64_t panels, float *sums) {
    const float *scales = job.w.scales() + first * LANES;
    for (int64_t i = 0; i < panels * LANES; i += LANES) store(sums + i, mul(load(sums + i), load(scales + i)));
}

struct AmxKind {
    void (*run)(const AmxBlock &);
    void (*scale)(const LinearJob &job, int64_t r, int64_t first, int64_t panels, float *sums);
    int rows;        // at a time
    int streams;     // panels at a time where few rows bring them from memory
    int64_t per;     // k of a group
    int64_t groups;  // of a tile
};
constexpr AmxKind AMX_BF16 = {amx_whole<AmxBf16>, nullptr, AMX_ROWS, 4, 2, TILE_ROWS};
constexpr AmxKind AMX_W8A8 = {amx_whole<AmxW8A8>, scale_w8a8, AMX_ROWS, 2, 4, TILE_ROWS};
constexpr AmxKind AMX_W8 = {amx_blocks<AmxW8>, scale_w8, TILE_ROWS, 2, 4, TILE_ROWS};
constexpr AmxKind AMX_W4 = {amx_blocks<AmxW4>, nullptr, TILE_ROWS, 2, 4, I4_TILE_GROUPS};

}  // namespace
}  // namespace t5k::T5K_NS
