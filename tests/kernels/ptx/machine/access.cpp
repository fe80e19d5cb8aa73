// Every touch of memory, checked: whose it is, alignment, bounds, whether it was ever written, and races.
//
// Happens-before is exact inside a block: program order, block barriers (an epoch) and bar.warp.sync (a clock per lane).
// Shuffles and votes order nothing, as the manual says. Blocks of one launch are unordered. Strong accesses (atomics,
// volatile, relaxed, acquire, release) never race with each other. Each 4 bytes remember their last write and last two
// readers, so a race that needs an older reader may be missed; nothing that is ordered is ever reported.
#include "lane.h"

namespace t5k::ptx {
namespace {

bool is_before(const History::Access &before, const Lane &lane) {
    const Block &block = *lane.block;
    if (before.launch != block.launch_serial) return true;
    if (before.block != block.number) return false;
    if (before.epoch != block.epoch || before.thread == lane.index) return true;
    return before.thread / 32 == lane.warp() && lane.clock[before.thread % 32] >= before.clock;
}

void clash(const Lane &lane, const Instruction &ins, const History::Access &other, const char *first, const char *second, const char *what) {
    if (other.block != lane.block->number)
        fail("race in %s: %s here, %s on line %d by block %u, and nothing orders blocks of one launch", what, second, first,
             other.line, other.block);
    fail("race in %s: %s here on line %d, %s on line %d by thread %u, and no barrier between them", what, second, ins.line, first,
         other.line, other.thread);
}

}  // namespace

void Block::note(Lane &lane, const Instruction &ins, History *history, size_t offset, size_t bytes, Access access, const char *what) {
    for (size_t at = offset; at < offset + bytes;) {
        const size_t word = at / 4, end = std::min(offset + bytes, (word + 1) * 4);
        const u8 mask = static_cast<u8>(((1u << (end - at)) - 1) << at % 4);
        History &h = history[word];
        const History::Access now{launch_serial, number, lane.index, epoch, lane.clock[lane.lane()], mask, ins.is_strong, ins.line};
        const auto conflicts = [&](const History::Access &other) {
            return (other.mask & mask) && !(other.is_strong && ins.is_strong) && !is_before(other, lane);
        };
        if (conflicts(h.write)) clash(lane, ins, h.write, "written", access == Access::write ? "written" : "read", what);
        if (access == Access::write) {
            for (const History::Access &reader : h.reads)
                if (conflicts(reader)) clash(lane, ins, reader, "read", "written", what);
            h.write = now;
        } else {
            const bool is_newest = h.reads[0].thread == lane.index && h.reads[0].block == number && h.reads[0].launch == launch_serial;
            if (!is_newest) h.reads[1] = h.reads[0];
            h.reads[0] = now;
        }
        at = end;
    }
}

unsigned char *Block::shared_bytes(Lane &lane, const Instruction &ins, u64 address, size_t bytes, Access access) {
    if (address < SHARED_START || address + bytes > SHARED_START + shared.size())
        fail("shared memory ends at %zu bytes: %s of %zu bytes at %lld", shared.size(), access == Access::read ? "read" : "write", bytes,
             static_cast<long long>(address - SHARED_START));
    const size_t offset = address - SHARED_START;
    for (size_t i = offset; i < offset + bytes; ++i) {
        if (written[i] == 3)
            fail("out of bounds: %s of %zu bytes at %zu, past the end of a shared variable", access == Access::read ? "read" : "write", bytes, offset);
        if (written[i] == 2)
            fail("an asynchronous copy to these bytes is still under way: nobody waited for it");
        if (written[i] == 0 && access == Access::read) fail("uninitialised: shared byte %zu was never written", i);
        if (access == Access::write) written[i] = 1;
    }
    note(lane, ins, shared_history.data(), offset, bytes, access, "shared memory");
    return shared.data() + offset;
}

unsigned char *Block::at(Lane &lane, const Instruction &ins, Space space, u64 address, size_t bytes, Access access) {
    if (space == Space::generic) {
        const u64 tag = address & TAGS;
        space = tag == TAG_SHARED ? Space::shared : tag == TAG_LOCAL ? Space::local : tag == TAG_PARAM ? Space::param : Space::global;
        address &= ~TAGS;
    }
    if (address % bytes) fail("misaligned: %zu bytes at an address that is %llu more than a multiple", bytes, static_cast<unsigned long long>(address % bytes));
    if (space == Space::shared) return shared_bytes(lane, ins, address, bytes, access);
    if (space == Space::param) {
        if (access == Access::write) fail("parameters are read-only");
        if (address + bytes > code->param_bytes) fail("out of bounds: parameters end at %zu bytes, read at %llu", code->param_bytes, static_cast<unsigned long long>(address));
        return const_cast<unsigned char *>(static_cast<const unsigned char *>(launch->job)) + address;
    }
    if (space == Space::local) {
        if (address + bytes > lane.local.size()) fail("out of bounds: local memory ends at %zu bytes, access at %llu", lane.local.size(), static_cast<unsigned long long>(address));
        return lane.local.data() + address;
    }
    Allocation *allocation = allocation_of(address, bytes);
    if (!allocation) {
        Allocation *nearest = nullptr;
        for (u64 back = 1; back <= 4096 && !nearest; back *= 2) nearest = allocation_of(address - back, 1);
        fail("out of bounds: %s of %zu bytes at an address in no allocation%s%s%s", access == Access::read ? "read" : "write", bytes,
             nearest ? " (behind one of " : "", nearest ? std::to_string(nearest->bytes).c_str() : "", nearest ? " bytes)" : "");
    }
    if (!is_visible(*allocation)) fail("touched memory of device %d without peer access", allocation->device);
    if (space != Space::constant) {
        if (allocation->history.empty()) allocation->history.resize(allocation->bytes / 4 + 1);
        note(lane, ins, allocation->history.data(), address - reinterpret_cast<u64>(allocation->start), bytes, access, "global memory");
    }
    return reinterpret_cast<unsigned char *>(address);
}

}  // namespace t5k::ptx
