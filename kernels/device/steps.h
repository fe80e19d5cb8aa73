// Decode steps that a device runs by itself: it chooses the tokens, feeds them back and ends rows, and the host reads them
// one step later. The model issues a step once per shape; the device may record and repeat it.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/beams.h"
#include "ops/step.h"

namespace t5k {

// What a device must know of one decode row.
struct StepRow {
    bool is_padding = false;        // fills the batch: computed, changes nothing
    bool is_beam = false;           // the host moves it, by binding the rows again
    const std::vector<int32_t> *ids = nullptr;  // decoder ids so far, the start id first; the last one is fed next
    const std::vector<std::vector<int32_t>> *bad_words = nullptr;
    int32_t max_new_tokens = 0, min_new_tokens = 0, ngram = 0;
    bool ends_at_eos = true, is_sampled = false, wants_logprob = false;
    float repetition_penalty = 1.0f, temperature = 1.0f, top_p = 1.0f;
    int32_t top_k = 0;
    uint64_t seed = 0;
};

// Two steps of one shape are the same work on other data.
struct StepShape {
    int32_t rows = 0;
    int64_t source = 0, target = 0;  // keys of the longest row, at most
    bool needs_scores = false;       // false: every row takes the argmax of its logits
    bool needs_normalizers = false;
    std::vector<int32_t> groups;     // rows that share a source, where any do: 1, 3, 1, ...

    bool operator<(const StepShape &o) const {
        const auto key = [](const StepShape &s) { return s.needs_scores * 2 + s.needs_normalizers; };
        if (rows != o.rows) return rows < o.rows;
        if (source != o.source) return source < o.source;
        if (target != o.target) return target < o.target;
        if (key(*this) != key(o)) return key(*this) < key(o);
        return groups < o.groups;
    }
};

// Rows a batch of n is padded to: 1, 2, 4, then multiples of 8.
inline int64_t row_bucket(int64_t n) { return n <= 2 ? n : n <= 4 ? 4 : (n + 7) / 8 * 8; }

}  // namespace t5k
