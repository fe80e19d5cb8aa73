#include "ops/linear.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"
#include "ops/activation.inl"
#include "ops/dots.inl"

namespace t5k::T5K_NS {
namespace {

constexpr int MAX_ROWS = 12;
constexpr int MAX_PANELS = 4;

// Prefetch distance in dwords, across page ends, where the hardware prefetcher stops: 1 KB ahead of a stream of floats; the
// integer tiles spend a quarter of the time on a line and need 4 KB (measured: 4 to 12 % at one row, nothing for floats).
constexpr int64_t AHEAD = 256;
constexpr int64_t AHEAD_INTEGER = 1024;

T5K_INLINE void prefetch(const uint32_t *p) { __builtin_prefetch(p, 0, 3); }

// Each format names: K per 64-byte group, and value<j>(group) -> 16 floats of k + j.
struct F32 {
    static constexpr int PER = 1;
    template <int>
    T5K_INLINE V16 value(I16 g) {
        return as_float(g);
    }
};
struct Bf16 {
    static constexpr int PER = 2;
    template <int j>
    T5K_INLINE V16 value(I16 g) {
        if constexpr (j == 0) return as_float(shl<16>(g));
        return as_float(andi(g, bcasti((int32_t)0xffff0000)));
    }
};
// acc[r][p] += x[r][k0 + j] * group_p[j] for j = 0..PER-1, in k order.
template <class F, int R, int P, int j>
T5K_INLINE void steps(V16 (&acc)[R][P], const I16 (&g)[P], const float *x, int64_t ldx) {
    if constexpr (j < F::PER) {
        V16 w[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) w[p] = F::template value<j>(g[p]);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const V16 a = bcast(x[r * ldx + j]);
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) acc[r][p] = fma(a, w[p], acc[r][p]);
        }
        steps<F, R, P, j + 1>(acc, g, x, ldx);
    }
}

// Groups [begin, end) of each panel; `ahead` is where to prefetch, in dwords from the group that is read.
template <class F, int R, int P>
T5K_INLINE void chain(V16 (&acc)[R][P], const uint32_t *const (&w)[P], const float *x, int64_t ldx, int64_t begin,
                      int64_t end, int64_t ahead) {
    for (int64_t i = begin; i < end; ++i) {
        I16 g[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            prefetch(w[p] + i * LANES + ahead);
            g[p] = loadi(w[p] + i * LANES);
        }
        steps<F, R, P, 0>(acc, g, x + i * F::PER, ldx);
    }
}

// out[r][16 p + lane], row stride MAX_PANELS * 16: the accumulated tile of panels first .. first + P.
template <class F, int R, int P>
void tile(const LinearJob &job, const float *x, int64_t first, float *out) {
    V16 acc[R][P];
    const uint32_t *w[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) w[p] = job.w.panel(first + p);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = zero();
    // Near the end of its panel a stream goes on in the panel P further, which is where the next tile reads.
    const int64_t groups = (job.w.K + F::PER - 1) / F::PER, near = groups < AHEAD / LANES ? 0 : groups - AHEAD / LANES;
    chain<F, R, P>(acc, w, x, job.ldx, 0, near, AHEAD);
    chain<F, R, P>(acc, w, x, job.ldx, near, groups, AHEAD + (P - 1) * groups * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) store(out + r * MAX_PANELS * LANES + p * LANES, acc[r][p]);
}

// ---- integer tiles ----------------------------------------------------------------------------------------------------

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

// ---- dispatch over rows, panels and formats -------------------------------------------------------------------------

template <int R, int P>
void tile_any(const LinearJob &job, int64_t row, int64_t first, float *out) {
    const float *x = job.x + row * job.ldx;
    switch (job.w.format) {
        case FORMAT_BF16: return tile<Bf16, R, P>(job, x, first, out);
        case FORMAT_I8:
            return job.quantize_rows ? tile_w8a8<R, P>(job, row, first, out) : tile_w8<R, P>(job, row, first, out);
        case FORMAT_I4: return tile_w4<R, P>(job, row, first, out);
        default: return tile<F32, R, P>(job, x, first, out);
    }
}

#if defined(T5K_ISA_AVX512)
// Thirty-two registers: 12 x 2 tiles (w8a8), 8 x 2 where groups are unpacked (w8), 12 x 1 where a second set of sums is kept (i4).
// Integers of up to eight rows wait for memory and take one panel at a time, which is one stream (two by two at eight rows:
// a decode step 1.2x slower). Floats of up to four rows take four panels, which keeps at least four chains for R = 1.
// Floats of more rows: 8 x 2, whose inputs L1 holds (12 x 2: 97 of 115 GFLOP/s at K = 2048 where 8 x 2 gives 113).
constexpr int WIDE_ROWS = 12, FEW_ROWS = 8;
constexpr int64_t GROUP_BYTES = 448 << 10;  // of a 1 MiB L2
// The rows of a tile of up to two panels, of at most `rows`.
int tile_height(int rows, RowRounding rounding) {
    if (rows >= 12 && (rounding == ROWS_W8A8 || rounding == ROWS_W4)) return 12;
    if (rows >= 8) return 8;
    return rows == 7 ? 6 : rows == 3 ? 2 : rows;
}
int panels_for(int rows, RowRounding rounding) {
    if (rounding == ROWS_W4) return 1;
    if (rounding == ROWS_PLAIN) return rows <= 4 ? 4 : 2;
    return rows <= 8 ? 1 : 2;
}
int tile_rows(const LinearJob &job, int64_t row, int rows, int64_t first, int panels, float *out) {
    if (panels == 4) switch (rows) {
            case 1: return tile_any<1, 4>(job, row, first, out), 1;
            case 2: return tile_any<2, 4>(job, row, first, out), 2;
            case 3: return tile_any<3, 4>(job, row, first, out), 3;
            default: return tile_any<4, 4>(job, row, first, out), 4;
        }
    if (panels == 2) {
        const RowRounding rounding = rounding_of(job);
        if (rows >= 12 && rounding != ROWS_W8) return tile_any<12, 2>(job, row, first, out), 12;
        if (rows >= 8) return tile_any<8, 2>(job, row, first, out), 8;
        if (rows >= 6) return tile_any<6, 2>(job, row, first, out), 6;
        if (rows == 5) return tile_any<5, 2>(job, row, first, out), 5;
        if (rows == 4) return tile_any<4, 2>(job, row, first, out), 4;
        if (rows >= 2) return tile_any<2, 2>(job, row, first, out), 2;
        return tile_any<1, 2>(job, row, first, out), 1;
    }
    if (rows >= 12) return tile_any<12, 1>(job, row, first, out), 12;
    if (rows >= 8) return tile_any<8, 1>(job, row, first, out), 8;
    if (rows == 7) return tile_any<7, 1>(job, row, first, out), 7;
    if (rows == 6) return tile_any<6, 1>(job, row, first, out), 6;
    if (rows == 5) return tile_any<5, 1>(job, row, first, out), 5;
    if (rows == 3) return tile_any<3, 1>(job, row, first, out), 3;
    if (rows == 2) return tile_any<2, 1>(job, row, first, out), 2;
    if (rows >= 4) return tile_any<4, 1>(job, row, first, out), 4;
    return tile_any<1, 1>(job, row, first, out), 1;
}
#else
// Sixteen registers of eight lanes: 6 x 1 tiles (12 accumulators), R = 1 over four panels, 2 and 3 over two.
constexpr int WIDE_ROWS = 6, FEW_ROWS = 6;
constexpr int64_t GROUP_BYTES = 224 << 10;  // of a 512 KiB L2
int tile_height(int rows, RowRounding) { return rows; }
int panels_for(int rows, RowRounding rounding) { return rounding != ROWS_PLAIN ? 1 : rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
int tile_rows(const LinearJob &job, int64_t row, int rows, int64_t first, int panels, float *out) {
    if (panels == 4) return tile_any<1, 4>(job, row, first, out), 1;
    if (panels == 2) switch (rows) {
            case 1: return tile_any<1, 2>(job, row, first, out), 1;
            case 2: return tile_any<2, 2>(job, row, first, out), 2;
            default: return tile_any<3, 2>(job, row, first, out), 3;
        }
    switch (rows) {
        case 1: return tile_any<1, 1>(job, row, first, out), 1;
        case 2: return tile_any<2, 1>(job, row, first, out), 2;
        case 3: return tile_any<3, 1>(job, row, first, out), 3;
        case 4: return tile_any<4, 1>(job, row, first, out), 4;
        case 5: return tile_any<5, 1>(job, row, first, out), 5;
        default: return tile_any<6, 1>(job, row, first, out), 6;
    }
}
#endif
static_assert(WIDE_ROWS <= MAX_ROWS, "the tile on the stack holds MAX_ROWS rows");

// ---- epilogues ------------------------------------------------------------------------------------------------------

// Writes the first `columns` lanes of v.
T5K_INLINE void store_first(float *y, V16 v, int64_t columns) {
    if (columns >= LANES) return store(y, v);
    float lanes[LANES];
    store(lanes, v);
    for (int64_t i = 0; i < columns; ++i) y[i] = lanes[i];
}

T5K_INLINE V16 load_first(const float *y, int64_t columns) {
    if (columns >= LANES) return load(y);
    float lanes[LANES] = {};
    for (int64_t i = 0; i < columns; ++i) lanes[i] = y[i];
    return load(lanes);
}

void best_of(const float *acc, int64_t column, int64_t columns, Best *best) {
    if (columns == LANES && !any_above(load(acc), best->value)) return;
    for (int64_t i = 0; i < columns; ++i)
        if (acc[i] > best->value) *best = {acc[i], (int32_t)(column + i)};
}

void finish_row(const LinearJob &job, int64_t row, int64_t first, int panels, const float *acc, Best *best) {
    float *y = job.y + row * job.ldy;
    if (job.epilogue == EPILOGUE_GATED) {
        for (int p = 0; p < panels; p += 2) {
            const int64_t column = (first + p) / 2 * LANES;
            const V16 v = mul(activate(load(acc + p * LANES), job.act), load(acc + (p + 1) * LANES));
            store_first(y + column, v, job.columns - column);
        }
        return;
    }
    for (int p = 0; p < panels; ++p) {
        const int64_t column = (first + p) * LANES, left = job.columns - column, columns = left < LANES ? left : LANES;
        const V16 v = load(acc + p * LANES);
        switch (job.epilogue) {
            case EPILOGUE_ADD: store_first(y + column, add(load_first(y + column, columns), v), columns); break;
            case EPILOGUE_ACT: store_first(y + column, activate(v, job.act), columns); break;
            case EPILOGUE_ARGMAX: best_of(acc + p * LANES, job.first_column + column, columns, best + row); break;
            default: store_first(y + column, v, columns);
        }
    }
}

// The lines that finish_row will write, so that they are near when the tile is done.
T5K_INLINE void prefetch_outputs(const LinearJob &job, int64_t row, int rows, int64_t first, int panels) {
    if (job.epilogue == EPILOGUE_ARGMAX) return;
    const bool is_gated = job.epilogue == EPILOGUE_GATED;
    const int64_t column = (is_gated ? first / 2 : first) * LANES;
    for (int i = 0; i < rows; ++i)
        for (int p = 0; p < (is_gated ? panels / 2 : panels); ++p)
            __builtin_prefetch(job.y + (row + i) * job.ldy + column + p * LANES, 1, 3);
}

// Panels [begin, end) for few rows: one panel, or as many as a tile is wide, after the other.
void few_rows(const LinearJob &job, int64_t begin, int64_t end, Best *best) {
    alignas(64) float acc[MAX_ROWS * MAX_PANELS * LANES];
    const RowRounding rounding = rounding_of(job);
    int want = panels_for((int)job.R, rounding);
    if (job.epilogue == EPILOGUE_GATED && want < 2) want = 2;
    for (int64_t first = begin; first < end;) {
        int panels = want;
        while (panels > end - first) panels /= 2;
        for (int64_t r = 0; r < job.R;) {
            const int rows = (int)(job.R - r);
            int done = rows;
            prefetch_outputs(job, r, rows, first, panels);
            // A pair of panels for a gated epilogue may be wider than this ISA's tile: compute it in two passes.
            const int step = panels_for(rows, rounding) < panels && panels == 2 ? 1 : panels;
            for (int p = 0; p < panels; p += step) done = tile_rows(job, r, rows, first + p, step, acc + p * LANES);
            for (int i = 0; i < done; ++i)
                finish_row(job, r + i, first, panels, acc + i * MAX_PANELS * LANES, best);
            r += done;
        }
        first += panels;
    }
}

// Panels [begin, end), which stay in L2, for many rows: a tile's rows stay in L1 while it passes over the panels.
void many_rows(const LinearJob &job, int64_t begin, int64_t end, Best *best) {
    alignas(64) float acc[MAX_ROWS * MAX_PANELS * LANES];
    const RowRounding rounding = rounding_of(job);
    for (int64_t r = 0; r < job.R;) {
        const int rows = tile_height(job.R - r < WIDE_ROWS ? (int)(job.R - r) : WIDE_ROWS, rounding);
        const int wide = panels_for(rows, rounding);
        for (int64_t first = begin; first < end; first += 2) {
            const int panels = end - first < 2 ? 1 : 2;
            prefetch_outputs(job, r, rows, first, panels);
            const int step = wide < panels ? 1 : panels;
            for (int p = 0; p < panels; p += step) tile_rows(job, r, rows, first + p, step, acc + p * LANES);
            for (int i = 0; i < rows; ++i)
                finish_row(job, r + i, first, panels, acc + i * MAX_PANELS * LANES, best);
        }
        r += rows;
    }
}

}  // namespace

// Computes panels [begin, end) of one job for all its rows. Gated jobs get even bounds. best: [R], ARGMAX only.
void linear_panels(const LinearJob &job, int64_t begin, int64_t end, Best *best) {
    if (job.R <= FEW_ROWS) return few_rows(job, begin, end, best);
    const int64_t fit = GROUP_BYTES / (panel_dwords(job.w.format, job.w.K) * 4) / 2 * 2, group = fit < 2 ? 2 : fit;
    for (int64_t first = begin; first < end; first += group)
        many_rows(job, first, end - first < group ? end : first + group, best);
}

}  // namespace t5k::T5K_NS
