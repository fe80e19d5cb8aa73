#include "model/digest.h"

#include <cstring>

namespace t5k {
namespace {

constexpr uint64_t P1 = 0x9e3779b185ebca87u, P2 = 0xc2b2ae3d27d4eb4fu, P3 = 0x165667b19e3779f9u;
constexpr int LANES64 = 8;

uint64_t rotated(uint64_t x, int by) { return x << by | x >> (64 - by); }

uint64_t folded(uint64_t lane, uint64_t word) { return rotated(lane + word * P2, 31) * P1; }

uint64_t avalanche(uint64_t x) {
    x = (x ^ x >> 33) * P2;
    x = (x ^ x >> 29) * P3;
    return x ^ x >> 32;
}

}  // namespace

void digest(const void *data, int64_t bytes, uint64_t out[2]) {
    uint64_t lane[LANES64];
    for (int i = 0; i < LANES64; ++i) lane[i] = P1 * static_cast<uint64_t>(i + 1);
    const auto *p = static_cast<const unsigned char *>(data);
    int64_t left = bytes;
    for (; left > 0; left -= 8 * LANES64, p += 8 * LANES64) {
        uint64_t block[LANES64] = {};
        std::memcpy(block, p, static_cast<size_t>(left < 8 * LANES64 ? left : 8 * LANES64));
        for (int i = 0; i < LANES64; ++i) lane[i] = folded(lane[i], block[i]);
    }
    uint64_t a = static_cast<uint64_t>(bytes), b = P3 ^ a;
    for (int i = 0; i < LANES64; ++i) {
        a = folded(a ^ lane[i], P3);
        b = folded(b + lane[i], a);
    }
    out[0] = avalanche(a);
    out[1] = avalanche(b);
}

}  // namespace t5k
