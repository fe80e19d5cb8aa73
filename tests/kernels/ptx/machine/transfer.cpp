// Moving data: mov, ld, st, address conversion, atomics, asynchronous copies.
#include <algorithm>

#include "opcodes.h"

namespace t5k::ptx {
namespace {

// Registers that a vector instruction names, in order.
const Operand &part(const Operand &o, int i) { return o.kind == Operand::group ? o.members.at(static_cast<size_t>(i)) : o; }
int parts(const Operand &o) { return o.kind == Operand::group ? static_cast<int>(o.members.size()) : 1; }

u64 read(const unsigned char *from, int bytes) {
    u64 value = 0;
    memcpy(&value, from, static_cast<size_t>(std::min(bytes, 8)));
    return value;
}

}  // namespace

// Also packs and unpacks: one side in braces, of equal pieces.
void move_step(Lane &lane, const Instruction &ins) {
    const Operand &to = ins.operands.at(0), &from = ins.operands.at(1);
    const int bits = 8 * bytes_of(ins.type());
    if (to.kind != Operand::group && from.kind != Operand::group) return lane.set(to, extend(ins.type(), lane.get(from)));
    if (ins.type() == Type::b128) fail("128-bit moves in pieces are not supported");
    if (to.kind == Operand::group) {
        const int each = bits / parts(to);
        const u64 value = lane.get(from);
        for (int i = 0; i < parts(to); ++i) lane.set(part(to, i), value >> (each * i) & (each == 64 ? ~u64{0} : (u64{1} << each) - 1));
        return;
    }
    const int each = bits / parts(from);
    u64 value = 0;
    for (int i = 0; i < parts(from); ++i) value |= (lane.get(part(from, i)) & ((u64{1} << each) - 1)) << (each * i);
    lane.set(to, value);
}

void load_step(Lane &lane, const Instruction &ins) {
    const int bytes = bytes_of(ins.type());
    const Operand &to = ins.operands.at(0);
    if (parts(to) != ins.vector) fail("%d registers for a load of %d values", parts(to), ins.vector);
    const auto *from = lane.block->at(lane, ins, ins.space, lane.get(ins.operands.at(1)), static_cast<size_t>(bytes * ins.vector), Access::read);
    for (int i = 0; i < ins.vector; ++i) lane.set(part(to, i), extend(ins.type(), read(from + i * bytes, bytes)));
}

void store_step(Lane &lane, const Instruction &ins) {
    const int bytes = bytes_of(ins.type());
    const Operand &from = ins.operands.at(1);
    if (parts(from) != ins.vector) fail("%d registers for a store of %d values", parts(from), ins.vector);
    auto *to = lane.block->at(lane, ins, ins.space, lane.get(ins.operands.at(0)), static_cast<size_t>(bytes * ins.vector), Access::write);
    for (int i = 0; i < ins.vector; ++i) {
        const u64 value = lane.get(part(from, i));
        memcpy(to + i * bytes, &value, static_cast<size_t>(bytes));
    }
}

void nothing_step(Lane &, const Instruction &) {}
void trap_step(Lane &, const Instruction &) { fail("the kernel called trap"); }

// cvta.shared: a shared address as a generic one; cvta.to.shared: back.
void to_address_step(Lane &lane, const Instruction &ins) {
    u64 value = lane.get(ins.operands.at(1));
    const u64 tag = ins.space == Space::shared ? TAG_SHARED : ins.space == Space::local ? TAG_LOCAL : ins.space == Space::param ? TAG_PARAM : 0;
    if (ins.to) {
        if ((value & TAGS) != tag) fail("a generic address of another space");
        value &= ~TAGS;
    } else {
        value |= tag;
    }
    lane.set(ins.operands.at(0), value);
}
void is_space_step(Lane &lane, const Instruction &ins) {
    const u64 tag = ins.space == Space::shared ? TAG_SHARED : ins.space == Space::local ? TAG_LOCAL : ins.space == Space::param ? TAG_PARAM : 0;
    lane.set(ins.operands.at(0), (lane.get(ins.operands.at(1)) & TAGS) == tag);
}

namespace {

u64 combine(const Instruction &ins, u64 old, u64 b, u64 c) {
    const Type t = ins.type();
    if (ins.mode == Mode::exch) return b;
    if (ins.mode == Mode::cas) return extend(t, old) == extend(t, b) ? c : old;
    if (ins.mode == Mode::and_) return old & b;
    if (ins.mode == Mode::or_) return old | b;
    if (ins.mode == Mode::xor_) return old ^ b;
    if (ins.mode == Mode::inc) return extend(t, old) >= extend(t, b) ? 0 : old + 1;
    if (ins.mode == Mode::dec) return extend(t, old) == 0 || extend(t, old) > extend(t, b) ? b : old - 1;
    if (is_float(t)) {
        const bool is_pair = t == Type::f16x2 || t == Type::bf16x2;
        const Type each = t == Type::f16x2 ? Type::f16 : t == Type::bf16x2 ? Type::bf16 : t;
        u64 out = 0;
        for (int i = 0; i < (is_pair ? 2 : 1); ++i) {
            const long double x = decode_float(each, old >> (16 * i)), y = decode_float(each, b >> (16 * i));
            const long double v = ins.mode == Mode::add ? x + y : ins.mode == Mode::min ? std::min(x, y) : std::max(x, y);
            out |= encode_float(each, v, Round::rn) << (16 * i);
        }
        return out;
    }
    if (ins.mode == Mode::add) return old + b;
    const u64 x = extend(t, old), y = extend(t, b);
    const bool is_less = is_signed(t) ? static_cast<s64>(x) < static_cast<s64>(y) : x < y;
    return (ins.mode == Mode::min) == is_less ? x : y;
}

}  // namespace

// atom d, [a], b{, c}; red [a], b
void atomic_step(Lane &lane, const Instruction &given) {
    Instruction ins = given;
    ins.is_strong = true;
    const bool returns = ins.operands.at(0).kind != Operand::address;
    const size_t first = returns ? 1 : 0;
    const int bytes = bytes_of(ins.type());
    auto *at = lane.block->at(lane, ins, ins.space, lane.get(ins.operands.at(first)), static_cast<size_t>(bytes), Access::read);
    lane.block->at(lane, ins, ins.space, lane.get(ins.operands.at(first)), static_cast<size_t>(bytes), Access::write);
    const u64 old = extend(ins.type(), read(at, bytes)), b = lane.get(ins.operands.at(first + 1));
    const u64 value = combine(ins, old, b, ins.operands.size() > first + 2 ? lane.get(ins.operands.at(first + 2)) : 0);
    memcpy(at, &value, static_cast<size_t>(bytes));
    if (returns) lane.set(ins.operands.at(0), old);
}

// cp.async [to], [from], bytes{, source bytes}: nothing arrives before a wait; until then nobody may touch `to`.
void copy_async_step(Lane &lane, const Instruction &ins) {
    const u64 to = lane.get(ins.operands.at(0)), from = lane.get(ins.operands.at(1));
    const size_t bytes = lane.get(ins.operands.at(2));
    if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async of %zu bytes", bytes);
    const size_t given = ins.operands.size() > 3 ? std::min<size_t>(lane.get(ins.operands.at(3)) & 0xffffffffu, bytes) : bytes;
    if (to % bytes || from % bytes) fail("misaligned: cp.async of %zu bytes", bytes);
    lane.block->at(lane, ins, Space::shared, to, bytes, Access::write);
    PendingCopy copy;
    copy.to = to;
    copy.bytes = bytes;
    copy.line = ins.line;
    if (given) {
        // All 16 bytes must lie in one allocation even when fewer are wanted; alignment is that of the whole.
        copy.from = lane.block->at(lane, ins, Space::global, from, bytes, Access::read);
        copy.seen.assign(copy.from, copy.from + given);
    }
    memset(lane.block->written.data() + (to - SHARED_START), 2, bytes);
    lane.uncommitted.push_back(std::move(copy));
}

void commit_group_step(Lane &lane, const Instruction &) {
    lane.committed.push_back(std::move(lane.uncommitted));
    lane.uncommitted.clear();
}

void wait_group_step(Lane &lane, const Instruction &ins) {
    if (ins.operands.empty()) {  // wait_all
        commit_group_step(lane, ins);
        return land_copies(lane, ins, 0);
    }
    land_copies(lane, ins, lane.get(ins.operands.at(0)));
}

void land_copies(Lane &lane, const Instruction &ins, size_t pending) {
    Block &block = *lane.block;
    while (lane.committed.size() > pending) {
        for (const PendingCopy &copy : lane.committed.front()) {
            const size_t offset = copy.to - SHARED_START;
            if (!copy.seen.empty() && memcmp(copy.from, copy.seen.data(), copy.seen.size()) != 0)
                fail("the source of the asynchronous copy on line %d changed before it was waited for", copy.line);
            memset(block.shared.data() + offset, 0, copy.bytes);
            if (!copy.seen.empty()) memcpy(block.shared.data() + offset, copy.seen.data(), copy.seen.size());
            memset(block.written.data() + offset, 1, copy.bytes);
            Instruction issuer = ins;
            issuer.line = copy.line;
            block.note(lane, issuer, block.shared_history.data(), offset, copy.bytes, Access::write, "shared memory");
        }
        lane.committed.pop_front();
    }
}

}  // namespace t5k::ptx
