// A persistent thread team: one call runs numbered chunks on the caller and its workers, and returns when all are done.
//
// Every thread has a part of its own, chunks that follow each other, so that what one chunk prefetches beyond its end the
// next one reads. A thread that is done takes chunks of the others: the caller never waits for a worker that has not woken
// up yet, and on a machine with noisy neighbours a parked or preempted worker costs its share, not a stall.
// Waiting is spin-then-park: a worker spins for about 50 us after its last chunk, then sleeps on a futex.
//
// Cost (two threads, idle machine): by t5k_op_barrier; aim is <= 1 us per call.
// Thread rule: run() is called by one thread at a time. Nothing is allocated after construction.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace t5k {

class Team {
   public:
    using Chunk = void (*)(void *context, int chunk, int thread);

    explicit Team(int threads);
    ~Team();
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    int threads() const { return threads_; }

    // Runs fn(context, c, thread) once for every c in [0, chunks); thread is in [0, threads()).
    void run(int chunks, Chunk fn, void *context);

    // The same for a callable: body(chunk, thread).
    template <class F>
    void each(int chunks, F &body) {
        run(chunks, [](void *c, int chunk, int thread) { (*static_cast<F *>(c))(chunk, thread); }, &body);
    }

   private:
    void work(int thread);
    void drain(uint32_t epoch, int thread);

    // One job. A part's ticket is epoch << 32 | next chunk: a late worker of an old epoch can claim nothing of a new one.
    struct alignas(64) Part {
        std::atomic<uint64_t> ticket{0};
        std::atomic<uint32_t> end{0};
    };
    struct alignas(64) Job {
        std::atomic<Chunk> fn{nullptr};
        std::atomic<void *> context{nullptr};
    };

    int threads_;
    Job job_;
    std::unique_ptr<Part[]> parts_;
    alignas(64) std::atomic<int> pending_{0};
    alignas(64) std::atomic<uint32_t> epoch_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    std::vector<std::thread> workers_;
};

}  // namespace t5k
