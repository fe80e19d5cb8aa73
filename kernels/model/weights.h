// The model's matrices as the caller handed them over: borrowed panels per layer and rank, shapes checked once.
#pragma once

#include <cstdint>
#include <vector>

#include "device/status.h"
#include "include/t5k.h"
#include "ops/linear.h"

namespace t5k {

// One matrix, cut over the ranks.
using Sharded = std::vector<Panels>;

struct LayerWeights {
    const float *norm_att = nullptr;
    const float *norm_cross = nullptr;
    const float *norm_ff = nullptr;
    Sharded qkv, out, cross_q, cross_kv, cross_out, ff_in, ff_out;
    std::vector<const float *> bias;  // per rank [H / tp, 2 W + 32]
    float hidden_scale = 1.0f;        // a power of two: ff hidden is stored times this
};

struct StackWeights {
    std::vector<LayerWeights> layers;
    const float *norm_final = nullptr;
};

struct Weights {
    const void *embed = nullptr;
    int embed_format = FORMAT_F32;
    StackWeights encoder, decoder;
    Sharded head;
    Sharded screen;                           // optional int8 copy of the head; all shards or none
    std::vector<const float *> screen_norms;  // per rank
};

// Sorts the tensors into layers; refuses a missing, repeated, misshapen or misaligned one by name.
Status bind_weights(const t5k_config &config, const t5k_tensor *tensors, int32_t count, Weights *out);

// Whether each rank has a part of it (also a part that is the whole: one rank), rather than all ranks the same.
bool is_cut(int role);

// Sets every layer's hidden_scale so that no input can make the stored ff hidden exceed `largest` (model/hidden_scale.cpp).
void scale_hidden(const t5k_config &config, float largest, Weights *weights);

// Checks every number of the config against the limits the kernels rely on.
Status check_config(const t5k_config &config);

}  // namespace t5k
