#include "ops/embed.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"

namespace t5k::T5K_NS {

void embed_row(const void *table, int format, int64_t id, int64_t E, float *y) {
    if (format == FORMAT_F32) {
        __builtin_memcpy(y, (const float *)table + id * E, (size_t)E * 4);
        return;
    }
    const uint16_t *row = (const uint16_t *)table + id * E;
    int64_t e = 0;
    for (; e + LANES <= E; e += LANES) store(y + e, as_float(shl<16>(load_u16(row + e))));
    for (; e < E; ++e) {
        const uint32_t bits = (uint32_t)row[e] << 16;
        __builtin_memcpy(y + e, &bits, 4);
    }
}

}  // namespace t5k::T5K_NS
