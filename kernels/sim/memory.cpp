#include "sim/memory.h"

#include <signal.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "sim/sim.h"

// Null unless the process has AddressSanitizer, which then sees reads of the canaries too.
extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void *start, size_t bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void *start, size_t bytes);
}

namespace t5k::sim {
namespace {

constexpr size_t EDGE = 256;  // also the alignment cuMemAlloc promises
constexpr unsigned char CANARY = 0x5a, POISON = 0xff;
constexpr size_t RANGE = size_t{1} << 34;  // addresses of one device; pages come when they are touched

struct Allocation {
    size_t bytes;
    int device;
    bool is_heap;
};
std::map<unsigned char *, Allocation> live;  // by start

// One device's addresses, handed out upwards and taken back when nothing lives there any more.
struct Range {
    unsigned char *start = nullptr;
    size_t next = 0, live = 0;
};
Range ranges[MOST_DEVICES];
size_t capacity[MOST_DEVICES], used[MOST_DEVICES];
unsigned visible = EVERYTHING;
struct sigaction before;

const bool is_set = [] {
    set_capacity(size_t{1} << 40);
    return true;
}();

void *take(Range &range, size_t bytes) {
    if (!range.start) {
        void *p = mmap(nullptr, RANGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return nullptr;
        range.start = static_cast<unsigned char *>(p);
    }
    if (range.live == 0) range.next = 0;
    const size_t size = (bytes + EDGE - 1) / EDGE * EDGE;
    if (range.next + size > RANGE) return nullptr;
    void *p = range.start + range.next;
    range.next += size;
    ++range.live;
    return p;
}

int device_of(const void *address) {
    const auto *p = static_cast<const unsigned char *>(address);
    for (int d = 0; d < MOST_DEVICES; ++d)
        if (ranges[d].start && p >= ranges[d].start && p < ranges[d].start + RANGE) return d;
    return -1;
}

// On the stack of the fiber that did it; fail() leaves that stack for good.
void caught(int number, siginfo_t *info, void *) {
    const int device = device_of(info->si_addr);
    if (device >= 0 && !(visible >> device & 1)) fail("touched memory of device %d without peer access", device);
    sigaction(number, &before, nullptr);  // not ours: happens again, the usual way
}

void show(int device, bool is_visible) {
    if (ranges[device].start && ranges[device].next)
        mprotect(ranges[device].start, (ranges[device].next + 4095) / 4096 * 4096, is_visible ? PROT_READ | PROT_WRITE : PROT_NONE);
}

}  // namespace

void guard(const void *start, size_t bytes) {
    if (__asan_poison_memory_region) __asan_poison_memory_region(start, bytes);
}

// Sizes are not rounded up: the first byte past the end is a canary already.
void *allocate_memory(size_t bytes, int device, bool has_others) {
    if (!bytes || used[device] + bytes > capacity[device]) return nullptr;
    void *raw = nullptr;
    if (has_others)
        raw = take(ranges[device], EDGE + bytes + EDGE);
    else if (posix_memalign(&raw, EDGE, EDGE + bytes + EDGE))
        raw = nullptr;
    if (!raw) return nullptr;
    auto *start = static_cast<unsigned char *>(raw) + EDGE;
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(raw, EDGE + bytes + EDGE);
    memset(raw, CANARY, EDGE + bytes + EDGE);
    memset(start, POISON, bytes);
    guard(start - EDGE, EDGE);
    guard(start + bytes, EDGE);
    live[start] = {bytes, device, !has_others};
    used[device] += bytes;
    return start;
}

bool free_memory(void *memory) {
    const auto it = live.find(static_cast<unsigned char *>(memory));
    if (it == live.end()) return false;
    const Allocation &was = it->second;
    used[was.device] -= was.bytes;
    if (was.is_heap) {
        if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(it->first - EDGE, EDGE + was.bytes + EDGE);
        free(it->first - EDGE);
    } else {
        --ranges[was.device].live;
        guard(it->first, was.bytes);
    }
    live.erase(it);
    return true;
}

static auto find(const void *memory) {
    auto it = live.upper_bound(static_cast<unsigned char *>(const_cast<void *>(memory)));
    return it == live.begin() ? live.end() : --it;
}

bool owns(const void *memory, size_t bytes) {
    const auto it = find(memory);
    return it != live.end() && static_cast<const unsigned char *>(memory) + bytes <= it->first + it->second.bytes;
}

int owner(const void *memory) {
    const auto it = find(memory);
    return it != live.end() && memory < it->first + it->second.bytes ? it->second.device : -1;
}

std::string damaged() {
    for (const auto &[start, allocation] : live)
        for (size_t i = 0; i < EDGE; ++i) {
            const std::string size = std::to_string(allocation.bytes);
            if (start[allocation.bytes + i] != CANARY) return "wrote past the end of an allocation of " + size + " bytes";
            if (start[-1 - static_cast<ptrdiff_t>(i)] != CANARY) return "wrote before the start of an allocation of " + size + " bytes";
        }
    return {};
}

void see(unsigned devices) {
    for (int d = 0; d < MOST_DEVICES; ++d)
        if ((devices ^ visible) >> d & 1) show(d, devices >> d & 1);
    const bool was_guarded = visible != EVERYTHING;
    visible = devices;
    if ((visible != EVERYTHING) == was_guarded) return;
    if (was_guarded) {
        sigaction(SIGSEGV, &before, nullptr);
        return;
    }
    struct sigaction ours {};
    ours.sa_sigaction = caught;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &ours, &before);
}

void set_capacity(size_t bytes) {
    for (size_t &each : capacity) each = bytes;
}
void set_capacity(int device, size_t bytes) { capacity[device] = bytes; }
size_t capacity_bytes(int device) { return capacity[device]; }
size_t allocations() { return live.size(); }

}  // namespace t5k::sim
