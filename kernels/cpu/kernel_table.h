// The functions each ISA supplies, and the choice among them at run time.
#pragma once

#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/screen.h"

namespace t5k {

// avx512_bf16 is avx512 with the bf16 dot product, amx is avx512 with tiles for linear and attend.
enum class Isa { scalar = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3, amx = 4 };

struct KernelTable {
    void (*linear_panels)(const LinearJob &job, int64_t begin, int64_t end, Best *best);
    void (*quantize_row)(RowRounding kind, const float *x, int64_t K, void *q, float *scale, int32_t *offset);
    void (*rms_norm_row)(const float *x, const float *w, float *y, int64_t E, float eps, float out_scale);
    void (*embed_row)(const void *table, int format, int64_t id, int64_t E, float *y);
    void (*attend)(const AttendJob &job, float *scratch);
    void (*store_kv)(const StoreJob &job);
    double (*log_normalizer)(const float *x, int64_t V);
    Best (*argmax)(const float *x, int64_t V);
    int (*screen_panels)(const ScreenJob &job, int32_t *panels);
    float (*read_block)(const void *memory, int64_t bytes);
    float (*fma_block)(int64_t rounds);
    RowRounding bf16_rows, w8_rows;  // how linear reads rows that meet bf16 weights, and int8 ones
};

#define T5K_DECLARE_KERNELS(ns)                                                                              \
    namespace ns {                                                                                           \
    void linear_panels(const LinearJob &job, int64_t begin, int64_t end, Best *best);                        \
    void quantize_row(RowRounding kind, const float *x, int64_t K, void *q, float *scale, int32_t *offset);  \
    void rms_norm_row(const float *x, const float *w, float *y, int64_t E, float eps, float out_scale);      \
    void embed_row(const void *table, int format, int64_t id, int64_t E, float *y);                          \
    void attend(const AttendJob &job, float *scratch);                                                       \
    void store_kv(const StoreJob &job);                                                                      \
    double log_normalizer(const float *x, int64_t V);                                                        \
    Best argmax(const float *x, int64_t V);                                                                  \
    int screen_panels(const ScreenJob &job, int32_t *panels);                                                \
    float read_block(const void *memory, int64_t bytes);                                                     \
    float fma_block(int64_t rounds);                                                                         \
    }
T5K_DECLARE_KERNELS(scalar)
#if defined(__x86_64__)
T5K_DECLARE_KERNELS(avx2)
T5K_DECLARE_KERNELS(avx512)
namespace avx512 {
void linear_panels_amx(const LinearJob &job, int64_t begin, int64_t end, Best *best);
void attend_amx(const AttendJob &job, float *scratch);
}
#endif
#undef T5K_DECLARE_KERNELS

// The best ISA of this CPU, or the one named by `forced` ("scalar", "avx2", "avx512", "avx512_bf16", "amx") if this CPU has it.
// Returns false for an unknown or unsupported name.
bool choose_isa(const char *forced, Isa *isa);
const char *isa_name(Isa isa);
const KernelTable &kernels_of(Isa isa);

}  // namespace t5k
