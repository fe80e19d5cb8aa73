// Tiles of linear for fp32 and bf16 weights: R rows times P panels, one chain of fused multiply-adds per output: over k in fp32,
// over pairs of k in bf16, of each the second first.
// Included by linear.cpp.
#pragma once

#include "cpu/vec.h"
#include "ops/dots.inl"
#include "ops/linear.h"
#include "ops/tile.inl"

namespace t5k::T5K_NS {
namespace {

// Each kind names: the k of a 64-byte group of weights; the values of a row that meet one, which are as many steps; the weights
// of a step; and what a step adds. FLUSHES: denormals count as zero, as in the bf16 dot product where it is an instruction.
struct F32 {
    using Value = float;
    using Weights = V16;
    static constexpr int PER = 1, STEPS = 1;
    static constexpr bool FLUSHES = false;
    template <int>
    T5K_INLINE V16 weights(I16 g) {
        return as_float(g);
    }
    T5K_INLINE V16 spread(float x) { return bcast(x); }
    T5K_INLINE V16 added(V16 acc, V16 w, V16 x) { return fma(x, w, acc); }
};
struct Bf16Floats {
    using Value = float;
    using Weights = V16;
    static constexpr int PER = 2, STEPS = 2;
    static constexpr bool FLUSHES = true;
    template <int j>
    T5K_INLINE V16 weights(I16 g) {
        if constexpr (j == 0) return as_float(andi(g, bcasti((int32_t)0xffff0000)));
        return as_float(shl<16>(g));
    }
    T5K_INLINE V16 spread(float x) { return bcast(x); }
    T5K_INLINE V16 added(V16 acc, V16 w, V16 x) { return fma(x, w, acc); }
};
// bf16 panels that `widen` has written as fp32, the k in the order of Bf16Floats.
struct Bf16Widened : F32 {
    static constexpr bool FLUSHES = true;
};
#if defined(T5K_ISA_AVX512)
struct Bf16Pairs {
    using Value = int32_t;  // two bf16
    using Weights = I16;
    static constexpr int PER = 2, STEPS = 1;
    static constexpr bool FLUSHES = false;
    template <int>
    T5K_INLINE I16 weights(I16 g) {
        return g;
    }
    T5K_INLINE I16 spread(int32_t x) { return bcasti(x); }
    T5K_INLINE V16 added(V16 acc, I16 w, I16 x) { return dot_bf16(acc, w, x); }
};
#endif

// acc[r][p] += row r's values x group_p, step by step.
template <class F, int R, int P, int j>
T5K_INLINE void steps(V16 (&acc)[R][P], const I16 (&g)[P], const typename F::Value *x, int64_t ldx) {
    if constexpr (j < F::STEPS) {
        typename F::Weights w[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) w[p] = F::template weights<j>(g[p]);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const auto a = F::spread(x[r * ldx + j]);
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) acc[r][p] = F::added(acc[r][p], w[p], a);
        }
        steps<F, R, P, j + 1>(acc, g, x, ldx);
    }
}

// Groups [begin, end) of each panel; `ahead` is where to prefetch, in dwords from the group that is read.
template <class F, int R, int P>
T5K_INLINE void chain(V16 (&acc)[R][P], const uint32_t *const (&w)[P], const typename F::Value *x, int64_t ldx, int64_t begin,
                      int64_t end, int64_t ahead) {
    for (int64_t i = begin; i < end; ++i) {
        I16 g[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            prefetch(w[p] + i * LANES + ahead);
            g[p] = loadi(w[p] + i * LANES);
        }
        steps<F, R, P, 0>(acc, g, x + i * F::STEPS, ldx);
    }
}

// out[r][16 p + lane], row stride MAX_PANELS * 16: the accumulated tile of panels first .. first + P. ldx: of x, in its values.
template <class F, int R, int P>
void tile(const LinearJob &job, const typename F::Value *x, int64_t ldx, int64_t first, float *out) {
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
    chain<F, R, P>(acc, w, x, ldx, 0, near, AHEAD);
    chain<F, R, P>(acc, w, x, ldx, near, groups, AHEAD + (P - 1) * groups * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) store(out + r * MAX_PANELS * LANES + p * LANES, acc[r][p]);
}

template <class F, int R, int P>
void tile_floats(const LinearJob &job, int64_t row, int64_t first, float *out) {
    if constexpr (F::FLUSHES) {
        const uint32_t before = flush_denormals();
        tile<F, R, P>(job, (const float *)job.rows.q + row * job.rows.ldq, job.rows.ldq, first, out);
        restore_denormals(before);
    } else if constexpr (F::PER == 2) {
        tile<F, R, P>(job, (const int32_t *)job.rows.q + row * job.rows.ldq / 2, job.rows.ldq / 2, first, out);
    } else {
        tile<F, R, P>(job, job.x + row * job.ldx, job.ldx, first, out);
    }
}

#if defined(T5K_ISA_AVX512)
// bf16 in the order of AMX's tiles (linear.h), rows in ROWS_BF16_AMX: for few rows, where this waits less for memory than tiles do.
template <int R, int P>
void tile_bf16_amx(const LinearJob &job, int64_t row, int64_t first, float *out) {
    constexpr int64_t TILE_GROUPS = 16;
    const int32_t *x = (const int32_t *)job.rows.q + row * job.rows.ldq / 2;
    const int64_t ldx = job.rows.ldq / 2, groups = (job.w.K + 1) / 2;
    const uint32_t before = flush_denormals();
    V16 acc[R][P];
    const uint32_t *w[P];
    for (int p = 0; p < P; ++p) w[p] = job.w.panel(first + p);
    each<R, P>(T5K_ELEMENT { acc[r][p] = zero(); });
    for (int64_t g = 0; g < groups; g += TILE_GROUPS) {
        const int64_t count = groups - g < TILE_GROUPS ? groups - g : TILE_GROUPS;
        V16 even[R][P], odd[R][P];
        each<R, P>(T5K_ELEMENT { even[r][p] = odd[r][p] = zero(); });
        for (int64_t i = g; i < g + count; ++i) {
            V16 low[P], high[P];
            each<1, P>([&](auto, auto p) __attribute__((always_inline)) {
                prefetch(w[p] + i * LANES + AHEAD);
                const I16 both = loadi(w[p] + i * LANES);
                low[p] = Bf16Floats::weights<1>(both);
                high[p] = Bf16Floats::weights<0>(both);
            });
            each<R, P>(T5K_ELEMENT {
                const I16 both = bcasti(x[r * ldx + i]);
                even[r][p] = fma(Bf16Floats::weights<1>(both), low[p], even[r][p]);
                odd[r][p] = fma(Bf16Floats::weights<0>(both), high[p], odd[r][p]);
            });
        }
        // A tile's missing groups are zeros, which make -0 a 0.
        const V16 rest = zero();
        if (count < TILE_GROUPS) each<R, P>(T5K_ELEMENT { even[r][p] = add(even[r][p], rest), odd[r][p] = add(odd[r][p], rest); });
        each<R, P>(T5K_ELEMENT { acc[r][p] = add(acc[r][p], add(even[r][p], odd[r][p])); });
    }
    each<R, P>(T5K_ELEMENT { store(out + r * MAX_PANELS * LANES + p * LANES, acc[r][p]); });
    restore_denormals(before);
}
#endif

// Panels [begin, end) of bf16 as fp32 panels of round_up(K, 2) inputs.
T5K_INLINE void widen(const Panels &w, int64_t begin, int64_t end, float *out) {
    const int64_t groups = (w.K + 1) / 2;
    for (int64_t p = begin; p < end; ++p) {
        const uint32_t *panel = w.panel(p);
        for (int64_t i = 0; i < groups; ++i, out += 2 * LANES) {
            prefetch(panel + i * LANES + AHEAD);
            const I16 g = loadi(panel + i * LANES);
            store(out, Bf16Floats::weights<0>(g));
            store(out + LANES, Bf16Floats::weights<1>(g));
        }
    }
}

}  // namespace
}  // namespace t5k::T5K_NS
