// The CUDA device: the op interface of device/device.h over the driver table and the kernels of ops/*.cu.
//
// One stream, in order; only `read` waits for it. Ids and attention records go up through an arena (mirrored on the host, so
// that a copy's source lives until the copy has happened) which starts again after each wait. Weights go up whole when they
// are bound, and stay. A decode step runs ahead of the host: issued once per shape, then captured as a graph and replayed;
// attention records lie in the graph's own memory and are rewritten when the batch changes; tokens come back through
// page-locked memory, one step behind (cuda_steps.h).
// Activations and caches are fp32 (fp32 weights), fp16 (fp16 weights) or bf16 (bf16, int8, int4 weights); the residual,
// partial sums, scores and every accumulator are fp32.
// One GPU; several of these under cuda_group.h are a tensor-parallel group.
// Executed on the simulator (sim/) only; not yet run on a GPU.
#pragma once

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "device/cuda.h"
#include "device/cuda_driver.h"
#include "device/cuda_jobs.h"
#include "device/device.h"
#include "include/t5k.h"

namespace t5k::cuda {

static_assert(static_cast<int>(EPILOGUE_ARGMAX) == static_cast<int>(t5k::EPILOGUE_ARGMAX));
static_assert(static_cast<int>(ACT_SILU) == static_cast<int>(t5k::ACT_SILU));
static_assert(sizeof(Chosen) == sizeof(t5k::Chosen) && sizeof(BeamCandidate) == sizeof(t5k::BeamCandidate));

class CudaDevice final : public Device {
   public:
    // Device `ordinal` of `driver`, which is open. `image` is what cuModuleLoadData takes: a cubin with every kernel.
    // `activations`: T5K_F32, T5K_F16, T5K_BF16.
    static Status open(const Driver &driver, const void *image, int activations, int ordinal,
                       std::unique_ptr<CudaDevice> *out) {
        std::unique_ptr<CudaDevice> device(new CudaDevice(driver, activations));
        T5K_TRY(device->start(image, ordinal));
        *out = std::move(device);
        return Status::good();
    }

    ~CudaDevice() override {
        if (!context_) return;
        enter();
        abandon_capture();
        if (stream_) driver_.stream_synchronize(stream_);
        forget_plans();
        for (CUevent event : events_)
            if (event) driver_.event_destroy(event);
        if (stream_) driver_.stream_destroy(stream_);
        for (const auto &[host, memory] : weights_) driver_.free(memory);
        for (CUdeviceptr memory : {arena_, scratch_, batch_.memory}) driver_.free(memory);
        if (results_) driver_.free_host(results_);
        if (module_) driver_.module_unload(module_);
        driver_.context_release(device_);
    }

    void enter() override { driver_.context_set(context_); }

    Storage storage() const override {
        if (activations_ == T5K_F32) return {};
        return {2, activations_ == T5K_F16 ? 65504.0f : 3.38953139e38f};
    }

    Status allocate(int64_t bytes, void **out) override {
        CUdeviceptr memory = 0;
        *out = nullptr;
        T5K_TRY(grab(bytes, &memory));
        T5K_TRY(check(driver_.fill(memory, 0, static_cast<size_t>(bytes), stream_), "cuMemsetD8Async"));
        *out = pointer(memory);
        return Status::good();
    }

    // Recorded steps may name the memory: they are recorded again.
    void release(void *memory, int64_t) override {
        enter();
        driver_.stream_synchronize(stream_);
        forget_plans();
        driver_.free(address(memory));
    }

    Status reserve(const Reservation &most) override;
    bool has_room(const Reservation &most) const;

    Status bind(const void *host, int64_t bytes, int64_t) override {
        CUdeviceptr &at = weights_[host];
        if (at) return Status::good();
        T5K_TRY(grab(bytes, &at));
        return check(driver_.to_device(at, host, static_cast<size_t>(bytes), stream_), "cuMemcpyHtoDAsync");
    }

    Status embed(const void *table, int format, const int32_t *ids, int64_t R, int64_t E, float *y, int64_t ldy) override;
    Status rms_norm(const float *x, int64_t ldx, const float *w, float *y, int64_t ldy, int64_t R, int64_t E, float eps,
                    float out_scale) override;
    Status linear(t5k::LinearJob *jobs, int n) override;
    Status add_shards(const float *const *parts, int n, int64_t ld, float *y, int64_t ldy, int64_t R, int64_t N) override;
    Status store_kv(const StoreJob *jobs, int n) override;
    Status attend(const t5k::AttendJob *jobs, int n) override;

    bool runs_ahead() const override { return true; }
    Status bind_rows(const std::vector<t5k::StepRow> &rows, const std::vector<int32_t> &eos) override;
    Status begin_step(const StepShape &shape, bool *issues) override;
    Status choose(t5k::LinearJob *head, int n, float *logits, int64_t ld, int64_t V) override;
    Status end_step() override;
    Status take(t5k::Chosen *chosen) override;
    Status beam_candidates(int first, int n, const float *scores, int wanted, t5k::BeamCandidate *out) override;

    Status read(void *host, const void *memory, int64_t bytes) override {
        T5K_TRY(check(driver_.to_host(host, address(memory), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoHAsync"));
        return wait();
    }
    Status read_numbers(float *host, const float *memory, int64_t n) override;
    Status copy(void *to, const void *from, int64_t bytes) override {
        return check(driver_.on_device(address(to), address(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoDAsync");
    }

   private:
    friend class CudaGroup;
    CudaDevice(const Driver &driver, int activations) : driver_(driver), activations_(activations) {}

    static CUdeviceptr address(const void *p) { return static_cast<CUdeviceptr>(reinterpret_cast<uintptr_t>(p)); }
    static void *pointer(CUdeviceptr p) { return reinterpret_cast<void *>(static_cast<uintptr_t>(p)); }

    Status check(CUresult code, const char *what) const {
        if (code == CUDA_SUCCESS) return Status::good();
        const char *text = "unknown error";
        driver_.error_string(code, &text);
        return {code == CUDA_ERROR_OUT_OF_MEMORY ? Code::no_memory : Code::internal, std::string(what) + ": " + text};
    }

    Status start(const void *image, int ordinal) {
        T5K_TRY(check(driver_.init(0), "cuInit"));
        T5K_TRY(check(driver_.device_get(&device_, ordinal), "cuDeviceGet"));
        T5K_TRY(check(driver_.context_retain(&context_, device_), "cuDevicePrimaryCtxRetain"));
        T5K_TRY(check(driver_.context_set(context_), "cuCtxSetCurrent"));
        T5K_TRY(check(driver_.module_load(&module_, image), "cuModuleLoadData"));
        T5K_TRY(check(driver_.stream_create(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate"));
        for (CUevent &event : events_)
            T5K_TRY(check(driver_.event_create(&event, CU_EVENT_DISABLE_TIMING), "cuEventCreate"));
        return grow_arena(1 << 20);
    }

    Status wait() {
        T5K_TRY(check(driver_.stream_synchronize(stream_), "cuStreamSynchronize"));
        arena_used_ = 0;
        return Status::good();
    }

    Status grab(int64_t bytes, CUdeviceptr *memory) {
        const CUresult code = driver_.allocate(memory, static_cast<size_t>(bytes));
        return check(code, ("cuMemAlloc of " + std::to_string(bytes) + " bytes").c_str());
    }

    Status grow_arena(int64_t bytes) {
        driver_.free(arena_);
        arena_ = 0;
        arena_host_.resize(static_cast<size_t>(bytes));
        return grab(bytes, &arena_);
    }

    // Room for `bytes` of the arena, filled by the caller through *host before the next call.
    Status stage(int64_t bytes, void **host, CUdeviceptr *memory) {
        const int64_t size = round_up(bytes, 256);
        if (arena_used_ + size > static_cast<int64_t>(arena_host_.size())) {
            T5K_TRY(wait());
            if (size > static_cast<int64_t>(arena_host_.size())) T5K_TRY(grow_arena(2 * size));
        }
        *host = arena_host_.data() + arena_used_;
        *memory = arena_ + static_cast<CUdeviceptr>(arena_used_);
        arena_used_ += size;
        return check(driver_.to_device(*memory, *host, static_cast<size_t>(bytes), stream_), "cuMemcpyHtoDAsync");
    }

    // Where a bound weight lives on the device.
    Status weight(const void *host, const void **memory) const {
        const auto found = weights_.find(host);
        if (found == weights_.end()) return {Code::internal, "a job names a weight that was not bound"};
        *memory = pointer(found->second);
        return Status::good();
    }

    struct Grid {
        int64_t x = 1, y = 1, z = 1;
    };

    template <class Job>
    Status launch(const std::string &name, Job job, Grid grid, unsigned threads, int64_t dynamic_bytes = 0) {
        if (phase_ == Phase::refresh) return Status::good();
        CUfunction &function = functions_[name];
        if (!function) T5K_TRY(check(driver_.module_function(&function, module_, name.c_str()), name.c_str()));
        if (dynamic_bytes > (48 << 10))
            T5K_TRY(check(driver_.function_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                                     static_cast<int>(dynamic_bytes)),
                          name.c_str()));
        void *parameters[] = {&job};
        const CUresult code =
            driver_.launch(function, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z),
                           threads, 1, 1, static_cast<unsigned>(dynamic_bytes), stream_, parameters, nullptr);
        return check(code, name.c_str());
    }

    Status launch_linear(const t5k::LinearJob &job, Best *best, int64_t best_stride = 0);
    Status launch_attention(const std::vector<AttendRows> &rows, const char *kernel, const t5k::AttendJob &first);
    Status place_records(const std::vector<AttendRows> &rows, CUdeviceptr *at);

    // ---- steps (cuda_steps.h) ----

    enum class Phase { outside, run, capture, refresh, replay };

    // One recorded step. Its attention records lie at `records` in the order the model issues them.
    struct Plan {
        int64_t runs = 0, version = -1;
        bool is_recorded = false;
        CUgraphExec graph = nullptr;  // of a group, the first device holds it for all
        CUdeviceptr records = 0;
        std::vector<AttendRows> host;
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

    // The kernel of an op for this device's activations.
    std::string typed(const char *op) const {
        static const char *const types[] = {"_f32", "_f16", "_bf16"};
        return std::string(op) + types[activations_];
    }

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

}  // namespace t5k::cuda
