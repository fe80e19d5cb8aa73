/* t5k: the C interface of Dynamometer's T5 engine. Loaded by ctypes (engines/t5/native.py); no exception leaves it.
 *
 * Every function that can fail returns a t5k_status and, where it takes a t5k_error, writes one sentence there.
 * A t5k_engine is used by one thread at a time. Memory passed in is borrowed: weights must outlive the engine, all
 * else only the call. Memory handed out (events, arrays) belongs to the engine and is valid until its next call. */
#ifndef T5K_H
#define T5K_H

#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

#define T5K_API __attribute__((visibility("default")))
#define T5K_ABI 6

enum { T5K_OK = 0, T5K_INVALID = 1, T5K_NO_MEMORY = 2, T5K_INTERNAL = 3, T5K_BUSY = 4 };
typedef int32_t t5k_status;

typedef struct t5k_error {
    char message[512];
} t5k_error;

/* Which matrix a tensor is. Shapes are [in, out]; linear weights are packed panels (ops/panels.h) of one rank. */
enum {
    T5K_EMBED = 0,      /* [V, E] row-major fp32, bf16 or fp16, whole, rank 0 */
    T5K_HEAD = 1,       /* [E, V / tp] panels */
    T5K_NORM_ATT = 2,   /* [E] fp32, rank 0; likewise the other norms */
    T5K_QKV = 3,        /* [E, 3 I / tp]: q | k | v of this rank's heads */
    T5K_OUT = 4,        /* [I / tp, E] */
    T5K_NORM_CROSS = 5,
    T5K_CROSS_Q = 6,    /* [E, I / tp] */
    T5K_CROSS_KV = 7,   /* [E, 2 I / tp]: k | v */
    T5K_CROSS_OUT = 8,  /* [I / tp, E] */
    T5K_NORM_FF = 9,
    T5K_FF_IN = 10,     /* [E, F / tp], or [E, 2 F / tp] as alternating panels of wi_0 and wi_1 */
    T5K_FF_OUT = 11,    /* [F / tp, E] */
    T5K_NORM_FINAL = 12,
    T5K_BIAS = 13,      /* [H / tp, 2 W + 32] fp32, see ops/attention.h; layer 0 serves layers without their own */
    T5K_HEAD_SCREEN = 14,  /* optional: the head again as int8 panels, for the exact argmax at int8 cost */
    T5K_SCREEN_NORMS = 15, /* [2, columns padded to 16] fp32: |W - copy| and |copy| per column (ops/screen.h) */
    T5K_ROLES = 16
};

typedef struct t5k_tensor {
    int32_t role;
    int32_t is_decoder;
    int32_t layer;
    int32_t rank;
    int32_t format; /* 0 fp32, 1 bf16, 2 int8, 3 int4, 4 fp16 (with fp16 activations only) */
    int32_t reserved;
    int64_t K;
    int64_t N;
    const void *data; /* 64-byte aligned */
    int64_t bytes;
} t5k_tensor;

enum { T5K_F32 = 0, T5K_F16 = 1, T5K_BF16 = 2 };

typedef struct t5k_config {
    int32_t abi; /* T5K_ABI */
    int32_t vocab;
    int32_t d_model;
    int32_t d_kv;
    int32_t d_ff;
    int32_t heads;
    int32_t encoder_layers;
    int32_t decoder_layers; /* 0: encoder only */
    int32_t activation;     /* 0 relu, 1 gelu_new, 2 gelu, 3 silu */
    int32_t is_gated;
    int32_t bias_window; /* W */
    int32_t pad_id;
    int32_t start_id;
    int32_t eos_count;
    int32_t eos_ids[8];
    float eps;
    float head_scale; /* multiplied into the final norm of the decoder */
    int32_t ranks;    /* tensor-parallel degree */
    int32_t threads;  /* of all ranks together */
    int32_t max_slots;
    int32_t max_source; /* longest input, tokens */
    int32_t max_target; /* most new tokens */
    int32_t quantize_rows; /* 1: w8a8 */
    int32_t is_static;     /* 1: admit only into an empty engine (static batching) */
    char isa[16];          /* "" chooses; else scalar, avx2, avx512 */
    const char *cuda_driver; /* null: the CPU device; else the driver library to open: libcuda.so.1, or the simulator */
    const void *cuda_image;  /* what cuModuleLoadData takes: a cubin with every kernel of ops/; only read by t5k_create */
    int32_t activations;     /* T5K_F32; on the CUDA device also T5K_F16 or T5K_BF16: what passes between ops, and caches */
    int32_t caches;          /* the CPU device's keys and values: T5K_F32 or T5K_BF16 */
} t5k_config;

/* A CUDA driver and its first device. */
typedef struct t5k_cuda {
    int32_t devices;
    int32_t arch;           /* 80 for sm_80 */
    int32_t driver_version; /* 12040 for CUDA 12.4 */
    int32_t are_peers; /* 1: several devices, and each can reach the memory of every other */
    int64_t memory_bytes;
    char name[128];
} t5k_cuda;

typedef struct t5k_engine t5k_engine;

typedef struct t5k_params {
    int32_t max_new_tokens;
    int32_t min_new_tokens;
    int32_t num_beams;
    int32_t num_return_sequences;
    int32_t early_stopping; /* 0 False, 1 True, 2 "never" */
    int32_t do_sample;
    int32_t top_k; /* 0: off */
    int32_t no_repeat_ngram_size;
    int32_t return_logprobs;
    int32_t ignore_eos;
    float length_penalty;
    float temperature;
    float top_p;
    float repetition_penalty;
    uint64_t seed;
    /* Lists of id lists, flattened: list i is ids[ends[i - 1] .. ends[i]). */
    int32_t bad_words;
    int32_t stop_sequences;
    const int32_t *bad_word_ids;
    const int32_t *bad_word_ends;
    const int32_t *stop_ids;
    const int32_t *stop_ends;
} t5k_params;

enum { T5K_GOES_ON = 0, T5K_EOS = 1, T5K_LENGTH = 2, T5K_STOP = 3, T5K_CANCELLED = 4 };

typedef struct t5k_event {
    int64_t handle;
    int32_t token;      /* -1: none */
    int32_t finish;     /* T5K_GOES_ON .. T5K_CANCELLED; the last event of a hypothesis has it set */
    int32_t hypothesis; /* 0 .. num_return_sequences - 1 */
    float logprob;      /* of the token under the unprocessed distribution if asked for, else 0; NaN: the logits were not
                           finite; beams: the hypothesis' score, on its last event */
} t5k_event;

/* The ISA this machine would run, or what `forced` names; NULL if it cannot run here. */
T5K_API const char *t5k_isa(const char *forced);

/* What `driver` (a library's path, as t5k_config's) says of its devices; an error names what is missing. */
T5K_API t5k_status t5k_cuda_look(const char *driver, t5k_cuda *out, t5k_error *error);

/* Bytes of a packed matrix, and packing of a row-major [N, K] fp32 source (torch's Linear layout) into it.
 * peaks (int8, may be null): max|row| of each row of the uncut matrix, so that tensor-parallel ranks round alike.
 * first_panel counts panels of the whole matrix, step is 1, or 2 to interleave gated halves. Columns beyond N are 0. */
T5K_API int64_t t5k_packed_bytes(int32_t format, int64_t K, int64_t N);
T5K_API t5k_status t5k_pack(int32_t format, const float *source, int64_t ld, int64_t K, int64_t N, int64_t total_N,
                            int64_t first_panel, int64_t step, void *packed, const float *peaks);
T5K_API t5k_status t5k_unpack(int32_t format, const void *packed, int64_t K, int64_t N, float *out);

/* A 128-bit checksum that finds damage (model/digest.h). */
T5K_API void t5k_digest(const void *data, int64_t bytes, uint64_t out[2]);

T5K_API t5k_status t5k_create(const t5k_config *config, const t5k_tensor *tensors, int32_t count, t5k_engine **out,
                              t5k_error *error);
T5K_API void t5k_destroy(t5k_engine *engine);
/* What runs the model beyond the machine's name, in words (GPUs, how they sum), or ""; valid until the next call. */
T5K_API const char *t5k_about(t5k_engine *engine);

/* Queues a request. The handle is greater than every earlier one. */
T5K_API t5k_status t5k_submit(t5k_engine *engine, const int32_t *ids, int32_t count, const t5k_params *params,
                              int64_t *handle, t5k_error *error);
/* Ends a request at the next step, which reports it with finish T5K_CANCELLED. Unknown handles are invalid. */
T5K_API t5k_status t5k_cancel(t5k_engine *engine, int64_t handle, t5k_error *error);
/* Admits what fits, then runs up to max_steps decode steps, fewer when idle or when a request ends, so that its answer
 * waits for nobody; events of all of them, in order. */
T5K_API t5k_status t5k_step(t5k_engine *engine, int32_t max_steps, const t5k_event **events, int64_t *count,
                            t5k_error *error);
/* Requests waiting and running. */
T5K_API void t5k_load(const t5k_engine *engine, int32_t *waiting, int32_t *running);
/* Final-normed encoder rows of `sequences` inputs laid end to end; out [sum of lengths, d_model] is the caller's. */
T5K_API t5k_status t5k_encode(t5k_engine *engine, const int32_t *ids, const int32_t *lengths, int32_t sequences,
                              float *out, t5k_error *error);
/* Teacher-forced logits: out [targets, vocab] for decoder inputs target[0..targets). For tests and quality checks. */
T5K_API t5k_status t5k_score(t5k_engine *engine, const int32_t *ids, int32_t count, const int32_t *target,
                             int32_t targets, float *out, t5k_error *error);
/* The logits processors alone: scores [vocab] in place, history = start id and generated ids. For tests. */
T5K_API t5k_status t5k_process(const t5k_engine *engine, const t5k_params *params, const int32_t *history,
                               int32_t length, float *scores, t5k_error *error);

#if defined(__cplusplus)
}
#endif
#endif
