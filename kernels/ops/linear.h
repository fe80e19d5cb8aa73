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
//               bf16 rounds x to bf16 first, and its chain is that of the dot product instruction (VDPBF16PS), which other ISAs
//               compute by fma: k = 1, 0, 3, 2, ...; inputs, products' sums and results below 2^-126 count as zero.
//               Without x86 (scalar) denormals stay: there the bits may differ. AMX's tiles have an order for themselves (TDPBF16PS): of
//               each 32 k the even ones in one chain from zero and the odd ones in another, their sum added to the sums before.
//               The integer formats round x first; the products are then exact in int32 and their order is free:
//               i8 (w8)    x to int16 per row and block of 128 k (max-abs / 32767); |block sum| < 2^30.
//               i8 (w8a8)  x to int8 per row (max-abs / 127). |a| as u8 times sign(a) * w stays below 32258 per pair,
//                          so AVX2 never saturates; AVX-512 VNNI has no saturation.
//               i4         x to int8 per row and group of 32 k; each group is scaled and added in order.
// Tolerance     |y - f64 result on the stored weights| <= K * 2^-23 * sum_k |x W|, plus for the integer formats half a
//               step of x times sum_k |W| over the block: step = max|x| / 32767 (w8) or / 127 (w8a8, i4); bf16: 2^-9 sum_k |x W|.
// Preconditions checked by the model when it is built (shapes, alignment); kernels assume. K <= 2^17 in w8a8 (int32).
// Bytes         panels (packed_bytes) + 4 R (K + N).    Flops 2 R K N.   Intensity R / 2 flop per byte in fp32.
// Bound         R <= ~8: memory (R = 1 must run at read bandwidth).   R > 16: FMA ports; twice their rate where bf16 pairs have an
//               instruction that outruns them (AMD Zen 4, one thread, K 768 to 2048, 512 rows: 202 to 213 GFLOP/s of 236, fp32 107 to
//               110). Elsewhere 0.92 to 0.97 of fp32's rate (Sapphire Rapids, 512 rows), more where weights come from memory.
// Kernels       R rows x P panels in registers (tile_shapes.h: AVX2 6 x 1, AVX-512 8 x 2; w8a8 12 x 2, i4 12 x 1). Few rows: P = 4
//               hides the fma latency of floats; integers take P = 1, one sequential stream per thread, and up to four sums
//               per output. Weights are prefetched 1 KB (integers 4 KB) ahead. Many rows: whole K
//               per tile; a tile's rows stay in L1 and a group of panels in L2 while one passes over the other. bf16 without its
//               instruction: widened in registers, from 256 rows on once for all rows (0.85 to 0.91 of fp32's rate becomes 0.92 to 0.97).
// AMX           panels are tiles as they lie: 16 groups of k are the 16 rows of one. 32 rows x 2 panels, K in chunks whose rows stay in
//               L1 (sums go to L2 and back). w8: x as high and low bytes, two exact products. i4: unpacked to int8 once for all rows. w8 and i4
//               scale each block's sums while the tiles multiply the next. fp32, up to 4 rows of w8a8 and 8 of i4, and i4 of K above 14336, whose
//               panels are too long to unpack: as without tiles; up to 2 rows of bf16: two chains of fma, in the order of tiles.
// Rejected      w8 with fp32 x (widen, convert, fma): 15 instructions per 32 weights where int16 needs 7, 12 GB/s on a
//               Zen core whose memory gives 25; the block-wise int16 rounding adds 2^-16 of the block's largest |x|.
//               w8 with int16 values as two bytes, so that weights need no unpacking: GCC 12 copies the sums on every turn,
//               164 GFLOP/s at eight rows where unpacking gives 190.
// Not promised  equal bits between formats.
#pragma once

#include "ops/panels.h"

namespace t5k {

enum Epilogue { EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_ACT, EPILOGUE_GATED, EPILOGUE_ARGMAX };
enum Activation { ACT_RELU = 0, ACT_GELU_NEW = 1, ACT_GELU = 2, ACT_SILU = 3 };

enum RowRounding { ROWS_PLAIN, ROWS_W8A8, ROWS_W8, ROWS_W4, ROWS_BF16_FLOATS, ROWS_BF16_PAIRS, ROWS_BF16_AMX, ROWS_W8_BYTES };

constexpr int64_t ROW_BLOCK = 128;  // k per scale of w8: 64 products of 2 x 127 x 32767 stay below 2^30

// Rows rounded for every format but fp32: values [R, ldq], zero padded to whole groups.
//   W8A8  int8, one scale per row            W8  int16, a scale per 128 k, each four k as 0 2 1 3
//   W4    int8, a scale and an offset (8 x the sum of the values) per 32 k, each eight k as 0 2 4 6 1 3 5 7
//   BF16_PAIRS   bf16, for the dot product instruction          BF16_FLOATS  the same as fp32, each two k as 1 0
//   BF16_AMX     bf16, for tiles, zero padded to 32             W8_BYTES     as W8, each 64 k as their high bytes, then the low ones
struct QuantizedRows {
    RowRounding kind = ROWS_PLAIN;
    const void *q = nullptr;
    int64_t ldq = 0;  // values, not bytes
    const float *scale = nullptr;
    const int32_t *offset = nullptr;
    int64_t lds = 0;
};

struct Best {
    float value;
    int32_t index;
};

// On a GPU (linear.cu, gemm.cu):
//
// linear_<format>_<x>  few rows: reads each weight once per 8 rows. Grid (panels of y, ceil(R / 8)), LINEAR_THREADS threads. A warp
//                      reads 512 contiguous bytes of a panel at a time. x f32, f16, bf16; rows 16-byte aligned, and padded to a
//                      multiple of 32 with zeros: the padding is read.
// gemm_f16, gemm_bf16  many rows (is_tiled) by mma.m16n8k16; x and W of one 16-bit type. gemm_i8_bf16, gemm_i4_bf16: bf16 rows,
//                      integer weights. Grid (ceil(panels of W / 4), ceil(R / 64)), GEMM_THREADS threads. A row's bits do not
//                      depend on R, nor on which of the 64 rows of a tile it is.
// x is not rounded to integers there: integer weights meet it as floats. y is of x's type, or fp32 when y_is_f32 or ADD.
// ARGMAX gives one Best per row and panel, which best_panels folds (ops/softmax.h). out_scale is what keeps an fp16 hidden value
// below 65504 (model/hidden_scale.cpp), and its inverse in the product that reads it.
// Tolerance K 2^-23 sum |x W| before rounding to y. Bytes: the packed matrix + R (K + N) w_x.
constexpr int LINEAR_THREADS = 256;
constexpr int LINEAR_ROWS = 8;
constexpr int GEMM_THREADS = 128;
constexpr int GEMM_ROWS = 64, GEMM_PANELS = 4;

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
    bool y_is_f32 = false;       // y is fp32 whatever activations are stored as (ADD: always)
    bool is_tiled = false;       // many rows: a device with 16-bit activations multiplies tiles of them on tensor cores
    float out_scale = 1.0f;      // a power of two on what the epilogue stores or adds; 1 where activations are fp32
    int64_t first_column = 0;    // ARGMAX: index of column 0 (tensor-parallel shard)
    QuantizedRows rows;          // set by the CPU device for every format but fp32

    struct Gpu {
        const float *scale = nullptr;  // i8: of the panels of W
        Best *best = nullptr;          // ARGMAX: [R, best_stride], a Best per panel of y
        int64_t best_stride = 0;
    };
    Gpu gpu;  // set by the CUDA device
};

// bf16_rows, w8_rows: of each the one that the CPU's kernels read.
T5K_STATIC RowRounding rounding_of(const LinearJob &job, RowRounding bf16_rows, RowRounding w8_rows) {
    if (job.w.format == FORMAT_BF16) return bf16_rows;
    if (job.w.format == FORMAT_I4) return ROWS_W4;
    if (job.w.format == FORMAT_I8) return job.quantize_rows ? ROWS_W8A8 : w8_rows;
    return ROWS_PLAIN;
}

}  // namespace t5k
