// Why fp16 cannot overflow in the feed-forward layer: its hidden values are stored times a power of two, chosen from the
// weights when they are bound, and the output projection's epilogue undoes it. Powers of two are exact.
//
// The normed row n = g * u has |u| <= sqrt(E) (the norm divides by the root of the mean square), so a column a of wi has
// |n . a| <= sqrt(E) |g * a| (Cauchy-Schwarz), for every input. No activation exceeds its argument, so
//
//   hidden <= sqrt(E) |g * a|            gated: hidden <= E |g * a_0| |g * a_1|
//
// t5-base reaches 66,246 behind wo and flan-t5-xl about 120,000 (transformers#5651, fastertransformer_backend#95): those sums
// go straight into the fp32 residual. What is stored in 16 bits besides is bounded by the norm.

#include <algorithm>
#include <cmath>

#include "model/weights.h"
#include "ops/f16.h"

namespace t5k {
namespace {

constexpr double ROUNDING = 1.01;  // of the stored row (2^-11) and of fp32 sums over K <= 2^17

// Norms of the 16 columns of one fp16 panel, each input times the norm's weight.
void column_norms(const Panels &w, int64_t panel, const float *gain, double *norms) {
    double squares[LANES] = {};
    const uint32_t *dwords = w.panel(panel);
    for (int64_t k = 0; k < w.K; ++k)
        for (int64_t lane = 0; lane < LANES; ++lane) {
            const float v = float_of_f16(static_cast<uint16_t>(dwords[k / 2 * LANES + lane] >> 16 * (k % 2))) * gain[k];
            squares[lane] += static_cast<double>(v) * v;
        }
    for (int64_t lane = 0; lane < LANES; ++lane) norms[lane] = std::sqrt(squares[lane]);
}

double bound_of(const Panels &w, const float *gain, bool is_gated) {
    double most = 0.0, norms[2 * LANES];
    const double root = std::sqrt(static_cast<double>(w.K));
    const int64_t step = is_gated ? 2 : 1;
    for (int64_t panel = 0; panel < panel_count(w.N); panel += step) {
        for (int64_t i = 0; i < step; ++i) column_norms(w, panel + i, gain, norms + i * LANES);
        for (int64_t lane = 0; lane < LANES; ++lane)
            most = std::max(most, root * norms[lane] * (is_gated ? root * norms[LANES + lane] : 1.0));
    }
    return most * ROUNDING;
}

}  // namespace

void scale_hidden(const t5k_config &config, float largest, Weights *weights) {
    if (config.activations != T5K_F16) return;
    for (StackWeights *stack : {&weights->encoder, &weights->decoder})
        for (LayerWeights &layer : stack->layers) {
            double bound = 0.0;
            for (const Panels &shard : layer.ff_in) bound = std::max(bound, bound_of(shard, layer.norm_ff, config.is_gated));
            int halvings = 0;
            while (std::ldexp(bound, -halvings) > largest && halvings < 120) ++halvings;
            layer.hidden_scale = static_cast<float>(std::ldexp(1.0, -halvings));
        }
}

}  // namespace t5k
