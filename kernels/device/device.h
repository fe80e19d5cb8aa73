// The op interface: everything the model asks of a device. The model (model/*.cpp) is written once over it.
//
// One call is one phase: it may use the whole device, and its results are visible to the next call. Pointers inside jobs
// are device memory from `allocate`, or weights the device can read in place; ids and positions are host values. Jobs
// in one call never write what another of them reads or writes. Contracts: ops/*.h.
// What passes between ops (normed rows, q, k, v, attention outputs, ff hidden) and the caches are stored numbers of
// `storage().bytes` each (the decoder's caches: `cache_bytes()`), whatever the type of a pointer says; the residual, partial
// sums and logits are fp32.
// No call after `bind` and `reserve` allocates. Every call returns a Status; nothing throws, nothing ends the process.
#pragma once

#include "device/status.h"
#include "device/steps.h"
#include "ops/add_shards.h"
#include "ops/attention.h"
#include "ops/embed.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"

namespace t5k {

// The largest phase a device must be ready for; it sizes its scratch from this.
struct Reservation {
    int64_t rows = 0;     // R of any linear
    int64_t width = 0;    // K of any linear
    int64_t keys = 0;     // keys of any attention
    int64_t mix = 0;      // heads x (head size + 2) of one shard
    int64_t shards = 1;   // jobs of one linear call
    int64_t scores = 0;   // rows x columns of any head, its shards together
};

// How a device stores a number, and the largest finite one.
struct Storage {
    int64_t bytes = 4;
    float largest = 3.402823466e38f;
};

class Device {
   public:
    virtual ~Device() = default;

    virtual Storage storage() const { return {}; }
    // Bytes of a number in the decoder's caches, which may be narrower than what passes between ops.
    virtual int64_t cache_bytes() const { return storage().bytes; }

    // Called when a thread takes up the engine: a device may have state per thread.
    virtual void enter() {}

    // Zeroed memory, 64-byte aligned; *out is null and the status no_memory when there is none.
    virtual Status allocate(int64_t bytes, void **out) = 0;
    // The same where rank r of `shards` uses the r-th of as many equal parts only: a device of several GPUs keeps it there.
    virtual Status allocate_shards(int64_t bytes, int64_t /* shards */, void **out) { return allocate(bytes, out); }
    virtual void release(void *memory, int64_t bytes) = 0;
    virtual Status reserve(const Reservation &most) = 0;
    // A weight that jobs will name, `bytes` at `host`, for the life of the device; said of each before it is used. rank: whose
    // shard it is, -1 if every rank reads it.
    virtual Status bind(const void *host, int64_t bytes, int64_t rank) = 0;
    // What runs the model, in words beyond the name of the machine; "" if there is nothing to add.
    virtual std::string describe() const { return {}; }

    virtual Status embed(const EmbedJob &job) = 0;
    virtual Status rms_norm(const RmsNormJob &job) = 0;
    // Job i is rank i's.
    virtual Status linear(LinearJob *jobs, int n) = 0;
    // The same where the ranks write columns of one result, which `read` then finds whole.
    virtual Status linear_joined(LinearJob *jobs, int n) { return linear(jobs, n); }
    virtual Status add_shards(const AddShardsJob &job) = 0;
    virtual Status store_kv(const StoreJob *jobs, int n) = 0;
    virtual Status attend(const AttendJob *jobs, int n) = 0;
    virtual Status read(void *host, const void *memory, int64_t bytes) = 0;
    // n stored numbers as fp32.
    virtual Status read_numbers(float *host, const float *memory, int64_t n) { return read(host, memory, n * 4); }
    virtual Status copy(void *to, const void *from, int64_t bytes) = 0;

    // ---- choosing tokens, on a device that the host follows step by step ----

    // ARGMAX epilogue over all shards; best: [R] host memory.
    virtual Status linear_argmax(LinearJob *, int, Best *) { return absent(); }
    // The same result from an int8 copy of the weights and its norms (ops/screen.h). coarse[i].y is scratch for [R, N].
    virtual Status screened_argmax(LinearJob * /* coarse */, const LinearJob * /* fine */, const float *const * /* norms */,
                                   int, Best *) {
        return absent();
    }
    // logsum[r] = log sum_v exp(x[r, v]).
    virtual Status log_normalizers(const float * /* x */, int64_t /* ldx */, int64_t /* R */, int64_t /* V */, double *) {
        return absent();
    }
    virtual Status argmax(const float * /* x */, int64_t /* V */, Best *) { return absent(); }

    // ---- choosing tokens, on a device that runs ahead of the host (device/steps.h) ----

    virtual bool runs_ahead() const { return false; }
    // The rows of the steps that follow; rows.size() is a row_bucket. No step may be under way.
    virtual Status bind_rows(const std::vector<StepRow> &, const std::vector<int32_t> & /* eos ids */) { return absent(); }
    // Begins a step. *issues: the caller runs the decoder and calls `choose`; else the device knows what to do. Inside a
    // step, `embed` takes the rows' own tokens, and jobs that append take the positions of their rows.
    virtual Status begin_step(const StepShape &, bool * /* issues */) { return absent(); }
    // `head` over the decoder's rows, into `logits` where the shape needs scores; then each row's token.
    virtual Status choose(LinearJob * /* head */, int, float * /* logits */, int64_t /* ld */, int64_t /* V */) {
        return absent();
    }
    virtual Status end_step() { return absent(); }
    // Waits for the oldest step not yet taken: [rows].
    virtual Status take(Chosen *) { return absent(); }
    // After `take`: the best continuations of beams at rows [first, first + n) of that step, given their scores so far.
    virtual Status beam_candidates(int /* first */, int /* n */, const float * /* scores */, int /* wanted */,
                                   BeamCandidate *) {
        return absent();
    }

   protected:
    static Status absent() { return {Code::internal, "this device chooses tokens in another way"}; }
};

}  // namespace t5k
