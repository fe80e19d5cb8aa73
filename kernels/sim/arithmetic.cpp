// 16-bit floats and the tensor-core product, in portable C++.
#include "sim/sim.h"

namespace t5k::sim {

float float_of_f16(unsigned short bits) {
    _Float16 h;
    memcpy(&h, &bits, 2);
    return static_cast<float>(h);
}

unsigned short f16_of_float(float v) {
    const auto h = static_cast<_Float16>(v);
    unsigned short bits;
    memcpy(&bits, &h, 2);
    return bits;
}

unsigned short bf16_of_float(float v) {
    const unsigned bits = bits_of_float(v);
    if (v != v) return 0x7fff;
    return static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Fragments as in the PTX manual: lane = 4 group + t. a: rows group, group + 8; columns 2t, 2t + 1 and 8 more. b: rows as
// a's columns, column group. d: rows group, group + 8; columns 2t, 2t + 1. The sum over 16 products is formed in double.
void mma(float *d, const unsigned *a, const unsigned *b, float (*to_float)(unsigned short), int line) {
    unsigned sent[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *all = exchange(0xffffffffu, sent, sizeof sent, KIND_MMA, line);
    const int group = lane() / 4, t = lane() % 4;
    const auto half = [&](int from, int reg, int high) {
        unsigned short v;
        memcpy(&v, all + from * sizeof sent + static_cast<size_t>(reg) * 4 + static_cast<size_t>(high) * 2, 2);
        return static_cast<double>(to_float(v));
    };
    for (int i = 0; i < 4; ++i) {
        const int column = 2 * t + i % 2;
        double sum = 0.0;
        for (int k = 0; k < 16; ++k) {
            const int pair = k % 8 / 2, upper = k / 8;
            sum += half(group * 4 + pair, i / 2 + 2 * upper, k % 2) * half(column * 4 + pair, 4 + upper, k % 2);
        }
        d[i] = static_cast<float>(d[i] + sum);
    }
}

}  // namespace t5k::sim
