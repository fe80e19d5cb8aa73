// What happens to one row of scores before a token is chosen: Hugging Face's logits processors, in its order.
//
//   repetition penalty, no-repeat n-gram, bad words, min new tokens; with do_sample: temperature, top-k, top-p
//
// Source: transformers 5.23 generation/utils.py _get_logits_processor and logits_process.py. The history holds the
// decoder's start id first, and the penalties see it, as there.
#pragma once

#include <cstdint>
#include <vector>

#include "device/status.h"
#include "include/t5k.h"

namespace t5k {

using Ids = std::vector<int32_t>;

// An owned, checked copy of t5k_params.
struct Params {
    t5k_params raw{};
    std::vector<Ids> bad_words, stop_sequences;

    bool is_eos(const t5k_config &config, int32_t token) const;
    // True if the next token is the argmax of the logits unless a ban forbids that token.
    bool is_greedy() const;
};

Status read_params(const t5k_config &config, const t5k_params &raw, Params *out);

// history = start id, then the generated ids; scores [vocab] in place. Uses `scratch` for sorting.
void process_scores(const t5k_config &config, const Params &params, const Ids &history, float *scores,
                    std::vector<float> &scratch);

// True if process_scores would rule `token` out. For greedy parameters the argmax of the scores is then another token; else
// it is the argmax of the logits.
bool is_forbidden(const t5k_config &config, const Params &params, const Ids &history, int32_t token);

// A token drawn from softmax(scores): inverse distribution function over ids, with the n-th number of this seed. Depends on
// nothing but its arguments, so a request draws the same tokens whatever runs beside it.
int32_t draw(const float *scores, int64_t vocab, uint64_t seed, uint64_t n);

// True if `history` ends in one of the stop sequences (generated ids only).
bool hits_stop_sequence(const Params &params, const Ids &history);

}  // namespace t5k
