#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <map>

namespace t5k {
namespace {

constexpr size_t ALIGNMENT = 256;  // what cuMemAlloc promises
constexpr unsigned char POISON = 0xff;

std::map<u_int64_t, ptx::Allocation> live;  // start -> allocation
size_t capacity[sim::MOST_DEVICES], used[sim::MOST_DEVICES];
unsigned visible = sim::EVERYTHING;

const bool is_set = [] {
    sim::set_capacity(size_t{1} << 40);
    return true;
}();

}  // namespace

namespace sim {

// Sizes are not rounded up: the first byte past the end belongs to nobody.
void *allocate_memory(size_t bytes, int device, bool) {
    if (!bytes || used[device] + bytes > capacity[device]) return nullptr;
    void *start = nullptr;
    if (posix_memalign(&start, ALIGNMENT, bytes + ALIGNMENT)) return nullptr;
    memset(start, POISON, bytes);
    ptx::Allocation allocation;
    allocation.start = static_cast<unsigned char *>(start);
    allocation.bytes = bytes;
    allocation.device = device;
    live[reinterpret_cast<u_int64_t>(start)] = std::move(allocation);
    used[device] += bytes;
    return start;
}

bool free_memory(void *memory) {
    const auto it = live.find(reinterpret_cast<u_int64_t>(memory));
    if (it == live.end()) return false;
    used[it->second.device] -= it->second.bytes;
    free(it->second.start);
    live.erase(it);
    return true;
}

bool owns(const void *memory, size_t bytes) { return ptx::allocation_of(reinterpret_cast<u_int64_t>(memory), bytes); }
std::string damaged() { return {}; }  // every access was checked when it was made
void guard(const void *, size_t) {}
int owner(const void *memory) {
    const ptx::Allocation *allocation = ptx::allocation_of(reinterpret_cast<u_int64_t>(memory), 1);
    return allocation ? allocation->device : -1;
}
void see(unsigned devices) { visible = devices; }
void set_capacity(size_t bytes) {
    for (size_t &each : capacity) each = bytes;
}
void set_capacity(int device, size_t bytes) { capacity[device] = bytes; }
size_t capacity_bytes(int device) { return capacity[device]; }
size_t allocations() { return live.size(); }

}  // namespace sim

ptx::Allocation *ptx::allocation_of(u64 address, size_t bytes) {
    auto it = live.upper_bound(address);
    if (it == live.begin()) return nullptr;
    --it;
    return address + bytes <= it->first + it->second.bytes ? &it->second : nullptr;
}

bool ptx::is_visible(const Allocation &allocation) { return allocation.is_module_s || visible >> allocation.device & 1; }

}  // namespace t5k
