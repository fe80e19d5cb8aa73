// process_scores, advance: what happens between the logits of one decode step and the input of the next, without the host.
// Contracts in ops/step.h.
#include "ops/step.h"

#include "cuda/kernel/compiler.cuh"

namespace t5k::cuda {

T5K_DEVICE bool is_mine(int id) { return (u32)id % blockDim.x == threadIdx.x; }

T5K_DEVICE bool is_equal(const int *a, const int *b, int n) {
    for (int i = 0; i < n; ++i)
        if (a[i] != b[i]) return false;
    return true;
}

T5K_DEVICE bool is_eos(const StepState &state, int id) {
    for (int i = 0; i < state.eos_count; ++i)
        if (state.eos[i] == id) return true;
    return false;
}

// ids [length]: the row's own. Every thread walks all rules and acts on the ids it owns: no barrier, no atomics.
T5K_DEVICE void apply_rules(const StepState &state, const RowRules &row, const int *ids, int length, float *y) {
    const float never = float_of_bits(0xff800000u);  // -inf
    for (int i = 0; row.penalty != 1.0f && i < length; ++i) {
        if (!is_mine(ids[i])) continue;
        bool is_first = true;
        for (int j = 0; j < i && is_first; ++j) is_first = ids[j] != ids[i];
        if (is_first) y[ids[i]] = y[ids[i]] < 0.0f ? y[ids[i]] * row.penalty : y[ids[i]] / row.penalty;
    }
    for (int i = 0; row.ngram > 0 && i + row.ngram <= length; ++i) {
        const int end = ids[i + row.ngram - 1];
        if (is_mine(end) && is_equal(ids + i, ids + length - (row.ngram - 1), row.ngram - 1)) y[end] = never;
    }
    for (int w = row.first_word; w < row.first_word + row.words; ++w) {
        const int *word = state.words + state.word_at[w];
        const int prefix = state.word_at[w + 1] - state.word_at[w] - 1, end = word[prefix];
        if (prefix > length || !is_mine(end) || (prefix == 0 && row.ends_at_eos && is_eos(state, end))) continue;
        if (is_equal(word, ids + length - prefix, prefix)) y[end] = never;
    }
    for (int i = 0; length - 1 < row.min_new && i < state.eos_count; ++i)
        if (is_mine(state.eos[i])) y[state.eos[i]] = never;
}

T5K_DEVICE void process(const ProcessJob &job) {
    const int r = blockIdx.x, length = job.state.position[r] + 1;
    const RowRules row = job.state.rows[r];
    if (length < 1) return;
    const float *x = job.x + r * job.ldx;  // [V]
    float *y = job.y + r * job.ldy;        // [V]
    const float normalizer = row.is_beam ? job.normalizer[r] : 0.0f;
    for (int v = threadIdx.x; v < job.V; v += blockDim.x) y[v] = x[v] - normalizer;
    apply_rules(job.state, row, job.state.history + r * job.state.capacity, length, y);
}

T5K_DEVICE bool is_finite(float v) { return (bits_of_float(v) & 0x7f800000u) != 0x7f800000u; }

T5K_DEVICE void take(const AdvanceJob &job) {
    const StepState &state = job.state;
    const int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= state.R) return;
    const RowRules row = state.rows[r];
    job.chosen[r] = Chosen{-1, 0.0f};
    if (row.is_beam || state.done[r]) return;
    int token = state.sample[r].is_off ? job.best[r].index : job.drawn[r];
    const bool is_lost = token < 0 || token >= job.V;  // nothing was finite
    if (is_lost) token = 0;
    const float logit = is_lost ? float_of_bits(0x7fc00000u) : job.x ? job.x[r * job.ldx + token] : job.best[r].value;
    const float said = !is_finite(logit) ? float_of_bits(0x7fc00000u) : row.wants_logprob ? logit - job.normalizer[r] : 0.0f;
    const int position = state.position[r] + 1;
    state.history[r * state.capacity + position] = token;
    state.position[r] = position;
    state.token[r] = token;
    state.sample[r].step += 1;
    if (position >= row.last || (row.ends_at_eos && is_eos(state, token))) state.done[r] = 1;
    job.chosen[r] = Chosen{token, said};
}

T5K_KERNEL(process_scores, 256, ProcessJob, process)
T5K_KERNEL(advance, 64, AdvanceJob, take)

}  // namespace t5k::cuda
