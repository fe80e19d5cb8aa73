// What the host hands each CUDA kernel: one record by value per launch, the same bytes for g++, nvcc, NVRTC and ctypes.
//
// Every kernel takes exactly one of these. Letters: B rows, E d_model, K inputs, N outputs, V vocabulary, D head size.
// Panels, caches and bias tables are laid out as ops/panels.h and ops/attention.h say, so a partition serves both
// devices; here an activation, cache or 16-bit weight may also be fp16 or bf16. Accumulation is fp32 throughout.
// The residual stream is fp32 and only a linear's ADD epilogue (or add_shards) writes it: fp16 cannot overflow there.
// Launchers check what a contract calls a precondition; kernels assume. Nothing here allocates.
#pragma once

namespace t5k::cuda {

using u8 = unsigned char;
using i8 = signed char;
using u32 = unsigned int;
using i64 = long long;

struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

struct Best {
    float value;
    int index;
};

// rms_norm_<y>: x += delta; y = w * (x * rsqrt(mean x^2 + eps)) * out_scale. Grid (R), 32..256 threads.
//   x [R, ldx] fp32; delta [R, ldx] fp32 or null; w [E] fp32; y [R, ldy] of <y>: f32, f16, bf16.
// Tolerance 4 * 2^-23 relative before rounding to <y>. Bytes R E (4 + w_y) + (delta: 8 R E); memory-bound.
struct RmsNormJob {
    float *x;
    const float *delta;
    const float *w;
    void *y;
    i64 ldx, ldy;
    int E;
    float eps, out_scale;
};

// add_shards: y[r, n] += parts[0][r, n] + parts[1][r, n] + ..., in that order. Grid (R, any), any threads. fp32, exact order.
constexpr int MAX_SHARDS = 8;
struct AddShardsJob {
    const float *parts[MAX_SHARDS];
    float *y;
    i64 ld, ldy;
    int count, N;
};

// embed_<table>: y[r, :] = table[ids[r], :] as fp32. Grid (R), any threads. Exact. table f32, f16, bf16; ids in [0, V).
struct EmbedJob {
    const void *table;
    const int *ids;
    float *y;
    i64 ldy;
    int E;
};

// linear_<format>_<x>: y[r, n] = epilogue(sum_k x[r, k] W[k, n]) for few rows: reads each weight once per 8 rows.
//   Grid (panels of y, ceil(R / 8)), LINEAR_THREADS threads. A warp reads 512 contiguous bytes of a panel at a time.
//   format f32, f16, bf16, i8, i4 (ops/panels.h; f16 is laid out as bf16); x f32, f16, bf16, rows 16-byte aligned and
//   padded to a multiple of 32 with zeros: the padding is read.
//   norm_eps > 0: the folded norm, acc * rsqrt(mean_k x^2 + norm_eps), K being the width of x.
//   epilogue: STORE, ADD (y fp32, the residual), ACT, GATED (panels alternate wi_0, wi_1; N = F), ARGMAX (per panel one
//   Best to best[r, panel], index first_column + n). y is of x's type, or fp32 when y_is_f32 or ADD. out_scale: what keeps
//   an fp16 hidden value below 65504 (model/hidden_scale.cpp), and its inverse in the product that reads it.
// gemm_f16, gemm_bf16: the same for many rows by mma.m16n8k16; x and W of one 16-bit type. gemm_i8_bf16, gemm_i4_bf16: bf16
//   rows, integer weights. Grid (ceil(panels of W / 4), ceil(R / 64)), GEMM_THREADS threads. No norm_eps. A row's bits do
//   not depend on R, nor on which of the 64 rows of a tile it is.
// Tolerance K 2^-23 sum |x W| before rounding to y. Bytes: the packed matrix + R (K + N) w_x. Flops 2 R K N.
enum { EPILOGUE_STORE = 0, EPILOGUE_ADD = 1, EPILOGUE_ACT = 2, EPILOGUE_GATED = 3, EPILOGUE_ARGMAX = 4 };
enum { ACT_RELU = 0, ACT_GELU_NEW = 1, ACT_GELU = 2, ACT_SILU = 3 };
constexpr int LINEAR_THREADS = 256;
constexpr int LINEAR_ROWS = 8;
constexpr int GEMM_THREADS = 128;
constexpr int GEMM_ROWS = 64, GEMM_PANELS = 4;
struct LinearJob {
    const u32 *w;
    const float *scale;  // i8: [panels * 16]
    const void *x;
    void *y;
    Best *best;
    i64 ldx, ldy;
    int R, K, N;  // N: outputs that exist
    int panels;   // of W
    int epilogue, act, y_is_f32, first_column;
    float norm_eps;
    float out_scale;  // of what is stored or added, after the epilogue: a power of two
    int best_stride;  // ARGMAX: Bests of a row when shards share it; 0: the panels of y
};

// best_panels: best[r] = the better of parts[r, 0..count), lowest index on ties. Grid (R), 32..1024 threads.
// best_logits: the same over x [R, ldx] fp32, N = count columns.
struct BestJob {
    const Best *parts;
    const float *x;
    Best *best;
    i64 ldx;
    int count;
};

// log_softmax: out[r] = log sum_v exp(x[r, v]); y[r, v] = x[r, v] - out[r], y may be x, or null for the sums alone.
//   Grid (R), 32..1024 threads. Each thread's fp32 sum, folded in a fixed order. Tolerance 4e-6 + 2^-22 |x - out|.
struct LogSoftmaxJob {
    const float *x;
    float *y;
    float *out;
    i64 ldx, ldy;
    int V;
};

// One row block of attention, all heads of one rank: head h at q + h D, out + h D, caches + h * head size, bias + h
// (2 W + 32). Strides in elements. append_k/v (decode): stored at position keys - 1 first.
struct AttendRows {
    const void *q;
    void *out;
    const void *append_k, *append_v;
    void *k, *v;
    const float *bias;
    i64 ldq, ldo, capacity;
    int R, keys, first_position, causal;
    const int *position;  // attend only, or null: then *position stands for first_position, and *position + 1 for keys
};

// attend_<type>: one query row each (R = 1): append, scores + bias, softmax, mix. Grid (heads, blocks, splits), 128
//   threads; split z sees keys [z, z + 1) * SPLIT_KEYS and there are enough splits for the longest row. Dynamic shared memory
//   4 * (D + round_up(min(most keys, SPLIT_KEYS), 16)) bytes. <type> of q, out and caches: f32, f16, bf16. A block without
//   keys (0, or *position = -1) does nothing. With one split `out` is written; with more, `partial`
//   [blocks, heads, splits, D + 2]: unscaled mix, maximum, sum - which
// attend_merge_<type> folds into out. Grid (heads, blocks), any threads. How a row is split depends on its own keys alone.
// attend_rows_<type>: many query rows (encoder), keys seen tile by tile with a running softmax: no [R, keys] buffer. f32 by fma,
//   f16 and bf16 by mma.m16n8k16 (attention_tiles.cu), where probabilities are rounded to <type> before they meet the values.
//   Grid (ceil(R / 16), heads, blocks), 128 threads, dynamic shared 4 * (16 * D + 2 W + 32 + 16 * 32). D <= 256.
// store_kv_<type>: rows append_k, append_v (stride ldq) go to positions first_position + r. Grid (R, heads, blocks).
// Tolerance 2^-20 max|v| before rounding; attend_rows of 16 bits: half a unit in the last place of max|v| more.
// Bytes, decode: w (2 T D) per head and row; flops 4 R T D.
constexpr int SPLIT_KEYS = 512;
struct AttendJob {
    const AttendRows *blocks;
    int D, W;
    float *partial;
    int splits;
};

// sample: token drawn from softmax(x / temperature) after top-k and top-p. Grid (R), 256 threads.
//   Keeps values >= the k-th largest (ties stay, as in Hugging Face), then the smallest set of largest values that
//   reaches top_p (the last one in is kept). The draw inverts the distribution over ids in order with the uniform
//   number Philox4x32-10(key = seed, counter = step): a request's tokens never depend on its batch mates.
struct SampleRow {
    unsigned long long seed, step;
    float temperature, top_p;  // top_p >= 1: off
    int top_k;                 // 0: off
    int is_off;                // no draw for this row
};
struct SampleJob {
    const float *x;
    const SampleRow *rows;
    int *token;
    i64 ldx;
    int V;
};

// beam_step: per request the `wanted` best of score[b] + logp[b, v] over its beams, best first; of equals the lower
//   b * V + v (the order of a flattened top-k). Grid (requests), 256 threads.
//   logp [requests * beams, ld] fp32; score [requests * beams]; out [requests, wanted].
struct BeamCandidate {
    float score;
    int beam, token;
};
struct BeamJob {
    const float *logp;
    const float *score;
    BeamCandidate *out;
    i64 ld;
    int V, beams, wanted;
};

// A decode batch that goes on without the host: its rules, and its state, which `advance` moves from step to step.
struct StepRow {
    float penalty;                    // repetition penalty, 1: off
    int ngram, min_new;               // no_repeat_ngram_size (0: off), min_new_tokens
    int last;                         // position of the last token it may have
    int first_word, words;            // its bad words: lists [first_word, first_word + words) of StepState::word_at
    int is_beam;                      // scores are log-probabilities, and the host moves it
    int wants_logprob, ends_at_eos;
};
struct StepState {
    const StepRow *rows;
    const int *words, *word_at;       // list i is words[word_at[i] .. word_at[i + 1])
    const int *eos;
    int *history;                     // [rows, capacity]: decoder ids, the start id first
    int *token, *position, *done;     // token: at history[position], fed next. position -1: the row only pads the batch
    SampleRow *sample;
    i64 capacity;
    int eos_count, R;
};

// process_scores: y[r] = x[r] (a beam's: x[r] - normalizer[r]) after repetition penalty, no-repeat n-gram, bad words and min
//   new tokens, in Hugging Face's order. Grid (R), any threads. An id is changed only by the thread that owns it. Exact.
struct ProcessJob {
    StepState state;
    const float *x;
    const float *normalizer;  // [R]; beams only
    float *y;
    i64 ldx, ldy;
    int V;
};

// advance: takes each row's token - drawn[r] where the row samples, else best[r] -, says it in chosen[r], and makes it the
//   next input; an eos or the last position ends the row. chosen[r].token is -1 for rows that ended before, that pad, or are
//   beams. Grid (ceil(R / threads)), any threads.
//   logprob: x[r, token] - normalizer[r] if asked for, else 0; NaN where the logit is not finite. x null: best's values.
struct Chosen {
    int token;
    float logprob;
};
struct AdvanceJob {
    StepState state;
    const Best *best;
    const int *drawn;
    const float *x;
    const float *normalizer;
    Chosen *chosen;
    i64 ldx;
    int V;
};

}  // namespace t5k::cuda
