#include "sim/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "sim/fiber.h"
#include "sim/memory.h"

// ThreadSanitizer's view, when the process has it (the symbols are null otherwise): a fiber of its own per lane, ordered by
// the launch, by barriers and by __syncwarp, and by nothing else. Shuffles deliberately do not order memory.
extern "C" {
__attribute__((weak)) void *__tsan_create_fiber(unsigned flags);
__attribute__((weak)) void *__tsan_get_current_fiber();
__attribute__((weak)) void __tsan_switch_to_fiber(void *fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);
}

namespace t5k::sim {

Thread self;
Dim block_dim, grid_dim;

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t STATIC_SHARED_LIMIT = 48 << 10;  // ptxas refuses more
constexpr size_t CANARY_BYTES = 64;
constexpr unsigned char CANARY = 0xa5, POISON = 0xff;  // 0xff...: NaN in every float format, -1 in integers
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_VALUE = 64;

enum class State { ready, barrier, collective, done };

struct Copy {
    void *to;
    const void *from;
};

struct Lane {
    Fiber fiber;
    void *tsan = nullptr;
    unsigned syncs = 0;  // __syncwarp calls so far
    Dim index;
    State state;
    int line, kind;
    unsigned mask;
    unsigned char value[MAX_VALUE];
    // What all lanes gave, for those that read this lane's: two, since with the full mask nobody can be two behind.
    unsigned char values[2][32 * MAX_VALUE];
    int turn;
    const unsigned char *result;
    std::vector<Copy> open;              // copies of the group not yet committed
    std::deque<std::vector<Copy>> groups;  // committed, not yet waited for
};

// A heap object with canaries behind it: they show writes past the end, and ASan's guard shows reads.
struct Shared {
    std::unique_ptr<unsigned char[]> bytes;
    size_t size = 0;
};

struct Warp {
    unsigned done = 0;     // lanes that have left, and lanes that never were
    unsigned waiting = 0;  // lanes inside a collective
    char order[2];         // for ThreadSanitizer, in turns: with one object late leavers would order early comers
};

struct Block {
    const Launch *launch = nullptr;
    Fiber main;
    void *tsan = nullptr;
    unsigned barriers = 0;
    char start, end, order[2];  // for ThreadSanitizer
    std::vector<std::unique_ptr<Lane>> lanes;
    unsigned count = 0, current = 0, arrived = 0, live = 0;
    Warp warps[MAX_THREADS / 32];
    std::deque<unsigned> ready;
    std::map<const void *, Shared> shared;
    Shared dynamic;
    std::string error;
    unsigned char *stacks = nullptr;
};

Block b;
unsigned long long order_seed = 0;
Kernel *kernels = nullptr;

std::vector<unsigned> ordered(unsigned n, unsigned long long salt) {
    std::vector<unsigned> order(n);
    std::iota(order.begin(), order.end(), 0u);
    if (order_seed == 1) std::reverse(order.begin(), order.end());
    if (order_seed > 1) std::shuffle(order.begin(), order.end(), std::mt19937_64(order_seed * 1000003 + salt));
    return order;
}

Shared poisoned(size_t bytes) {
    Shared s{std::unique_ptr<unsigned char[]>(new unsigned char[bytes + CANARY_BYTES]), bytes};
    memset(s.bytes.get(), POISON, bytes);
    memset(s.bytes.get() + bytes, CANARY, CANARY_BYTES);
    guard(s.bytes.get() + bytes, CANARY_BYTES);
    return s;
}

void check(const Shared &s, const char *what) {
    for (size_t i = 0; s.bytes && i < CANARY_BYTES; ++i)
        if (s.bytes[s.size + i] != CANARY && b.error.empty())
            b.error = std::string("wrote past the end of ") + what + " (" + std::to_string(s.size) + " bytes)";
}

Lane &me() { return *b.lanes[b.current]; }

void acquire(void *order) {
    if (__tsan_acquire) __tsan_acquire(order);
}

void release(void *order) {
    if (__tsan_release) __tsan_release(order);
}

void leave() {
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(b.tsan, 1);
    Fiber::switch_to(me().fiber, b.main);
}

void enter(Lane &l) {
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(l.tsan, 1);
    Fiber::switch_to(b.main, l.fiber);
}

// Lets every lane of the warp's mask go on.
void wake(unsigned lane_index) {
    b.lanes[lane_index]->state = State::ready;
    b.ready.push_back(lane_index);
}

void release_barrier() {
    int line = 0;
    for (unsigned i = 0; i < b.count; ++i) {
        Lane &l = *b.lanes[i];
        if (l.state != State::barrier) continue;
        if (line && l.line != line) fail("barrier divergence: some threads wait at line %d, others at line %d", line, l.line);
        line = l.line;
    }
    b.arrived = 0;
    ++b.barriers;
    for (unsigned i : ordered(b.count, 7))
        if (b.lanes[i]->state == State::barrier) wake(i);
}

void entry() {
    acquire(&b.start);
    b.launch->kernel->body(b.launch->job);
    release(&b.end);
    Lane &l = me();
    l.state = State::done;
    b.warps[b.current / 32].done |= 1u << lane();
    --b.live;
    if (!l.open.empty() || !l.groups.empty()) fail("thread left with asynchronous copies it never waited for");
    if (b.live && b.arrived == b.live) release_barrier();
    leave();
    abort();
}

// Why nobody can go on: where the threads stand.
std::string census() {
    std::map<std::string, int> where;
    for (unsigned i = 0; i < b.count; ++i) {
        const Lane &l = *b.lanes[i];
        const char *what = l.state == State::barrier ? "barrier" : l.state == State::done ? "exit" : "warp collective";
        ++where[l.state == State::done ? what : std::string(what) + " at line " + std::to_string(l.line)];
    }
    std::string text = "deadlock:";
    for (const auto &[place, n] : where) text += " " + std::to_string(n) + " threads at " + place + ";";
    return text;
}

void run_block() {
    b.shared.clear();
    b.dynamic = poisoned(b.launch->dynamic_bytes);
    b.ready.clear();
    release(&b.start);
    b.live = b.count;
    b.arrived = 0;
    for (unsigned w = 0; w < MAX_THREADS / 32; ++w) b.warps[w] = {};
    if (b.count % 32) b.warps[b.count / 32].done = ~0u << b.count % 32;
    const unsigned salt = self.block.x + 31 * self.block.y + 977 * self.block.z;
    for (unsigned i : ordered(b.count, salt)) {
        Lane &l = *b.lanes[i];
        const Dim &n = b.launch->block;
        l.index = {i % n.x, i / n.x % n.y, i / n.x / n.y};
        l.open.clear();
        l.groups.clear();
        l.fiber.prepare(b.stacks + i * STACK_BYTES, STACK_BYTES, entry);
        wake(i);
    }
    while (!b.ready.empty() && b.error.empty()) {
        // In turn, or, for odd seeds above 1, whoever could go on last: one warp then runs as far ahead of the others as it may.
        const bool runs_ahead = order_seed > 1 && order_seed % 2 == 1;
        b.current = runs_ahead ? b.ready.back() : b.ready.front();
        runs_ahead ? b.ready.pop_back() : b.ready.pop_front();
        self.thread = me().index;
        enter(me());
    }
    acquire(&b.end);
    if (b.error.empty() && b.live) b.error = census();
    for (const auto &[key, s] : b.shared) check(s, "static shared memory");
    check(b.dynamic, "dynamic shared memory");
}

void make_room(unsigned threads) {
    if (!b.stacks) {
        void *p = mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) abort();
        b.stacks = static_cast<unsigned char *>(p);
    }
    while (b.lanes.size() < threads) {
        b.lanes.push_back(std::make_unique<Lane>());
        if (__tsan_create_fiber) b.lanes.back()->tsan = __tsan_create_fiber(0);
    }
    if (__tsan_get_current_fiber) b.tsan = __tsan_get_current_fiber();
}

}  // namespace

Kernel::Kernel(const char *name_, Body body_, size_t job_bytes_, unsigned max_threads_)
    : name(name_), body(body_), job_bytes(job_bytes_), max_threads(max_threads_), next(kernels) {
    kernels = this;
}

const Kernel *first_kernel() { return kernels; }

const Kernel *find_kernel(const char *name) {
    for (const Kernel *k = kernels; k; k = k->next)
        if (!strcmp(k->name, name)) return k;
    return nullptr;
}

int lane() { return static_cast<int>(b.current % 32); }

void set_order(unsigned long long seed) { order_seed = seed; }

void fail(const char *format, ...) {
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (b.error.empty()) b.error = text;
    leave();  // the block is abandoned: nothing on these stacks owns anything
    abort();
}

void *shared(const void *key, size_t bytes) {
    Shared &s = b.shared[key];
    if (!s.bytes) {
        s = poisoned(bytes);
        size_t total = 0;
        for (const auto &[k, each] : b.shared) total += each.size;
        if (total > STATIC_SHARED_LIMIT) fail("%zu bytes of static shared memory, the limit is %zu", total, STATIC_SHARED_LIMIT);
    }
    return s.bytes.get();
}

void *dynamic_shared() { return b.dynamic.bytes.get(); }

void barrier(int line) {
    Lane &l = me();
    l.state = State::barrier;
    l.line = line;
    char *order = &b.order[b.barriers % 2];
    release(order);
    if (++b.arrived == b.live) release_barrier();
    leave();
    acquire(order);
}

static const unsigned char *rendezvous(unsigned mask, const void *value, size_t bytes, int kind, int line) {
    Lane &l = me();
    const unsigned warp = b.current / 32 * 32;
    if (!(mask >> lane() & 1)) fail("line %d: a lane calls a collective whose mask %08x leaves it out", line, mask);
    Warp &w = b.warps[b.current / 32];
    if (mask & w.done)
        fail("line %d: collective mask %08x names lane %d, which has exited", line, mask, __builtin_ctz(mask & w.done));
    l.state = State::collective;
    l.line = line;
    l.kind = kind;
    l.mask = mask;
    memcpy(l.value, value, bytes);
    bool is_complete = ++w.waiting >= static_cast<unsigned>(__builtin_popcount(mask));
    for (unsigned i = 0; i < 32 && is_complete; ++i) {
        if (!(mask >> i & 1)) continue;
        const Lane &other = *b.lanes[warp + i];
        is_complete = other.state == State::collective && other.mask == mask && other.kind == kind && other.line == line;
    }
    if (!is_complete) {
        leave();
        return l.result;
    }
    unsigned char *values = l.values[l.turn ^= 1];
    memset(values, POISON, 32 * bytes);
    for (unsigned i = 0; i < 32; ++i) {
        if (!(mask >> i & 1)) continue;
        Lane &other = *b.lanes[warp + i];
        memcpy(values + i * bytes, other.value, bytes);
        other.result = values;
        --w.waiting;
        if (warp + i != b.current) wake(warp + i);
    }
    l.state = State::ready;
    if (mask == ~0u) return values;
    // Lanes outside the mask may let this one run on: the others take copies.
    for (unsigned i = 0; i < 32; ++i) {
        if (!(mask >> i & 1) || warp + i == b.current) continue;
        Lane &other = *b.lanes[warp + i];
        other.result = other.values[other.turn ^= 1];
    }
    for (unsigned i = 0; i < 32; ++i)
        if ((mask >> i & 1) && warp + i != b.current)
            memcpy(const_cast<unsigned char *>(b.lanes[warp + i]->result), values, 32 * bytes);
    return values;
}

const unsigned char *exchange(unsigned mask, const void *value, size_t bytes, int kind, int line) {
    if (kind != KIND_SYNC) return rendezvous(mask, value, bytes, kind, line);
    char *order = &b.warps[b.current / 32].order[me().syncs++ % 2];
    release(order);
    const unsigned char *result = rendezvous(mask, value, bytes, kind, line);
    acquire(order);
    return result;
}

void copy_async(void *to, const void *from) {
    check_aligned(to, 16);
    check_aligned(from, 16);
    memset(to, POISON, 16);
    me().open.push_back({to, from});
}

void commit_copies() {
    me().groups.push_back(std::move(me().open));
    me().open.clear();
}

// The copies land here and not earlier: a read before the wait meets NaN.
void wait_copies(int pending) {
    while (me().groups.size() > static_cast<size_t>(pending)) {
        for (const Copy &c : me().groups.front()) memcpy(c.to, c.from, 16);
        me().groups.pop_front();
    }
}

std::string run(const Launch &launch) {
    const Dim &n = launch.block, &g = launch.grid;
    b.count = n.x * n.y * n.z;
    if (!b.count || b.count > launch.kernel->max_threads || b.count > MAX_THREADS)
        return std::to_string(b.count) + " threads a block, the kernel's limit is " + std::to_string(launch.kernel->max_threads);
    if (!g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535) return "grid size out of range";
    make_room(b.count);
    b.launch = &launch;
    b.error.clear();
    block_dim = n;
    grid_dim = g;
    for (unsigned i : ordered(g.x * g.y * g.z, 3)) {
        self.block = {i % g.x, i / g.x % g.y, i / g.x / g.y};
        run_block();
        if (b.error.empty()) continue;
        const Dim &t = self.thread;
        char where[160];
        snprintf(where, sizeof where, " [%s, block (%u, %u, %u), thread (%u, %u, %u)]", launch.kernel->name, self.block.x,
                 self.block.y, self.block.z, t.x, t.y, t.z);
        return b.error + where;
    }
    return {};
}

}  // namespace t5k::sim
