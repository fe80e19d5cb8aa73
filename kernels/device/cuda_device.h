// The CUDA device: the op interface of device/device.h over the driver table and the kernels of ops/*.cu.
//
// One stream, in order; only `read` and the calls that return host values wait for it. Ids and attention records go up
// through an arena (mirrored on the host, so that a copy's source lives until the copy has happened) which starts again
// after each wait. Weights go up whole when they are bound, and stay.
// fp32 activations and caches, weights fp32, bf16, int8, int4 (weight-only); w8a8 is refused.
// Executed on the simulator (sim/) only; not yet run on a GPU.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "device/cuda_driver.h"
#include "device/cuda_jobs.h"
#include "device/device.h"

namespace t5k::cuda {

static_assert(static_cast<int>(EPILOGUE_ARGMAX) == static_cast<int>(t5k::EPILOGUE_ARGMAX));
static_assert(static_cast<int>(ACT_SILU) == static_cast<int>(t5k::ACT_SILU));
static_assert(sizeof(Best) == sizeof(t5k::Best));

class CudaDevice final : public Device {
   public:
    // The first device of `driver`, which is open. `image` is what cuModuleLoadData takes: a cubin with every kernel.
    static Status open(const Driver &driver, const void *image, std::unique_ptr<Device> *out) {
        std::unique_ptr<CudaDevice> device(new CudaDevice(driver));
        T5K_TRY(device->start(image));
        *out = std::move(device);
        return Status::good();
    }

    ~CudaDevice() override {
        if (stream_) driver_.stream_destroy(stream_);
        for (const auto &[host, memory] : weights_) driver_.free(memory);
        for (CUdeviceptr memory : {arena_, scratch_}) driver_.free(memory);
        if (module_) driver_.module_unload(module_);
        if (context_) driver_.context_release(device_);
    }

    Status allocate(int64_t bytes, void **out) override {
        CUdeviceptr memory = 0;
        *out = nullptr;
        T5K_TRY(grab(bytes, &memory));
        T5K_TRY(check(driver_.fill(memory, 0, static_cast<size_t>(bytes), stream_), "cuMemsetD8Async"));
        *out = pointer(memory);
        return Status::good();
    }

    void release(void *memory, int64_t) override {
        driver_.stream_synchronize(stream_);
        driver_.free(address(memory));
    }

    // Only a head needs scratch: a Best per panel and shard of each row.
    Status reserve(const Reservation &most) override {
        return grow_scratch(most.scores / LANES * 8 + most.rows * most.shards * 8 + 256);
    }

    Status bind(const void *host, int64_t bytes) override {
        CUdeviceptr &at = weights_[host];
        if (at) return Status::good();
        T5K_TRY(grab(bytes, &at));
        return check(driver_.to_device(at, host, static_cast<size_t>(bytes), stream_), "cuMemcpyHtoDAsync");
    }

    Status embed(const void *table, int format, const int32_t *ids, int64_t R, int64_t E, float *y, int64_t ldy) override;
    Status rms_norm(const float *x, int64_t ldx, const float *w, float *y, int64_t ldy, int64_t R, int64_t E, float eps,
                    float out_scale) override;
    Status linear(t5k::LinearJob *jobs, int n) override;
    Status linear_argmax(t5k::LinearJob *jobs, int n, t5k::Best *best) override;
    // The int8 copy saves bytes that this device does not yet count: the full product is the same result.
    Status screened_argmax(t5k::LinearJob *, const t5k::LinearJob *fine, const float *const *, int n,
                           t5k::Best *best) override {
        std::vector<t5k::LinearJob> jobs(fine, fine + n);
        return linear_argmax(jobs.data(), n, best);
    }
    Status add_shards(const float *const *parts, int n, int64_t ld, float *y, int64_t ldy, int64_t R, int64_t N) override;
    Status store_kv(const StoreJob *jobs, int n) override;
    Status attend(const t5k::AttendJob *jobs, int n) override;
    Status log_normalizers(const float *x, int64_t ldx, int64_t R, int64_t V, double *logsum) override;
    Status argmax(const float *x, int64_t V, t5k::Best *best) override;

    Status read(void *host, const void *memory, int64_t bytes) override {
        T5K_TRY(check(driver_.to_host(host, address(memory), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoHAsync"));
        return wait();
    }
    Status copy(void *to, const void *from, int64_t bytes) override {
        return check(driver_.on_device(address(to), address(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoDAsync");
    }

   private:
    explicit CudaDevice(const Driver &driver) : driver_(driver) {}

    static CUdeviceptr address(const void *p) { return static_cast<CUdeviceptr>(reinterpret_cast<uintptr_t>(p)); }
    static void *pointer(CUdeviceptr p) { return reinterpret_cast<void *>(static_cast<uintptr_t>(p)); }

    Status check(CUresult code, const char *what) const {
        if (code == CUDA_SUCCESS) return Status::good();
        const char *text = "unknown error";
        driver_.error_string(code, &text);
        return {code == CUDA_ERROR_OUT_OF_MEMORY ? Code::no_memory : Code::internal, std::string(what) + ": " + text};
    }

    Status start(const void *image) {
        T5K_TRY(check(driver_.init(0), "cuInit"));
        T5K_TRY(check(driver_.device_get(&device_, 0), "cuDeviceGet"));
        T5K_TRY(check(driver_.context_retain(&context_, device_), "cuDevicePrimaryCtxRetain"));
        T5K_TRY(check(driver_.context_set(context_), "cuCtxSetCurrent"));
        T5K_TRY(check(driver_.module_load(&module_, image), "cuModuleLoadData"));
        T5K_TRY(check(driver_.stream_create(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate"));
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

    Status grow_scratch(int64_t bytes) {
        if (bytes <= scratch_bytes_) return Status::good();
        T5K_TRY(wait());
        driver_.free(scratch_);
        scratch_ = 0;
        scratch_bytes_ = bytes;
        return grab(bytes, &scratch_);
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

    Status scratch(int64_t bytes) const {
        return bytes <= scratch_bytes_ ? Status::good() : Status{Code::internal, "more scratch than was reserved"};
    }

    struct Grid {
        int64_t x = 1, y = 1, z = 1;
    };

    template <class Job>
    Status launch(const std::string &name, Job job, Grid grid, unsigned threads, int64_t dynamic_bytes = 0) {
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

    Status launch_linear(const t5k::LinearJob &job, Best *best);
    Status launch_attention(const std::vector<AttendRows> &rows, const char *kernel, int64_t heads, int64_t D, int64_t W);

    const Driver driver_;
    CUdevice device_ = 0;
    CUcontext context_ = nullptr;
    CUmodule module_ = nullptr;
    CUstream stream_ = nullptr;
    std::map<std::string, CUfunction> functions_;
    std::map<const void *, CUdeviceptr> weights_;
    std::vector<unsigned char> arena_host_;
    CUdeviceptr arena_ = 0, scratch_ = 0;
    int64_t arena_used_ = 0, scratch_bytes_ = 0;
};

}  // namespace t5k::cuda
