// The op interface: everything the model asks of a device. The model (model/*.cpp) is written once over it.
//
// One call is one phase: it may use the whole device, and its results are visible to the next call. Pointers inside jobs
// are device memory from `allocate`, or weights the device can read in place; ids and positions are host values. Jobs
// in one call never write what another of them reads or writes. Contracts: ops/*.h.
// No call after `bind` and `reserve` allocates. Every call returns a Status; nothing throws, nothing ends the process.
#pragma once

#include "device/status.h"
#include "ops/attention.h"
#include "ops/linear.h"

namespace t5k {

// The largest phase a device must be ready for; it sizes its scratch from this.
struct Reservation {
    int64_t rows = 0;     // R of any linear
    int64_t width = 0;    // K of any linear
    int64_t keys = 0;     // keys of any attention
    int64_t shards = 1;   // jobs of one linear call
    int64_t scores = 0;   // rows x columns of any head, its shards together
};

class Device {
   public:
    virtual ~Device() = default;

    // Zeroed memory, 64-byte aligned; *out is null and the status no_memory when there is none.
    virtual Status allocate(int64_t bytes, void **out) = 0;
    virtual void release(void *memory, int64_t bytes) = 0;
    virtual Status reserve(const Reservation &most) = 0;
    // A weight that jobs will name, `bytes` at `host`, for the life of the device; said of each before it is used.
    virtual Status bind(const void *host, int64_t bytes) = 0;

    virtual Status embed(const void *table, int format, const int32_t *ids, int64_t R, int64_t E, float *y,
                         int64_t ldy) = 0;
    virtual Status rms_norm(const float *x, int64_t ldx, const float *w, float *y, int64_t ldy, int64_t R, int64_t E,
                            float eps, float out_scale) = 0;
    virtual Status linear(LinearJob *jobs, int n) = 0;
    // ARGMAX epilogue over all shards; best: [R] host memory.
    virtual Status linear_argmax(LinearJob *jobs, int n, Best *best) = 0;
    // The same result from an int8 copy of the weights and its norms (ops/screen.h). coarse[i].y is scratch for [R, N].
    virtual Status screened_argmax(LinearJob *coarse, const LinearJob *fine, const float *const *norms, int n,
                                   Best *best) = 0;
    // y[r, :] += parts[0][r, :] + parts[1][r, :] + ... in that order (the all-reduce of tensor parallelism).
    virtual Status add_shards(const float *const *parts, int n, int64_t ld, float *y, int64_t ldy, int64_t R,
                              int64_t N) = 0;
    virtual Status store_kv(const StoreJob *jobs, int n) = 0;
    virtual Status attend(const AttendJob *jobs, int n) = 0;
    // logsum[r] = log sum_v exp(x[r, v]).
    virtual Status log_normalizers(const float *x, int64_t ldx, int64_t R, int64_t V, double *logsum) = 0;
    virtual Status argmax(const float *x, int64_t V, Best *best) = 0;
    virtual Status read(void *host, const void *memory, int64_t bytes) = 0;
    virtual Status copy(void *to, const void *from, int64_t bytes) = 0;
};

}  // namespace t5k
