// process_scores, advance: what happens on a GPU between the logits of one decode step and the input of the next, without the host.
#pragma once

#include "ops/linear.h"
#include "ops/sample.h"

namespace t5k {

// The rules of one row of a decode batch.
struct RowRules {
    float penalty;                    // repetition penalty, 1: off
    int32_t ngram, min_new;           // no_repeat_ngram_size (0: off), min_new_tokens
    int32_t last;                     // position of the last token it may have
    int32_t first_word, words;        // its bad words: lists [first_word, first_word + words) of StepState::word_at
    int32_t is_beam;                  // scores are log-probabilities, and the host moves it
    int32_t wants_logprob, ends_at_eos;
};

// A decode batch that goes on without the host: its rules, and its state, which `advance` moves from step to step.
struct StepState {
    const RowRules *rows;
    const int32_t *words, *word_at;       // list i is words[word_at[i] .. word_at[i + 1])
    const int32_t *eos;
    int32_t *history;                     // [rows, capacity]: decoder ids, the start id first
    int32_t *token, *position, *done;     // token: at history[position], fed next. position -1: the row only pads the batch
    SampleRow *sample;
    int64_t capacity;
    int32_t eos_count, R;
};

// process_scores: y[r] = x[r] (a beam's: x[r] - normalizer[r]) after repetition penalty, no-repeat n-gram, bad words and min
//   new tokens, in Hugging Face's order. Grid (R), any threads. An id is changed only by the thread that owns it. Exact.
struct ProcessJob {
    StepState state;
    const float *x;
    const float *normalizer;  // [R]; beams only
    float *y;
    int64_t ldx, ldy;
    int32_t V;
};

struct Chosen {
    int32_t token;  // -1: none, the row had ended, pads or is a beam
    float logprob;  // as t5k_event's
};

// advance: takes each row's token - drawn[r] where the row samples, else best[r] -, writes it to chosen[r], and makes it the
//   next input; an eos or the last position ends the row. Grid (ceil(R / threads)), any threads.
//   logprob: x[r, token] - normalizer[r] if asked for, else 0; NaN where the logit is not finite. x null: best's values.
struct AdvanceJob {
    StepState state;
    const Best *best;
    const int32_t *drawn;
    const float *x;
    const float *normalizer;
    Chosen *chosen;
    int64_t ldx;
    int32_t V;
};

}  // namespace t5k
