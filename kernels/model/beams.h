// Beam search of one request, by Hugging Face's rules to the letter.
//
// Source: transformers 5.23 GenerationMixin._beam_search. A hypothesis scores sum(log p) / length^length_penalty, where
// length counts generated ids and the eos. Each step looks at max(2, 1 + eos count) * beams candidates; only the first
// `beams` of them may finish; early_stopping True / False / never decide when better ones are out of reach.
#pragma once

#include <vector>

#include "device/steps.h"
#include "model/processors.h"

namespace t5k {

class Beams {
   public:
    Beams(const t5k_config &config, const Params &params);

    struct Hypothesis {
        Ids ids;  // start id first
        float score;
        bool is_finished;
    };

    // log_probs[b] is beam b's processed row [vocab] of log-probabilities. Afterwards `parents()[b]` is the beam whose
    // cache the new beam b continues. Returns true when the search is over.
    bool advance(const std::vector<const float *> &log_probs);

    // The same from the `wanted()` best (beam, token) pairs, best first, where a device has found them.
    bool advance(const std::vector<BeamCandidate> &best);
    int64_t wanted() const { return wanted_; }
    std::vector<float> scores() const;

    int64_t beams() const { return static_cast<int64_t>(running_.size()); }
    const Ids &ids(int64_t beam) const { return running_[static_cast<size_t>(beam)].ids; }
    const std::vector<int32_t> &parents() const { return parents_; }
    const std::vector<Hypothesis> &best() const { return finished_; }

   private:
    using Candidate = BeamCandidate;

    bool move_on();
    void collect(const std::vector<const float *> &log_probs);
    void keep_running(const std::vector<char> &stops);
    void keep_finished(const std::vector<char> &stops);
    bool is_over(const std::vector<char> &stops);
    float by_length(float score, int64_t length) const;
    Ids extended(const Candidate &c) const;

    const t5k_config &config_;
    const Params &params_;
    std::vector<Hypothesis> running_, finished_;
    std::vector<Candidate> candidates_;
    std::vector<int32_t> parents_;
    std::vector<Hypothesis> next_;
    int64_t wanted_;        // candidates per step
    int64_t generated_ = 0;  // ids generated so far
    bool can_improve_ = true;
};

}  // namespace t5k
