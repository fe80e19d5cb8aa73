// Tiles of linear for int8 and int4 weights times rows that round_rows has rounded: R rows times P panels, exact in int32.
// Included by linear.cpp.
#pragma once

#include "cpu/vec.h"
#include "ops/dots.inl"
#include "ops/linear.h"
#include "ops/tile.inl"

namespace t5k::T5K_NS {
namespace {

// Each kind names: the k values of one 64-byte group and of one block of rows, and how a group is unpacked and used.
struct W8A8 {
    using Value = int8_t;
    using Group = I16;
    static constexpr int PER = 4;
    T5K_INLINE Group unpacked(const uint32_t *w) { return loadi(w); }
    T5K_INLINE Dots dot(Dots acc, Group w, const Value *q) { return dot8(acc, w, q); }
};
struct W8 {
    using Value = int16_t;
    using Group = Wide;
    static constexpr int PER = 4;
    T5K_INLINE Group unpacked(const uint32_t *w) { return widened(loadi(w)); }
    T5K_INLINE Dots dot(Dots acc, Group w, const Value *q) { return dot16(acc, w, q); }
};
struct W4 {
    using Value = int8_t;
    using Group = Wide;
    static constexpr int PER = 8;
    T5K_INLINE Group unpacked(const uint32_t *w) { return nibbles(loadi(w)); }
    T5K_INLINE Dots dot(Dots acc, Group w, const Value *q) { return dot4(acc, w, q); }
};

// Independent sums per tile element, so that a dot product's latency is hidden when the tile is small. Integer sums may be
// taken in any order, so a small tile is one panel wide: one sequential stream, which the prefetchers like best.
constexpr int sums_for(int R, int P) { return R * P <= 2 ? 4 : R * P <= 4 ? 2 : 1; }

// sums += one group of each panel times the values at q; advances w.
template <class Kind, int R, int P>
T5K_INLINE void dot_group(Dots (&sums)[R][P], const uint32_t *(&w)[P], const typename Kind::Value *q, int64_t ldq) {
    typename Kind::Group g[P];
    each<1, P>([&](auto, auto p) __attribute__((always_inline)) {
        prefetch(w[p] + AHEAD_INTEGER);
        g[p] = Kind::unpacked(w[p]);
        w[p] += LANES;
    });
    each<R, P>(T5K_ELEMENT { sums[r][p] = Kind::dot(sums[r][p], g[p], q + r * ldq); });
}

template <int R, int P>
T5K_INLINE void clear(Dots (&sums)[R][P]) {
    each<R, P>(T5K_ELEMENT { sums[r][p] = no_dots(); });
}

template <int R, int P>
T5K_INLINE void fold(Dots (&sums)[R][P], const Dots (&more)[R][P]) {
    each<R, P>(T5K_ELEMENT { sums[r][p] = added(sums[r][p], more[r][p]); });
}

// sums += the next `groups` groups of each panel times the values at q (row stride ldq); advances w.
template <class Kind, int R, int P, int KNOWN = 0>
T5K_INLINE void dot_groups(Dots (&sums)[R][P], const uint32_t *(&w)[P], const typename Kind::Value *q, int64_t ldq,
                           int64_t groups) {
    constexpr int U = sums_for(R, P), PER = Kind::PER;
    int64_t i = 0;
    if constexpr (U == 4) {
        Dots b[R][P], c[R][P], d[R][P];
        clear<R, P>(b);
        clear<R, P>(c);
        clear<R, P>(d);
        for (; i + 4 <= groups; i += 4) {
            dot_group<Kind, R, P>(sums, w, q + i * PER, ldq);
            dot_group<Kind, R, P>(b, w, q + (i + 1) * PER, ldq);
            dot_group<Kind, R, P>(c, w, q + (i + 2) * PER, ldq);
            dot_group<Kind, R, P>(d, w, q + (i + 3) * PER, ldq);
        }
        fold<R, P>(sums, b);
        fold<R, P>(c, d);
        fold<R, P>(sums, c);
    } else if constexpr (U == 2) {
        Dots b[R][P];
        clear<R, P>(b);
        for (; i + 2 <= groups; i += 2) {
            dot_group<Kind, R, P>(sums, w, q + i * PER, ldq);
            dot_group<Kind, R, P>(b, w, q + (i + 1) * PER, ldq);
        }
        fold<R, P>(sums, b);
    }
    if constexpr (KNOWN > 0 && U == 1)
        each<KNOWN, 1>([&](auto g, auto) __attribute__((always_inline)) { dot_group<Kind, R, P>(sums, w, q + g * PER, ldq); });
    else
        for (; i < groups; ++i) dot_group<Kind, R, P>(sums, w, q + i * PER, ldq);
}

template <int R, int P>
void tile_w8a8(const LinearJob &job, int64_t row, int64_t first, float *out) {
    Dots sums[R][P];
    const uint32_t *w[P];
    for (int p = 0; p < P; ++p) {
        w[p] = job.w.panel(first + p);
        __builtin_prefetch(job.w.scales() + (first + p) * LANES, 0, 3);
        __builtin_prefetch(job.w.sums() + (first + p) * LANES, 0, 3);
    }
    clear<R, P>(sums);
    dot_groups<W8A8, R, P>(sums, w, (const int8_t *)job.rows.q + row * job.rows.ldq, job.rows.ldq, (job.w.K + 3) / 4);
    each<R, P>(T5K_ELEMENT {
        const V16 scale = mul(bcast(job.rows.scale[(row + r) * job.rows.lds]), load(job.w.scales() + (first + p) * LANES));
        const V16 v = dots8_to_float(sums[r][p], job.w.sums() + (first + p) * LANES);
        store(out + r * MAX_PANELS * LANES + p * LANES, mul(v, scale));
    });
}

template <int R, int P>
void tile_w8(const LinearJob &job, int64_t row, int64_t first, float *out) {
    const uint32_t *w[P];
    for (int p = 0; p < P; ++p) {
        w[p] = job.w.panel(first + p);
        __builtin_prefetch(job.w.scales() + (first + p) * LANES, 0, 3);
    }
    each<R, P>(T5K_ELEMENT { store(out + r * MAX_PANELS * LANES + p * LANES, zero()); });
    const int16_t *q = (const int16_t *)job.rows.q + row * job.rows.ldq;
    for (int64_t k = 0, block = 0; k < job.w.K; k += ROW_BLOCK, ++block) {
        const int64_t left = (job.w.K - k + 3) / 4, groups = left < ROW_BLOCK / 4 ? left : ROW_BLOCK / 4;
        Dots sums[R][P];
        clear<R, P>(sums);
        dot_groups<W8, R, P>(sums, w, q + k, job.rows.ldq, groups);
        const float *scale = job.rows.scale + row * job.rows.lds + block;
        each<R, P>(T5K_ELEMENT {
            float *acc = out + r * MAX_PANELS * LANES + p * LANES;
            store(acc, fma(dots_to_float(sums[r][p]), bcast(scale[r * job.rows.lds]), load(acc)));
        });
    }
    each<R, P>(T5K_ELEMENT {
        float *acc = out + r * MAX_PANELS * LANES + p * LANES;
        store(acc, mul(load(acc), load(job.w.scales() + (first + p) * LANES)));
    });
}

template <int R, int P>
void tile_w4(const LinearJob &job, int64_t row, int64_t first, float *out) {
    V16 acc[R][P];
    const uint32_t *w[P];
    for (int p = 0; p < P; ++p) w[p] = job.w.panel(first + p);
    each<R, P>(T5K_ELEMENT { acc[r][p] = zero(); });
    const int8_t *q = (const int8_t *)job.rows.q + row * job.rows.ldq;
    for (int64_t k = 0, block = 0; k < job.w.K; k += I4_GROUP, ++block) {
        const int64_t at = row * job.rows.lds + block;
        Dots sums[R][P];
        each<R, P>(T5K_ELEMENT { sums[r][p] = dots_from(-job.rows.offset[at + r * job.rows.lds]); });
        dot_groups<W4, R, P, I4_GROUP / 8>(sums, w, q + k, job.rows.ldq, I4_GROUP / 8);
        V16 scale[P];
        each<1, P>([&](auto, auto p) __attribute__((always_inline)) {
            prefetch(w[p] + AHEAD_INTEGER);
            scale[p] = as_float(shl<16>(load_u16(w[p])));
            w[p] += LANES / 2;
        });
        each<R, P>(T5K_ELEMENT {
            const V16 both = mul(scale[p], bcast(job.rows.scale[at + r * job.rows.lds]));
            acc[r][p] = fma(dots_to_float(sums[r][p]), both, acc[r][p]);
        });
    }
    each<R, P>(T5K_ELEMENT { store(out + r * MAX_PANELS * LANES + p * LANES, acc[r][p]); });
}

}  // namespace
}  // namespace t5k::T5K_NS
