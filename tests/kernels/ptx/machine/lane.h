// One block in the making: its threads, shared memory, and what each thread waits for.
#pragma once

#include <cstring>
#include <deque>
#include <random>

#include "memory.h"
#include "program.h"
#include "sim/block.h"

namespace t5k::ptx {

enum class State : u8 { ready, at_barrier, at_collective, exited };

struct PendingCopy {
    u64 to = 0;
    const unsigned char *from = nullptr;
    std::vector<unsigned char> seen;  // the source at issue: it may not change before the copy lands
    size_t bytes = 0;                 // of the destination; the rest of `seen` is zeros
    int line = 0;
};

// One CUDA thread.
struct Lane {
    Block *block = nullptr;
    u64 *registers = nullptr;
    u32 pc = 0, index = 0, tid[3] = {0, 0, 0};
    State state = State::ready;
    bool carry = false;
    u32 mask = 0;         // of the collective it waits in
    u32 barrier = 0;      // number of the barrier it waits at
    u32 barrier_count = 0;  // threads that barrier expects; 0: all
    u32 clock[32] = {};   // happens-before inside the warp: how far each lane had come when last synchronised
    std::vector<unsigned char> local;
    std::vector<PendingCopy> uncommitted;
    std::deque<std::vector<PendingCopy>> committed;

    u32 lane() const { return index % 32; }
    u32 warp() const { return index / 32; }
    inline u64 get(const Operand &o) const;
    inline void set(const Operand &o, u64 value);
    u64 special(u64 number) const;
};

enum class Access : u8 { read, write };

struct Block {
    const Code *code = nullptr;
    const sim::Launch *launch = nullptr;
    u32 launch_serial = 0, number = 0, id[3] = {0, 0, 0};
    u32 epoch = 1;  // barriers passed
    std::vector<Lane> lanes;
    std::vector<u64> registers;
    std::vector<unsigned char> shared;     // from SHARED_START
    std::vector<unsigned char> written;    // per shared byte: 0 never, 1 written, 2 a copy is under way, 3 nobody's
    std::vector<History> shared_history;
    std::mt19937_64 *noise = nullptr;      // of approximate instructions; null: correctly rounded
    bool is_deferring = false;             // inside a collective: results land when every lane has read its peers
    std::vector<std::pair<u64 *, u64>> deferred;

    // The bytes behind `address`, checked: space, alignment, bounds, initialisation, races. `lane` for its identity.
    unsigned char *at(Lane &lane, const Instruction &ins, Space space, u64 address, size_t bytes, Access access);
    unsigned char *shared_bytes(Lane &lane, const Instruction &ins, u64 address, size_t bytes, Access access);
    void note(Lane &lane, const Instruction &ins, History *history, size_t offset, size_t bytes, Access access, const char *what);
    u32 first_lane(u32 warp) const { return warp * 32; }
};

inline u64 Lane::get(const Operand &o) const {
    switch (o.kind) {
        case Operand::reg: return o.is_negated ? !registers[o.slot] : registers[o.slot];
        case Operand::immediate:
        case Operand::label: return o.bits;
        case Operand::special: return special(o.bits);
        case Operand::address: return o.bits + (o.slot >= 0 ? registers[o.slot] : 0);
        default: fail("an operand without a value");
    }
}

inline void Lane::set(const Operand &o, u64 value) {
    if (o.kind != Operand::reg) return;
    if (block->is_deferring)
        block->deferred.emplace_back(&registers[o.slot], value);
    else
        registers[o.slot] = value;
}

// Tags of generic addresses that are not global; real heap addresses never have them.
constexpr u64 TAG_SHARED = u64{1} << 56, TAG_LOCAL = u64{2} << 56, TAG_PARAM = u64{3} << 56, TAGS = u64{0xff} << 56;

template <class T>
T from_bits(u64 bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T>
u64 to_bits(T value) {
    u64 bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

// `bits` read as an integer of `type`, extended to 64 bits.
inline u64 extend(Type type, u64 bits) {
    switch (bytes_of(type)) {
        case 1: return type == Type::pred ? bits & 1 : is_signed(type) ? static_cast<u64>(static_cast<s64>(static_cast<int8_t>(bits))) : bits & 0xff;
        case 2: return is_signed(type) ? static_cast<u64>(static_cast<s64>(static_cast<int16_t>(bits))) : bits & 0xffff;
        case 4: return is_signed(type) ? static_cast<u64>(static_cast<s64>(static_cast<int32_t>(bits))) : bits & 0xffffffffu;
        default: return bits;
    }
}

// Numbers of every floating type, through the widest: exact for all of them, and for 64-bit integers.
long double decode_float(Type type, u64 bits);
u64 encode_float(Type type, long double value, Round round, bool saturates_finite = false);

// The exact result of an approximate instruction, off by up to `relative` (of the value) + `absolute` when noise is on.
double approximate(Lane &lane, double exact, double relative, double absolute = 0.0);

// Collectives: what the runner does when a warp has arrived at `ins`.
void land_copies(Lane &lane, const Instruction &ins, size_t pending);

}  // namespace t5k::ptx
