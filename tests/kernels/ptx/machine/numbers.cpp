// Floating formats: reading, and rounding in every direction once.
#include <cfenv>
#include <cmath>

#include "lane.h"

namespace t5k::ptx {
namespace {

struct Format {
    int digits, lowest, highest;  // significant bits; exponents of the least and greatest normal number (2^e)
};
Format format_of(Type type) {
    switch (type) {
        case Type::f16: return {11, -14, 15};
        case Type::bf16: return {8, -126, 127};
        case Type::tf32: return {11, -126, 127};
        case Type::f32: return {24, -126, 127};
        default: return {53, -1022, 1023};
    }
}

long double to_integer(long double v, Round round) {
    switch (round) {
        case Round::rz: case Round::rzi: return truncl(v);
        case Round::rm: case Round::rmi: return floorl(v);
        case Round::rp: case Round::rpi: return ceill(v);
        case Round::rna: return roundl(v);
        default: return nearbyintl(v);  // the machine runs in round-to-nearest-even
    }
}

u64 store(Type type, double v) {
    switch (type) {
        case Type::f64: return to_bits(v);
        case Type::f16: return to_bits(static_cast<_Float16>(v));
        case Type::bf16: return to_bits(static_cast<float>(v)) >> 16;
        default: return to_bits(static_cast<float>(v));
    }
}

}  // namespace

long double decode_float(Type type, u64 bits) {
    switch (type) {
        case Type::f64: return from_bits<double>(bits);
        case Type::f16: return static_cast<float>(from_bits<_Float16>(bits));
        case Type::bf16: return from_bits<float>((bits & 0xffff) << 16);
        default: return from_bits<float>(bits);
    }
}

u64 encode_float(Type type, long double v, Round round, bool saturates_finite) {
    const Format f = format_of(type);
    if (std::isnan(v)) return type == Type::f16 || type == Type::bf16 ? 0x7fff : type == Type::f64 ? 0x7fffffffffffffff : 0x7fffffff;
    const long double largest = ldexpl(2.0L - ldexpl(1.0L, 1 - f.digits), f.highest);
    if (v == 0 || std::isinf(v)) {
        if (std::isinf(v) && saturates_finite) v = v > 0 ? largest : -largest;
        return store(type, static_cast<double>(v));
    }
    int exponent = 0;
    frexpl(v, &exponent);
    const int unit = std::max(exponent - 1, f.lowest) - f.digits + 1;  // of the last place
    long double rounded = ldexpl(to_integer(ldexpl(v, -unit), round), unit);
    if (rounded == 0) rounded = copysignl(0.0L, v);
    if (fabsl(rounded) > largest) {
        const bool stays = saturates_finite || round == Round::rz || (round == Round::rm && v > 0) || (round == Round::rp && v < 0);
        rounded = copysignl(stays ? largest : INFINITY, v);
    }
    return store(type, static_cast<double>(rounded));
}

double approximate(Lane &lane, double exact, double relative, double absolute) {
    std::mt19937_64 *noise = lane.block->noise;
    if (!noise || !std::isfinite(exact)) return exact;
    const double u = static_cast<double>((*noise)() >> 11) * 0x1.0p-52 - 1.0;  // [-1, 1)
    return exact + u * (relative * fabs(exact) + absolute);
}

}  // namespace t5k::ptx
