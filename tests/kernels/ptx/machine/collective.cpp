// Instructions of a whole warp. Each step runs for every lane of the mask once all of them have arrived, in lane order;
// what a lane reads of another are registers, and results land after the last lane has read (Lane::set).
#include <algorithm>
#include <utility>

#include "opcodes.h"

namespace t5k::ptx {
namespace {

Lane *peer(Lane &lane, u32 number) {
    Block &block = *lane.block;
    const u32 index = block.first_lane(lane.warp()) + number;
    return index < block.lanes.size() ? &block.lanes[index] : nullptr;
}
Lane &member(Lane &lane, u32 number) {
    Lane *other = peer(lane, number);
    if (!other || !(lane.mask >> number & 1)) fail("reads lane %u, which its mask %08x does not name", number, lane.mask);
    return *other;
}
template <class F>
void each_member(Lane &lane, F f) {
    for (u32 i = 0; i < 32; ++i)
        if (lane.mask >> i & 1) f(member(lane, i), i);
}

}  // namespace

// shfl.sync.mode d|p, a, b, c, mask: the manual's pseudo-code. c holds the segment mask (12..8) and the clamp (4..0).
void shuffle_step(Lane &lane, const Instruction &ins) {
    const u32 l = lane.lane(), b = static_cast<u32>(lane.get(ins.operands.at(2))) & 31, c = static_cast<u32>(lane.get(ins.operands.at(3)));
    const u32 segment = c >> 8 & 31, highest = (l & segment) | (c & 31 & ~segment), lowest = l & segment;
    u32 from = l;
    bool is_inside = false;
    switch (ins.mode) {
        case Mode::up: is_inside = static_cast<int>(l - b) >= static_cast<int>(highest), from = l - b; break;
        case Mode::down: is_inside = l + b <= highest, from = l + b; break;
        case Mode::bfly: is_inside = (l ^ b) <= highest, from = l ^ b; break;
        default: is_inside = (lowest | (b & ~segment)) <= highest, from = lowest | (b & ~segment); break;
    }
    if (!is_inside) from = l;
    lane.set(ins.operands.at(0), member(lane, from).get(ins.operands.at(1)) & 0xffffffffu);
    lane.set(ins.second, is_inside);
}

void vote_step(Lane &lane, const Instruction &ins) {
    u32 ballot = 0;
    each_member(lane, [&](Lane &other, u32 i) { ballot |= static_cast<u32>(other.get(ins.operands.at(1)) & 1) << i; });
    const bool all = ballot == lane.mask, any = ballot != 0;
    const u64 value = ins.mode == Mode::ballot ? ballot : ins.mode == Mode::all ? all : ins.mode == Mode::any ? any : all || !any;
    lane.set(ins.operands.at(0), value);
}

void match_step(Lane &lane, const Instruction &ins) {
    const u64 mine = extend(ins.type(), lane.get(ins.operands.at(1)));
    u32 same = 0;
    each_member(lane, [&](Lane &other, u32 i) { same |= static_cast<u32>(extend(ins.type(), other.get(ins.operands.at(1))) == mine) << i; });
    if (ins.mode == Mode::any) return lane.set(ins.operands.at(0), same);
    lane.set(ins.operands.at(0), same == lane.mask ? same : 0);
    lane.set(ins.second, same == lane.mask);
}

void reduce_step(Lane &lane, const Instruction &ins) {
    bool is_first = true;
    u64 total = 0;
    each_member(lane, [&](Lane &other, u32) {
        const u64 v = extend(ins.type(), other.get(ins.operands.at(1)));
        if (std::exchange(is_first, false)) {
            total = v;
            return;
        }
        const bool is_less = is_signed(ins.type()) ? static_cast<s64>(v) < static_cast<s64>(total) : v < total;
        switch (ins.mode) {
            case Mode::add: total += v; break;
            case Mode::and_: total &= v; break;
            case Mode::or_: total |= v; break;
            case Mode::xor_: total ^= v; break;
            case Mode::min: total = is_less ? v : total; break;
            case Mode::max: total = is_less ? total : v; break;
            default: fail("redux without an operation");
        }
    });
    lane.set(ins.operands.at(0), extend(ins.type(), total));
}

void active_mask_step(Lane &lane, const Instruction &ins) { lane.set(ins.operands.at(0), lane.mask); }

// bar.warp.sync: every member now knows what every other had done.
void warp_barrier_step(Lane &lane, const Instruction &) {
    each_member(lane, [&](Lane &other, u32) {
        for (int i = 0; i < 32; ++i) lane.clock[i] = std::max(lane.clock[i], other.clock[i]);
    });
}

// ldmatrix: lane 8 i + r of the warp gives the address of row r of matrix i; lane l gets elements 2 (l % 4), + 1 of row
// l / 4 of each matrix, or of its transpose.
void load_matrix_step(Lane &lane, const Instruction &ins) {
    const u32 l = lane.lane();
    const Operand &to = ins.operands.at(0);
    for (int i = 0; i < ins.count; ++i) {
        const auto element = [&](u32 row, u32 column) {
            const u64 address = member(lane, static_cast<u32>(i) * 8 + row).get(ins.operands.at(1));
            if ((address & ~TAGS) % 16) fail("misaligned: a row of ldmatrix at an address that is no multiple of 16");
            u16 value;
            memcpy(&value, lane.block->at(lane, ins, ins.space, address + column * 2, 2, Access::read), 2);
            return u32{value};
        };
        const u32 row = l / 4, column = l % 4 * 2;
        const u32 low = ins.trans ? element(column, row) : element(row, column);
        const u32 high = ins.trans ? element(column + 1, row) : element(row, column + 1);
        lane.set(to.kind == Operand::group ? to.members.at(static_cast<size_t>(i)) : to, low | high << 16);
    }
}

namespace {

// Element (row, k) of A or (k, column) of B, from the register of the lane that the manual's tables name.
struct Fragments {
    Lane &lane;
    const Instruction &ins;
    Type a, b;

    u64 raw(u32 from, size_t operand, u32 reg, Type type, u32 index) const {
        const Operand &o = ins.operands.at(operand);
        const u64 bits = member(lane, from).get(o.kind == Operand::group ? o.members.at(reg) : o);
        const u32 width = 8 * static_cast<u32>(bytes_of(type));
        return width == 32 ? bits & 0xffffffffu : bits >> (width * index) & ((u64{1} << width) - 1);
    }
    // A register holds 4 / bytes neighbouring k; four lanes hold a row of them; registers: row + 8 first, then higher k.
    long double of_a(u32 row, u32 k) const {
        const u32 each = 4 / static_cast<u32>(bytes_of(a)), span = 4 * each, rows = static_cast<u32>(ins.m) / 8;
        const u32 from = row % 8 * 4 + k % span / each, reg = row / 8 + k / span * rows;
        return value(a, raw(from, 1, reg, a, k % each));
    }
    long double of_b(u32 k, u32 column) const {
        const u32 each = 4 / static_cast<u32>(bytes_of(b)), span = 4 * each;
        return value(b, raw(column * 4 + k % span / each, 2, k / span, b, k % each));
    }
    static long double value(Type type, u64 bits) {
        if (type == Type::tf32) return from_bits<float>(bits & 0xffffe000u);  // the tensor core ignores the low 13 bits
        if (is_float(type)) return decode_float(type, bits);
        return is_signed(type) ? static_cast<long double>(static_cast<s64>(extend(type, bits))) : static_cast<long double>(bits);
    }
};

}  // namespace

// mma.sync m16n8k8, k16, k32: f16, bf16, tf32 with fp32 (or f16) sums, s8/u8 with exact s32 sums. The products of one
// instruction are added in double and rounded once; a tensor core adds them in an order and width nobody documents.
void multiply_matrix_step(Lane &lane, const Instruction &ins) {
    const Type d = ins.types[0], a = ins.types[1], b = ins.types[2];
    if (lane.mask != 0xffffffffu) fail("mma needs all 32 lanes");
    if (ins.m != 16 || ins.n != 8 || ins.k * bytes_of(a) > 32 || ins.k * bytes_of(a) < 16) fail("mma of a shape that is not known");
    const Fragments fragments{lane, ins, a, b};
    const u32 l = lane.lane();
    const Operand &to = ins.operands.at(0), &from = ins.operands.at(3);
    u64 packed[2] = {0, 0};
    for (u32 i = 0; i < 4; ++i) {
        const u32 row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        long double sum = 0;
        for (u32 k = 0; k < static_cast<u32>(ins.k); ++k) sum += fragments.of_a(row, k) * fragments.of_b(k, column);
        if (d == Type::f16) {
            sum += decode_float(d, lane.get(from.members.at(i / 2)) >> (16 * (i % 2)) & 0xffff);
            packed[i / 2] |= encode_float(d, sum, Round::rn) << (16 * (i % 2));
            continue;
        }
        const u64 old = lane.get(from.members.at(i));
        if (d == Type::f32) {
            lane.set(to.members.at(i), to_bits(static_cast<float>(decode_float(d, old) + static_cast<long double>(static_cast<double>(sum)))));
        } else {
            const s64 total = static_cast<s64>(sum) + static_cast<s64>(extend(d, old));
            lane.set(to.members.at(i), extend(d, static_cast<u64>(ins.satfinite ? std::min<s64>(std::max<s64>(total, INT32_MIN), INT32_MAX) : total)));
        }
    }
    if (d == Type::f16)
        for (u32 i = 0; i < 2; ++i) lane.set(to.members.at(i), packed[i]);
}

}  // namespace t5k::ptx
