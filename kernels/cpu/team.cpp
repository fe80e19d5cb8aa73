#include "cpu/team.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace t5k {
namespace {

// Polls of the epoch before a worker parks: about 50 us at ~25 ns per pause on Zen 3. Long enough to bridge the serial
// parts of a decode step, short enough that an idle engine costs nothing (design: spin, then futex).
constexpr int SPIN_POLLS = 2000;

// Polls of the caller for the last chunks before it yields its core: a worker may hold a chunk while descheduled.
constexpr int JOIN_POLLS = 4000;

void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

void futex_wait(std::atomic<uint32_t> &word, uint32_t seen) {
    // A bounded sleep, so that a lost wake-up could only ever cost this long.
    const timespec limit{0, 100'000'000};
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAIT_PRIVATE, seen, &limit, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t> &word) {
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

Team::Team(int threads) : threads_(threads < 1 ? 1 : threads), parts_(new Part[static_cast<size_t>(threads_)]) {
    workers_.reserve(static_cast<size_t>(threads_ - 1));
    for (int t = 1; t < threads_; ++t) workers_.emplace_back([this, t] { work(t); });
}

Team::~Team() {
    stop_.store(true);
    epoch_.fetch_add(1);
    futex_wake(epoch_);
    for (auto &worker : workers_) worker.join();
}

// Claims chunks of this epoch, its own part first, until none is left.
void Team::drain(uint32_t epoch, int thread) {
    int done = 0;  // counted once at the end: while it is not, the job stands
    for (int i = 0; i < threads_; ++i) {
        Part &part = parts_[static_cast<size_t>((thread + i) % threads_)];
        uint64_t ticket = part.ticket.load(std::memory_order_acquire);
        for (;;) {
            if (static_cast<uint32_t>(ticket >> 32) != epoch) break;
            const uint32_t chunk = static_cast<uint32_t>(ticket & 0xffffffffu);
            if (chunk >= part.end.load(std::memory_order_relaxed)) break;
            const Chunk fn = job_.fn.load(std::memory_order_relaxed);
            void *context = job_.context.load(std::memory_order_relaxed);
            // The claim succeeds only if the epoch still stands, and the job cannot change while one of its chunks is
            // pending; so fn and context, read before, are this epoch's.
            if (!part.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
            fn(context, static_cast<int>(chunk), thread);
            ++done;
            ticket = part.ticket.load(std::memory_order_acquire);
        }
    }
    if (done) pending_.fetch_sub(done, std::memory_order_acq_rel);
}

void Team::work(int thread) {
    uint32_t seen = 0;
    for (;;) {
        int polls = 0;
        while (epoch_.load(std::memory_order_acquire) == seen) {
            if (++polls < SPIN_POLLS) {
                pause_cpu();
                continue;
            }
            sleepers_.fetch_add(1);
            if (epoch_.load() == seen) futex_wait(epoch_, seen);
            sleepers_.fetch_sub(1);
        }
        if (stop_.load()) return;
        seen = epoch_.load(std::memory_order_acquire);
        drain(seen, thread);
    }
}

void Team::run(int chunks, Chunk fn, void *context) {
    if (threads_ == 1 || chunks <= 1) {
        for (int c = 0; c < chunks; ++c) fn(context, c, 0);
        return;
    }
    // Close the old job first: no late worker can claim between the stores below.
    const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
    const uint64_t open = static_cast<uint64_t>(epoch) << 32;
    for (int t = 0; t < threads_; ++t) parts_[static_cast<size_t>(t)].ticket.store(open | 0xffffffffu, std::memory_order_release);
    job_.fn.store(fn, std::memory_order_relaxed);
    job_.context.store(context, std::memory_order_relaxed);
    pending_.store(chunks, std::memory_order_relaxed);
    for (int t = 0; t < threads_; ++t) {
        Part &part = parts_[static_cast<size_t>(t)];
        part.end.store(static_cast<uint32_t>(int64_t{t + 1} * chunks / threads_), std::memory_order_relaxed);
        part.ticket.store(open | static_cast<uint32_t>(int64_t{t} * chunks / threads_), std::memory_order_release);
    }
    epoch_.store(epoch);
    if (sleepers_.load() > 0) futex_wake(epoch_);
    drain(epoch, 0);
    int polls = 0;
    while (pending_.load(std::memory_order_acquire) > 0) {
        if (++polls < JOIN_POLLS)
            pause_cpu();
        else
            std::this_thread::yield();
    }
}

}  // namespace t5k
