#include "cpu/kernel_table.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstring>

namespace t5k {
namespace {

#define T5K_TABLE(ns, linear, attend, bf16_rows, w8_rows)                                                         \
    {                                                                                                            \
        ns::linear, ns::quantize_row, ns::rms_norm_row, ns::embed_row, ns::attend, ns::store_kv,                 \
            ns::log_normalizer, ns::argmax, ns::screen_panels, ns::read_block, ns::fma_block, bf16_rows, w8_rows \
    }
constexpr KernelTable TABLES[] = {
    T5K_TABLE(scalar, linear_panels, attend, ROWS_BF16_FLOATS, ROWS_W8),
#if defined(__x86_64__)
    T5K_TABLE(avx2, linear_panels, attend, ROWS_BF16_FLOATS, ROWS_W8),
    T5K_TABLE(avx512, linear_panels, attend, ROWS_BF16_FLOATS, ROWS_W8),
    T5K_TABLE(avx512, linear_panels, attend, ROWS_BF16_PAIRS, ROWS_W8),
    T5K_TABLE(avx512, linear_panels_amx, attend_amx, ROWS_BF16_AMX, ROWS_W8_BYTES),
#endif
};
#undef T5K_TABLE

constexpr const char *NAMES[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
constexpr int ISAS = 5;

// Whether the CPU has AMX's tiles with bf16 and int8 products, and the operating system lets this process use them: their state is
// large, so it is asked for (https://docs.kernel.org/arch/x86/xstate.html). Refused, for one, where a signal stack is too small for it.
bool has_tiles() {
#if defined(__x86_64__)
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    constexpr uint32_t BF16 = 1u << 22, TILE = 1u << 24, INT8 = 1u << 25, ALL = BF16 | TILE | INT8;
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & ALL) != ALL) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

bool has(Isa isa) {
    if (isa == Isa::scalar) return true;
#if defined(__x86_64__)
    // __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == Isa::avx2) return avx2;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
    if (isa == Isa::amx) return avx512 && __builtin_cpu_supports("avx512bf16") && has_tiles();
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
        for (int i = 0; i < ISAS; ++i)
            if (!std::strcmp(forced, NAMES[i])) {
                *isa = static_cast<Isa>(i);
                return has(*isa);
            }
        return false;
    }
    for (int i = ISAS - 1; i >= 0; --i)
        if (has(static_cast<Isa>(i)) && is_chosen(static_cast<Isa>(i))) {
            *isa = static_cast<Isa>(i);
            break;
        }
    return true;
}

const char *isa_name(Isa isa) { return NAMES[static_cast<int>(isa)]; }

const KernelTable &kernels_of(Isa isa) { return TABLES[static_cast<int>(isa)]; }

}  // namespace t5k
