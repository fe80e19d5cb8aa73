// linear: y[r, n] = epilogue( sum_k x[r, k] * W[k, n] )
//
//   x      [R, K] fp32, row stride ldx >= K rounded up to 32; x[r, K..Kpad) must be 0 (Kpad: see panels.h)
//   W      Panels [K, N], any format
//   y      [R, N] fp32, row stride ldy
//
// epilogue    STORE  y = acc                         ADD    y = y + acc          (the fp32 residual, written only here)
//             RELU, GELU_NEW, GELU, SILU: y = act(acc)
//             gated: W holds 2F columns as alternating panels (16 of wi_0, 16 of wi_1): y[r, f] = act(acc0) * acc1, N = F
//             ARGMAX: nothing is stored; per row the largest acc and the lowest n that reaches it
//
// Accumulation  fp32, one chain over k = 0, 1, 2, ... per output, true fma. So y[r, n] has the same bits for any R, any
//               number of threads, any chunking and any ISA: a row does not depend on its batch mates.
//               i8 (w8): the same chain over x[k] * float(q), times scale[n] at the end.
//               i4: the chain over x[k] * float(q) restarts every 32 k; each part is scaled and added in order.
//               i8 with quantised x (w8a8): x is rounded to int8 per row (max-abs / 127); the dot product is exact in
//               int32 (|a| as u8 times sign(a) * w stays below 32258 per pair, so AVX2 never saturates); then
//               acc = float(dot) * (x_scale[r] * scale[n]).
// Tolerance     |y - f64 result on the stored weights| <= K * 2^-23 * sum_k |x W|; w8a8 adds x_scale/2 * sum_k |W|.
// Preconditions checked by the model when it is built (shapes, alignment); kernels assume. K <= 2^17 in w8a8 (int32).
// Bytes         panels (packed_bytes) + 4 R (K + N).    Flops 2 R K N.   Intensity R / 2 flop per byte in fp32.
// Bound         R <= ~8: memory (R = 1 must run at read bandwidth).   R > 16: FMA ports.
// Kernels       R rows x P panels in registers (AVX2 6 x 1, AVX-512 12 x 2), P = 4 for R = 1 so that eight chains hide
//               the fma latency; weights are prefetched 1 KB ahead per stream. Whole K per tile: a panel of K = 2816 is
//               180 KB and stays in L2 while the rows pass over it.
// Not promised  equal bits between w8 and w8a8, or between i4 and i8.
#pragma once

#include "ops/panels.h"

namespace t5k {

enum Epilogue { EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_ACT, EPILOGUE_GATED, EPILOGUE_ARGMAX };
enum Activation { ACT_RELU = 0, ACT_GELU_NEW = 1, ACT_GELU = 2, ACT_SILU = 3 };

// Rows rounded to int8: q [R, ldq] (ldq a multiple of 4, zero padded), scale [R]. bias_u8 is q + 128 for VNNI.
struct QuantizedRows {
    const int8_t *q = nullptr;
    const float *scale = nullptr;
    int64_t ldq = 0;
};

struct Best {
    float value;
    int32_t index;
};

struct LinearJob {
    Panels w;
    const float *x = nullptr;
    int64_t ldx = 0;
    float *y = nullptr;
    int64_t ldy = 0;
    int64_t R = 0;
    int64_t columns = 0;  // outputs that exist: N (F for gated), less where a shard pads the vocabulary
    Epilogue epilogue = EPILOGUE_STORE;
    Activation act = ACT_RELU;
    bool quantize_rows = false;  // i8 only: w8a8
    int64_t first_column = 0;    // ARGMAX: index of column 0 (tensor-parallel shard)
    QuantizedRows rows;          // set by the device when quantize_rows
};

}  // namespace t5k
