// The CUDA device: the op interface of device/device.h over the driver's functions and the kernels of ops/*.cu.
//
// CudaDevice is one GPU; CudaGroup is several of them as one tensor-parallel device. Bodies:
//
//   open.cpp    which GPUs are here, and one device or a group over them
//   device.cpp  memory, weights, the arena, reading back
//   launch.cpp  how each op becomes launches
//   steps.cpp   decode steps that run ahead of the host
//   group.cpp   where the work of several GPUs meets
//
// Executed on the simulator (sim/) only; not yet run on a GPU.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cuda/host/driver.h"
#include "device/device.h"
#include "include/t5k.h"
#include "ops/softmax.h"

namespace t5k {

// `driver` is the library to open: libcuda.so.1, or the simulator. `image` is a cubin with every kernel of ops/ for the first
// device. Rank r runs on GPU r; where there is only one GPU, all run on it, one after another; fewer GPUs than ranks are refused.
// activations: T5K_F32, T5K_F16 or T5K_BF16. Nothing of CUDA is linked: without a driver the status names what is missing.
Status make_cuda_device(const char *driver, const void *image, int activations, int ranks, std::unique_ptr<Device> *out);

// What the driver reports of its devices; the status names what is missing.
Status look_at_cuda(const char *driver, t5k_cuda *out);

}  // namespace t5k

namespace t5k::cuda {

// One GPU.
//
// One stream, in order; only `read` waits for it. Ids and attention records go up through an arena (mirrored on the host, so
// that a copy's source lives until the copy has happened) which starts again after each wait. Weights go up whole when they
// are bound, and stay. A decode step runs ahead of the host: issued once per shape, then captured as a graph and replayed;
// attention records lie in the graph's own memory and are rewritten when the batch changes; tokens come back through
// page-locked memory, one step behind.
// Activations and caches are fp32 (fp32 weights), fp16 (fp16 weights) or bf16 (bf16, int8, int4 weights); the residual,
// partial sums, scores and every accumulator are fp32.
class CudaDevice final : public Device {
   public:
    // Device `ordinal` of `driver`, which is open. `image` is what cuModuleLoadData takes: a cubin with every kernel.
    static Status open(const Driver &driver, const void *image, int activations, int ordinal, std::unique_ptr<CudaDevice> *out);
    ~CudaDevice() override;

    void enter() override { driver_.context_set(context_); }
    Storage storage() const override;

    Status allocate(int64_t bytes, void **out) override;
    void release(void *memory, int64_t bytes) override;
    Status reserve(const Reservation &most) override;
    bool has_room(const Reservation &most) const;
    Status bind(const void *host, int64_t bytes, int64_t rank) override;

    Status embed(const EmbedJob &job) override;
    Status rms_norm(const RmsNormJob &job) override;
    Status linear(LinearJob *jobs, int n) override;
    Status add_shards(const AddShardsJob &job) override;
    Status store_kv(const StoreJob *jobs, int n) override;
    Status attend(const AttendJob *jobs, int n) override;

    bool runs_ahead() const override { return true; }
    Status bind_rows(const std::vector<StepRow> &rows, const std::vector<int32_t> &eos) override;
    Status begin_step(const StepShape &shape, bool *issues) override;
    Status choose(LinearJob *head, int n, float *logits, int64_t ld, int64_t V) override;
    Status end_step() override;
    Status take(Chosen *chosen) override;
    Status beam_candidates(int first, int n, const float *scores, int wanted, BeamCandidate *out) override;

    Status read(void *host, const void *memory, int64_t bytes) override;
    Status read_numbers(float *host, const float *memory, int64_t n) override;
    Status copy(void *to, const void *from, int64_t bytes) override;

   private:
    friend class CudaGroup;
    CudaDevice(const Driver &driver, int activations) : driver_(driver), activations_(activations) {}

    static CUdeviceptr address(const void *p) { return static_cast<CUdeviceptr>(reinterpret_cast<uintptr_t>(p)); }
    static void *pointer(CUdeviceptr p) { return reinterpret_cast<void *>(static_cast<uintptr_t>(p)); }

    // ---- device.cpp ----

    Status check(CUresult code, const char *what) const;
    Status start(const void *image, int ordinal);
    Status wait();
    Status grab(int64_t bytes, CUdeviceptr *memory);
    Status grow_arena(int64_t bytes);
    // `bytes` from the host into the arena, for launches up to the next wait.
    Status stage(const void *from, int64_t bytes, CUdeviceptr *memory);
    // Where a bound weight lives on the device.
    Status weight(const void *host, const void **memory) const;

    // ---- launch.cpp ----

    struct Grid {
        int64_t x = 1, y = 1, z = 1;
    };

    Status launch_kernel(const std::string &name, void *job, Grid grid, unsigned threads, int64_t dynamic_bytes);
    template <class Job>
    Status launch(const std::string &name, Job job, Grid grid, unsigned threads, int64_t dynamic_bytes = 0) {
        return launch_kernel(name, &job, grid, threads, dynamic_bytes);
    }
    Status launch_linear(LinearJob job);
    Status launch_attend(const std::vector<AttendJob> &jobs);
    Status launch_attend_rows(const std::vector<AttendJob> &jobs);
    Status place_records(const std::vector<AttendJob> &jobs, CUdeviceptr *at);
    // The kernel of an op for this device's activations.
    std::string typed(const char *op) const;

    // ---- steps.cpp ----

    enum class Phase { outside, run, capture, refresh, replay };

    // One recorded step. Its attention records lie at `records` in the order the model issues them.
    struct Plan {
        int64_t runs = 0, version = -1;
        bool is_recorded = false;
        CUgraphExec graph = nullptr;  // of a group, the first device holds it for all
        CUdeviceptr records = 0;
        std::vector<AttendJob> host;
        size_t used = 0;
    };

    // The bound rows on the device: one upload, then only kernels write it.
    struct Batch {
        CUdeviceptr memory = 0;
        int64_t bytes = 0, version = 0;
        std::vector<unsigned char> host;
        StepState state{};
    };

    // Where the parts of the scratch memory lie, and for how much: largest reservation so far.
    struct Scratch {
        Reservation most{0, 0, 0, 0, 0, 0};
        Best *parts = nullptr, *best = nullptr;
        Chosen *chosen = nullptr;
        int *drawn = nullptr;
        float *normalizers = nullptr, *scores = nullptr, *partial = nullptr;
        BeamCandidate *candidates = nullptr;
    };

    bool is_stepping() const { return phase_ != Phase::outside; }
    void forget_plans();
    void abandon_capture();
    Status take_up(const StepShape &shape);
    Status begin_capture();
    Status end_capture();
    Status upload_records();
    Status launch_graph();
    void leave_step();
    Status deliver();
    Status choose_token(int64_t panels, float *logits, int64_t ld, int64_t V);
    Status enlarge_batch(int64_t rows, int64_t capacity, int64_t words, int64_t lists);

    const Driver driver_;
    const int activations_;
    CUdevice device_ = 0;
    CUcontext context_ = nullptr;
    CUmodule module_ = nullptr;
    CUstream stream_ = nullptr;
    std::map<std::string, CUfunction> functions_;
    std::map<const void *, CUdeviceptr> weights_;
    std::vector<unsigned char> arena_host_;
    CUdeviceptr arena_ = 0, scratch_ = 0;
    int64_t arena_used_ = 0;

    Phase phase_ = Phase::outside;
    std::map<StepShape, Plan> plans_;
    std::map<StepShape, Plan>::iterator plan_;
    Batch batch_;
    Scratch parts_;
    struct {
        int64_t rows = 0, capacity = 0, words = 0, lists = 0;
    } batch_size_;
    Chosen *results_ = nullptr;  // page-locked: two steps of results_rows_ rows
    int64_t results_rows_ = 0;
    std::array<CUevent, 2> events_{};
    uint64_t issued_ = 0, taken_ = 0;
    int64_t scores_ld_ = 0, scores_V_ = 0;
};

// Several GPUs as one device: rank r of a tensor-parallel model runs on GPU r, with its own context, stream, module and
// memory there, and its own shards of the weights and caches.
//
// Memory is named by logical addresses that no GPU has: one block of `allocate` is a block on every GPU (so the residual and
// the norms are computed on each, the same way), one of `allocate_shards` an equal part on each. Jobs are translated rank by
// rank; a forgotten translation faults. Work of different GPUs meets in four places, ordered by events and nothing else:
//
//   all-reduce  every rank adds all parts to its own copy of the residual, in rank order: the sums of one GPU, bit for bit.
//               Parts of others are read through peer access, or copied over first where there is none. A part is written again
//               only after every rank has read it.
//   head        each rank's columns, or its partial maxima, go to the first GPU, which chooses the tokens
//   feedback    chosen tokens and positions go from the first GPU to the others
//   steps       begin on all GPUs after, and end before, work of the first: one step is one graph over all GPUs, captured on
//               the first one's stream, which forks to the others by events and joins them again
class CudaGroup final : public Device {
   public:
    // The first `ranks` devices of `driver`.
    static Status open(const Driver &driver, const void *image, int activations, int ranks, std::unique_ptr<Device> *out);
    ~CudaGroup() override;

    void enter() override { ranks_[0]->enter(); }
    Storage storage() const override { return ranks_[0]->storage(); }
    std::string describe() const override;

    Status allocate(int64_t bytes, void **out) override { return take(bytes, bytes, false, out); }
    Status allocate_shards(int64_t bytes, int64_t shards, void **out) override {
        return shards == count() ? take(bytes, bytes / shards, true, out) : take(bytes, bytes, false, out);
    }
    void release(void *memory, int64_t bytes) override;
    Status reserve(const Reservation &most) override;
    Status bind(const void *host, int64_t bytes, int64_t rank) override;

    Status embed(const EmbedJob &job) override;
    Status rms_norm(const RmsNormJob &job) override;
    Status linear(LinearJob *jobs, int n) override;
    Status linear_joined(LinearJob *jobs, int n) override;
    Status add_shards(const AddShardsJob &job) override;
    Status store_kv(const StoreJob *jobs, int n) override;
    Status attend(const AttendJob *jobs, int n) override;

    bool runs_ahead() const override { return true; }
    Status bind_rows(const std::vector<StepRow> &rows, const std::vector<int32_t> &eos) override;
    Status begin_step(const StepShape &shape, bool *issues) override;
    Status choose(LinearJob *head, int n, float *logits, int64_t ld, int64_t V) override;
    Status end_step() override;
    Status take(Chosen *chosen) override { return first().take(chosen); }
    Status beam_candidates(int first_row, int n, const float *scores, int wanted, BeamCandidate *out) override {
        return first().beam_candidates(first_row, n, scores, wanted, out);
    }

    // Of what every rank has, the first one's; of shards, the owner's.
    Status read(void *host, const void *memory, int64_t bytes) override;
    Status read_numbers(float *host, const float *memory, int64_t n) override;
    Status copy(void *to, const void *from, int64_t bytes) override;

   private:
    explicit CudaGroup(const Driver &driver) : driver_(driver) {}

    using Phase = CudaDevice::Phase;

    struct Block {
        int64_t bytes = 0, part = 0;  // part: of one rank
        bool is_cut = false;
        std::vector<void *> at;       // per rank
    };

    static uintptr_t number(const void *p) { return reinterpret_cast<uintptr_t>(p); }
    int64_t count() const { return static_cast<int64_t>(ranks_.size()); }
    CudaDevice &first() {
        ranks_[0]->enter();
        return *ranks_[0];
    }
    bool is_rewriting() const { return ranks_[0]->phase_ == Phase::refresh; }

    Status start(const void *image, int activations, int ranks);
    Status meet();

    // `work` on every rank, its context current; the first failure, with the GPU's name.
    template <class F>
    Status each(F work) {
        for (size_t r = 0; r < ranks_.size(); ++r) {
            ranks_[r]->enter();
            Status status = work(*ranks_[r], r);
            if (!status.ok()) return status.message = "GPU " + std::to_string(r) + ": " + status.message, status;
        }
        enter();
        return Status::good();
    }

    void wait_for_gpus();
    Status take(int64_t bytes, int64_t part, bool is_cut, void **out);

    const Block *find(const void *logical) const;
    int64_t offset(const void *logical) const;
    size_t owner(const void *logical) const;
    // Where rank r has it. Null stays null; what is not ours stays as it is, and no GPU has it.
    template <class T>
    T *at(T *logical, size_t r) const {
        const Block *block = logical ? find(logical) : nullptr;
        if (!block) return logical;
        const int64_t from = block->is_cut ? static_cast<int64_t>(r) * block->part : 0;
        return reinterpret_cast<T *>(number(block->at[r]) + static_cast<uintptr_t>(offset(logical) - from));
    }

    // ---- order between GPUs ----

    Status mark(std::vector<CUevent> &events, size_t r);
    Status wait_for(std::vector<CUevent> &events, size_t waits, size_t r);
    Status wait_for_all(std::vector<CUevent> &events);
    Status gather();
    Status scatter();
    Status join_maxima(LinearJob *head, int n, int64_t *panels);
    Status send(CUdeviceptr to, size_t to_rank, CUdeviceptr from, size_t from_rank, int64_t bytes, size_t on);

    const Driver driver_;
    std::vector<std::unique_ptr<CudaDevice>> ranks_;
    std::vector<CUevent> ready_, read_, turn_;  // per rank: its part is there; it has read all parts; where its stream stands
    bool are_peers_ = false;
    std::map<uintptr_t, Block> blocks_;  // by logical address
    uintptr_t next_ = uintptr_t{1} << 60;
    std::set<const void *> reduced_;  // parts that others may still be reading
};

}  // namespace t5k::cuda
