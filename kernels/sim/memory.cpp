#include "sim/memory.h"

#include <cstdlib>
#include <cstring>
#include <map>

// Null unless the process has AddressSanitizer, which then sees reads of the canaries too.
extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void *start, size_t bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void *start, size_t bytes);
}

namespace t5k::sim {
namespace {

constexpr size_t EDGE = 256;  // also the alignment cuMemAlloc promises
constexpr unsigned char CANARY = 0x5a, POISON = 0xff;

std::map<unsigned char *, size_t> live;  // start -> bytes
size_t capacity = size_t{1} << 40, used = 0;

}  // namespace

void guard(const void *start, size_t bytes) {
    if (__asan_poison_memory_region) __asan_poison_memory_region(start, bytes);
}

// Sizes are not rounded up: the first byte past the end is a canary already.
void *allocate_memory(size_t bytes) {
    if (!bytes || used + bytes > capacity) return nullptr;
    void *raw = nullptr;
    if (posix_memalign(&raw, EDGE, EDGE + bytes + EDGE)) return nullptr;
    auto *start = static_cast<unsigned char *>(raw) + EDGE;
    memset(raw, CANARY, EDGE + bytes + EDGE);
    memset(start, POISON, bytes);
    guard(start - EDGE, EDGE);
    guard(start + bytes, EDGE);
    live[start] = bytes;
    used += bytes;
    return start;
}

bool free_memory(void *memory) {
    const auto it = live.find(static_cast<unsigned char *>(memory));
    if (it == live.end()) return false;
    used -= it->second;
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(it->first - EDGE, EDGE + it->second + EDGE);
    free(it->first - EDGE);
    live.erase(it);
    return true;
}

bool owns(const void *memory, size_t bytes) {
    auto *p = static_cast<unsigned char *>(const_cast<void *>(memory));
    auto it = live.upper_bound(p);
    if (it == live.begin()) return false;
    --it;
    return p + bytes <= it->first + it->second;
}

std::string damaged() {
    for (const auto &[start, bytes] : live)
        for (size_t i = 0; i < EDGE; ++i) {
            if (start[bytes + i] != CANARY) return "wrote past the end of an allocation of " + std::to_string(bytes) + " bytes";
            if (start[-1 - static_cast<ptrdiff_t>(i)] != CANARY)
                return "wrote before the start of an allocation of " + std::to_string(bytes) + " bytes";
        }
    return {};
}

void set_capacity(size_t bytes) { capacity = bytes; }
size_t capacity_bytes() { return capacity; }
size_t allocations() { return live.size(); }

}  // namespace t5k::sim
