/* t5k_ops: single ops on a chosen ISA and thread count, for the kernel tests and the kernel benchmark. Not for serving.
 *
 * Every function checks its arguments, runs the op `repeats` times (at least once) and returns a t5k_status.
 * Packed weights come from t5k_pack. All rows are dense: the row stride is the width rounded up to 32, zero padded. */
#ifndef T5K_OPS_H
#define T5K_OPS_H

#include "t5k.h"

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct t5k_bench t5k_bench; /* a CPU device: one ISA, one thread team */

T5K_API t5k_bench *t5k_bench_open(const char *isa, int32_t threads); /* NULL if the ISA is not there */
T5K_API void t5k_bench_close(t5k_bench *bench);

/* epilogue: 0 store, 1 add, 2 activation, 3 gated (packed as alternating panels, N = 2 F padded), 4 argmax.
 * y: [R, stride] (argmax: R pairs of value and int32 index as two floats' worth of bytes each). */
T5K_API t5k_status t5k_op_linear(t5k_bench *bench, int32_t format, int32_t quantize_rows, int32_t epilogue,
                                 int32_t activation, const void *packed, int64_t K, int64_t N, int64_t columns,
                                 const float *x, int64_t R, float *y, int32_t repeats);
/* The same by plain loops (ops/linear_reference.h), no device. amx: bf16 is summed in the order of AMX's tiles. */
T5K_API t5k_status t5k_op_linear_reference(int32_t format, int32_t quantize_rows, int32_t epilogue, int32_t activation,
                                           const void *packed, int64_t K, int64_t N, int64_t columns, const float *x,
                                           int64_t R, float *y, int32_t amx);
/* k, v: [keys, heads * D] rows, cached as fp32 (cache_bytes 4) or bf16 (2); is_rounded (with 4): q, k, v and exponentials may be rounded to bf16; q, out: [R, heads * D]; bias [heads, 2 W + 32] or NULL; causal rows start at first. */
T5K_API t5k_status t5k_op_attend(t5k_bench *bench, const float *q, const float *k, const float *v, const float *bias,
                                 int64_t W, int64_t R, int64_t keys, int64_t heads, int64_t D, int64_t first,
                                 int32_t causal, int32_t cache_bytes, int32_t is_rounded, float *out, int32_t repeats);
T5K_API t5k_status t5k_op_rms_norm(t5k_bench *bench, const float *x, const float *w, int64_t R, int64_t E, float eps,
                                   float out_scale, float *y);
T5K_API t5k_status t5k_op_log_normalizer(t5k_bench *bench, const float *x, int64_t V, double *out);
/* Reads `bytes` of memory `repeats` times with every thread; returns seconds per pass (wall clock). */
T5K_API double t5k_op_read(t5k_bench *bench, const void *memory, int64_t bytes, int32_t repeats);
/* Fused multiply-adds from registers on every thread: returns flop per second. */
T5K_API double t5k_op_peak(t5k_bench *bench, double seconds);
/* Empty phases: seconds per team barrier. */
T5K_API double t5k_op_barrier(t5k_bench *bench, int32_t repeats);

#if defined(__cplusplus)
}
#endif
#endif
