// Integer, bit and predicate instructions.
#include <algorithm>

#include "opcodes.h"

namespace t5k::ptx {
namespace {

int width(const Instruction &ins) { return ins.type() == Type::pred ? 1 : 8 * bytes_of(ins.type()); }

u64 source(Lane &lane, const Instruction &ins, size_t n) { return extend(ins.type(), lane.get(ins.operands.at(n))); }
void result(Lane &lane, const Instruction &ins, u64 value) { lane.set(ins.operands.at(0), extend(ins.type(), value)); }

template <class F>
void with_two(Lane &lane, const Instruction &ins, F f) {
    result(lane, ins, f(source(lane, ins, 1), source(lane, ins, 2)));
}

// A shift's amount is always a 32-bit number, whatever is shifted; amounts beyond the width are legal.
u64 amount(Lane &lane, const Instruction &ins) { return std::min<u64>(lane.get(ins.operands.at(2)) & 0xffffffffu, 64); }

using Wide = __int128;
Wide full(const Instruction &ins, u64 v) { return is_signed(ins.type()) ? Wide{static_cast<s64>(v)} : Wide{v}; }

}  // namespace

// Sum with carry in and out, for the integer forms of add, sub and mad.
void integer_sum(Lane &lane, const Instruction &ins, u64 a, u64 b, bool subtracts) {
    const int bits = width(ins);
    const u64 all = bits == 64 ? ~u64{0} : (u64{1} << bits) - 1;
    a &= all, b &= all;
    const unsigned __int128 carry = ins.trans && lane.carry;
    unsigned __int128 sum = subtracts ? static_cast<unsigned __int128>(a) - b - carry : static_cast<unsigned __int128>(a) + b + carry;
    if (ins.carry_out) lane.carry = sum >> bits & 1;
    u64 value = extend(ins.type(), static_cast<u64>(sum));
    if (ins.sat) {
        const Wide exact = subtracts ? full(ins, extend(ins.type(), a)) - full(ins, extend(ins.type(), b))
                                     : full(ins, extend(ins.type(), a)) + full(ins, extend(ins.type(), b));
        value = static_cast<u64>(static_cast<s64>(std::clamp<Wide>(exact, INT32_MIN, INT32_MAX)));  // only s32 has .sat
    }
    result(lane, ins, value);
}

// The product's low half, high half, or both (into a register of twice the size).
u64 integer_product(Lane &lane, const Instruction &ins) {
    const u64 a = source(lane, ins, 1), b = source(lane, ins, 2);
    if (ins.part == Part::none) fail("an integer product without .lo, .hi or .wide");
    const Wide product = is_signed(ins.type()) ? Wide{static_cast<s64>(a)} * static_cast<s64>(b)
                                               : static_cast<Wide>(static_cast<unsigned __int128>(a) * b);
    return static_cast<u64>(ins.part == Part::hi ? product >> width(ins) : product);
}

Type widened(const Instruction &ins) {
    if (ins.part != Part::wide) return ins.type();
    switch (ins.type()) {
        case Type::s16: return Type::s32;
        case Type::u16: return Type::u32;
        case Type::s32: return Type::s64;
        default: return Type::u64;
    }
}

void integer_divide(Lane &lane, const Instruction &ins, bool wants_remainder) {
    const u64 a = source(lane, ins, 1), b = source(lane, ins, 2);
    if (b == 0) return result(lane, ins, wants_remainder ? a : ~u64{0});  // unspecified by PTX; what GPUs are seen to give
    if (!is_signed(ins.type())) return result(lane, ins, wants_remainder ? a % b : a / b);
    const Wide x = static_cast<s64>(a), y = static_cast<s64>(b);
    result(lane, ins, static_cast<u64>(wants_remainder ? x % y : x / y));
}
void remainder_step(Lane &lane, const Instruction &ins) { integer_divide(lane, ins, true); }

void integer_magnitude(Lane &lane, const Instruction &ins) {
    const u64 v = source(lane, ins, 1);
    result(lane, ins, static_cast<s64>(v) < 0 ? 0 - v : v);
}
void integer_negate(Lane &lane, const Instruction &ins) { result(lane, ins, 0 - source(lane, ins, 1)); }
void integer_extreme(Lane &lane, const Instruction &ins, bool wants_largest) {
    with_two(lane, ins, [&](u64 a, u64 b) { return (full(ins, a) < full(ins, b)) == wants_largest ? b : a; });
}

void bit_and_step(Lane &lane, const Instruction &ins) { with_two(lane, ins, [](u64 a, u64 b) { return a & b; }); }
void bit_or_step(Lane &lane, const Instruction &ins) { with_two(lane, ins, [](u64 a, u64 b) { return a | b; }); }
void bit_xor_step(Lane &lane, const Instruction &ins) { with_two(lane, ins, [](u64 a, u64 b) { return a ^ b; }); }
void bit_not_step(Lane &lane, const Instruction &ins) { result(lane, ins, ~source(lane, ins, 1)); }
void logical_not_step(Lane &lane, const Instruction &ins) { result(lane, ins, source(lane, ins, 1) == 0); }

void shift_left_step(Lane &lane, const Instruction &ins) {
    const u64 by = amount(lane, ins);
    result(lane, ins, by > 63 ? 0 : source(lane, ins, 1) << by);
}
void shift_right_step(Lane &lane, const Instruction &ins) {
    const u64 by = amount(lane, ins), v = source(lane, ins, 1);
    if (is_signed(ins.type())) return result(lane, ins, static_cast<u64>(static_cast<s64>(v) >> std::min<u64>(by, 63)));
    result(lane, ins, by > 63 ? 0 : v >> by);
}
// shf.l: high word of (b:a) << c; shf.r: low word of (b:a) >> c.
void funnel_shift_step(Lane &lane, const Instruction &ins) {
    const u64 both = source(lane, ins, 2) << 32 | source(lane, ins, 1);
    const u64 given = lane.get(ins.operands.at(3)) & 0xffffffffu, by = ins.logic == Mode::wrap ? given & 31 : std::min<u64>(given, 32);
    result(lane, ins, ins.mode == Mode::l ? both << by >> 32 : both >> by);
}

void field_extract_step(Lane &lane, const Instruction &ins) {
    const u64 v = source(lane, ins, 1);
    const int bits = width(ins), at = static_cast<int>(lane.get(ins.operands.at(2)) & 0xff);
    const int length = static_cast<int>(lane.get(ins.operands.at(3)) & 0xff);
    const int sign_at = std::min(at + length - 1, bits - 1);
    const u64 sign = is_signed(ins.type()) && length > 0 ? v >> std::min(sign_at, 63) & 1 : 0;
    u64 field = 0;
    for (int i = 0; i < bits; ++i) {
        const bool is_inside = i < length && at + i < bits;
        field |= (is_inside ? v >> (at + i) & 1 : sign) << i;
    }
    result(lane, ins, field);
}
void field_insert_step(Lane &lane, const Instruction &ins) {
    const u64 from = source(lane, ins, 1);
    u64 into = source(lane, ins, 2);
    const int bits = width(ins), at = static_cast<int>(lane.get(ins.operands.at(3)) & 0xff);
    const int length = static_cast<int>(lane.get(ins.operands.at(4)) & 0xff);
    for (int i = 0; i < length && at + i < bits; ++i) into = (into & ~(u64{1} << (at + i))) | (from >> i & 1) << (at + i);
    result(lane, ins, into);
}
void reverse_bits_step(Lane &lane, const Instruction &ins) {
    const u64 v = source(lane, ins, 1);
    u64 reversed = 0;
    for (int i = 0; i < width(ins); ++i) reversed |= (v >> i & 1) << (width(ins) - 1 - i);
    result(lane, ins, reversed);
}
void leading_zeros_step(Lane &lane, const Instruction &ins) {
    const u64 v = source(lane, ins, 1);
    lane.set(ins.operands.at(0), static_cast<u64>(v ? __builtin_clzll(v) - (64 - width(ins)) : width(ins)));
}
void count_ones_step(Lane &lane, const Instruction &ins) {
    lane.set(ins.operands.at(0), static_cast<u64>(__builtin_popcountll(source(lane, ins, 1))));
}
void find_leading_step(Lane &lane, const Instruction &ins) {
    u64 v = source(lane, ins, 1);
    if (is_signed(ins.type()) && static_cast<s64>(v) < 0) v = ~v;
    if (width(ins) == 32) v &= 0xffffffffu;
    const int found = v ? 63 - __builtin_clzll(v) : -1;
    lane.set(ins.operands.at(0), found < 0 ? 0xffffffffu : static_cast<u64>(ins.approx ? width(ins) - 1 - found : found));
}

void permute_bytes_step(Lane &lane, const Instruction &ins) {
    const u64 both = source(lane, ins, 2) << 32 | source(lane, ins, 1), selector = source(lane, ins, 3);
    u64 value = 0;
    for (int i = 0; i < 4; ++i) {
        const u64 pick = selector >> (4 * i) & 15;
        u64 byte = both >> (8 * (pick & 7)) & 0xff;
        if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
        value |= byte << (8 * i);
    }
    result(lane, ins, value);
}
void lookup3_step(Lane &lane, const Instruction &ins) {
    const u64 a = source(lane, ins, 1), b = source(lane, ins, 2), c = source(lane, ins, 3), table = lane.get(ins.operands.at(4));
    u64 value = 0;
    for (int row = 0; row < 8; ++row)
        if (table >> row & 1) value |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
    result(lane, ins, value);
}

namespace {
s64 element(Type type, u64 bits, int index, int bytes) {
    const Type each = bytes == 1 ? (is_signed(type) ? Type::s8 : Type::u8) : is_signed(type) ? Type::s16 : Type::u16;
    return static_cast<s64>(extend(each, bits >> (8 * bytes * index)));
}
}  // namespace
// dp4a.atype.btype: four products of bytes, added to c.
void dot4_step(Lane &lane, const Instruction &ins) {
    const u64 a = lane.get(ins.operands.at(1)), b = lane.get(ins.operands.at(2));
    s64 sum = static_cast<s64>(lane.get(ins.operands.at(3)));
    for (int i = 0; i < 4; ++i) sum += element(ins.types[0], a, i, 1) * element(ins.types[1], b, i, 1);
    lane.set(ins.operands.at(0), extend(is_signed(ins.types[0]) || is_signed(ins.types[1]) ? Type::s32 : Type::u32, static_cast<u64>(sum)));
}
// dp2a.lo/.hi: two 16-bit values of a times the low or high two bytes of b.
void dot2_step(Lane &lane, const Instruction &ins) {
    const u64 a = lane.get(ins.operands.at(1)), b = lane.get(ins.operands.at(2));
    s64 sum = static_cast<s64>(lane.get(ins.operands.at(3)));
    for (int i = 0; i < 2; ++i) sum += element(ins.types[0], a, i, 2) * element(ins.types[1], b, i + (ins.part == Part::hi ? 2 : 0), 1);
    lane.set(ins.operands.at(0), extend(is_signed(ins.types[0]) || is_signed(ins.types[1]) ? Type::s32 : Type::u32, static_cast<u64>(sum)));
}
void sum_of_differences_step(Lane &lane, const Instruction &ins) {
    const u64 a = source(lane, ins, 1), b = source(lane, ins, 2);
    result(lane, ins, source(lane, ins, 3) + (full(ins, a) < full(ins, b) ? b - a : a - b));
}

}  // namespace t5k::ptx
