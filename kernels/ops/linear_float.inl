// Tiles of linear for fp32 and bf16 weights: R rows times P panels, one chain of fused multiply-adds over k per output.
// Included by linear.cpp.
#pragma once

#include "cpu/vec.h"
#include "ops/linear.h"
#include "ops/tile.inl"

namespace t5k::T5K_NS {
namespace {

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

template <int R, int P>
void tile_floats(const LinearJob &job, int64_t row, int64_t first, float *out) {
    const float *x = job.x + row * job.ldx;
    if (job.w.format == FORMAT_BF16) return tile<Bf16, R, P>(job, x, first, out);
    return tile<F32, R, P>(job, x, first, out);
}

}  // namespace
}  // namespace t5k::T5K_NS
