#include "ops/probe.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"

namespace t5k::T5K_NS {

float read_block(const void *memory, int64_t bytes) {
    I16 total[8];
    for (int i = 0; i < 8; ++i) total[i] = bcasti(0);
    const char *p = (const char *)memory;
    for (int64_t at = 0; at + 512 <= bytes; at += 512)
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            __builtin_prefetch(p + at + 2048 + 64 * i, 0, 3);
            total[i] = addi(total[i], loadi(p + at + 64 * i));
        }
    V16 all = zero();
    for (int i = 0; i < 8; ++i) all = add(all, to_float(total[i]));
    return sum(all);
}

#if defined(T5K_ISA_AVX512)
constexpr int CHAINS = 24;
#else
constexpr int CHAINS = 6;  // twelve of sixteen registers
#endif

float fma_block(int64_t rounds) {
    V16 acc[CHAINS];
    for (int i = 0; i < CHAINS; ++i) acc[i] = bcast((float)i);
    const V16 a = bcast(0.999f), b = bcast(0.001f);
    for (int64_t n = 0; n < rounds * (24 / CHAINS); ++n) {
#pragma GCC unroll 24
        for (int i = 0; i < CHAINS; ++i) acc[i] = fma(acc[i], a, b);
    }
    V16 all = zero();
    for (int i = 0; i < CHAINS; ++i) all = add(all, acc[i]);
    return sum(all);
}

}  // namespace t5k::T5K_NS
