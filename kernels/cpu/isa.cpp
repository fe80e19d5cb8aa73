#include <cstring>

#include "cpu/kernel_table.h"

namespace t5k {
namespace {

#define T5K_TABLE(ns, bf16_rows)                                                                                         \
    {                                                                                                            \
        ns::linear_panels, ns::quantize_row, ns::rms_norm_row, ns::embed_row, ns::attend, ns::store_kv,          \
            ns::log_normalizer, ns::argmax, ns::screen_panels, ns::read_block, ns::fma_block, bf16_rows          \
    }
constexpr KernelTable TABLES[] = {
    T5K_TABLE(scalar, ROWS_BF16_FLOATS),
#if defined(__x86_64__)
    T5K_TABLE(avx2, ROWS_BF16_FLOATS),
    T5K_TABLE(avx512, ROWS_BF16_FLOATS),
    T5K_TABLE(avx512, ROWS_BF16_PAIRS),
#endif
};
#undef T5K_TABLE

constexpr const char *NAMES[] = {"scalar", "avx2", "avx512", "avx512_bf16"};

bool has(Isa isa) {
    if (isa == Isa::scalar) return true;
#if defined(__x86_64__)
    // __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == Isa::avx2) return avx2;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
    return avx512 && (isa == Isa::avx512 || __builtin_cpu_supports("avx512bf16"));
#else
    return false;
#endif
}

// Whether the bf16 dot product outruns fused multiply-adds. Intel's takes two cycles of one port (Sapphire Rapids, one thread: 87
// GFLOP/s where fma gives 176), so there widened weights are the faster; AMD's has fma's rate, twice its products.
bool is_chosen(Isa isa) {
#if defined(__x86_64__)
    return isa != Isa::avx512_bf16 || __builtin_cpu_is("amd");
#else
    return true;
#endif
}

}  // namespace

bool choose_isa(const char *forced, Isa *isa) {
    if (forced && *forced) {
        for (int i = 0; i < 4; ++i)
            if (!std::strcmp(forced, NAMES[i])) {
                *isa = static_cast<Isa>(i);
                return has(*isa);
            }
        return false;
    }
    for (int i = 3; i >= 0; --i)
        if (has(static_cast<Isa>(i)) && is_chosen(static_cast<Isa>(i))) {
            *isa = static_cast<Isa>(i);
            break;
        }
    return true;
}

const char *isa_name(Isa isa) { return NAMES[static_cast<int>(isa)]; }

const KernelTable &kernels_of(Isa isa) { return TABLES[static_cast<int>(isa)]; }

}  // namespace t5k
