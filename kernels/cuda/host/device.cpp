// Memory of one GPU: what is allocated, weights that stay, the arena that records go up through, and reading back.
#include "cuda/host/device.h"

#include <cstring>

#include "ops/f16.h"

namespace t5k::cuda {

Status CudaDevice::open(const Driver &driver, const void *image, int activations, int ordinal, std::unique_ptr<CudaDevice> *out) {
    std::unique_ptr<CudaDevice> device(new CudaDevice(driver, activations));
    T5K_TRY(device->start(image, ordinal));
    *out = std::move(device);
    return Status::good();
}

CudaDevice::~CudaDevice() {
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

Status CudaDevice::check(CUresult code, const char *what) const {
    if (code == CUDA_SUCCESS) return Status::good();
    const char *text = "unknown error";
    driver_.error_string(code, &text);
    return {code == CUDA_ERROR_OUT_OF_MEMORY ? Code::no_memory : Code::internal, std::string(what) + ": " + text};
}

Status CudaDevice::start(const void *image, int ordinal) {
    T5K_TRY(check(driver_.init(0), "cuInit"));
    T5K_TRY(check(driver_.device_get(&device_, ordinal), "cuDeviceGet"));
    T5K_TRY(check(driver_.context_retain(&context_, device_), "cuDevicePrimaryCtxRetain"));
    T5K_TRY(check(driver_.context_set(context_), "cuCtxSetCurrent"));
    T5K_TRY(check(driver_.module_load(&module_, image), "cuModuleLoadData"));
    T5K_TRY(check(driver_.stream_create(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate"));
    for (CUevent &event : events_) T5K_TRY(check(driver_.event_create(&event, CU_EVENT_DISABLE_TIMING), "cuEventCreate"));
    return grow_arena(1 << 20);
}

Storage CudaDevice::storage() const {
    if (activations_ == T5K_F32) return {};
    return {2, activations_ == T5K_F16 ? 65504.0f : 3.38953139e38f};
}

Status CudaDevice::wait() {
    T5K_TRY(check(driver_.stream_synchronize(stream_), "cuStreamSynchronize"));
    arena_used_ = 0;
    return Status::good();
}

Status CudaDevice::grab(int64_t bytes, CUdeviceptr *memory) {
    const CUresult code = driver_.allocate(memory, static_cast<size_t>(bytes));
    return check(code, ("cuMemAlloc of " + std::to_string(bytes) + " bytes").c_str());
}

Status CudaDevice::allocate(int64_t bytes, void **out) {
    CUdeviceptr memory = 0;
    *out = nullptr;
    T5K_TRY(grab(bytes, &memory));
    T5K_TRY(check(driver_.fill(memory, 0, static_cast<size_t>(bytes), stream_), "cuMemsetD8Async"));
    *out = pointer(memory);
    return Status::good();
}

// Recorded steps may name the memory: they are recorded again.
void CudaDevice::release(void *memory, int64_t) {
    enter();
    driver_.stream_synchronize(stream_);
    forget_plans();
    driver_.free(address(memory));
}

Status CudaDevice::bind(const void *host, int64_t bytes, int64_t) {
    CUdeviceptr &at = weights_[host];
    if (at) return Status::good();
    T5K_TRY(grab(bytes, &at));
    return check(driver_.to_device(at, host, static_cast<size_t>(bytes), stream_), "cuMemcpyHtoDAsync");
}

Status CudaDevice::weight(const void *host, const void **memory) const {
    const auto found = weights_.find(host);
    if (found == weights_.end()) return {Code::internal, "a job names a weight that was not bound"};
    *memory = pointer(found->second);
    return Status::good();
}

Status CudaDevice::grow_arena(int64_t bytes) {
    driver_.free(arena_);
    arena_ = 0;
    arena_host_.resize(static_cast<size_t>(bytes));
    return grab(bytes, &arena_);
}

// The mirror is filled before the copy is enqueued: a driver may read pageable memory at once.
Status CudaDevice::stage(const void *from, int64_t bytes, CUdeviceptr *memory) {
    const int64_t size = round_up(bytes, 256);
    if (arena_used_ + size > static_cast<int64_t>(arena_host_.size())) {
        T5K_TRY(wait());
        if (size > static_cast<int64_t>(arena_host_.size())) T5K_TRY(grow_arena(2 * size));
    }
    void *mirror = arena_host_.data() + arena_used_;
    std::memcpy(mirror, from, static_cast<size_t>(bytes));
    *memory = arena_ + static_cast<CUdeviceptr>(arena_used_);
    arena_used_ += size;
    return check(driver_.to_device(*memory, mirror, static_cast<size_t>(bytes), stream_), "cuMemcpyHtoDAsync");
}

Status CudaDevice::read(void *host, const void *memory, int64_t bytes) {
    T5K_TRY(check(driver_.to_host(host, address(memory), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoHAsync"));
    return wait();
}

Status CudaDevice::read_numbers(float *host, const float *memory, int64_t n) {
    if (activations_ == T5K_F32) return read(host, memory, n * 4);
    std::vector<uint16_t> halves(static_cast<size_t>(n));
    T5K_TRY(read(halves.data(), memory, n * 2));
    for (const uint16_t half : halves) {
        const uint32_t wide = uint32_t{half} << 16;  // bf16
        std::memcpy(host, &wide, 4);
        if (activations_ == T5K_F16) *host = float_of_f16(half);
        ++host;
    }
    return Status::good();
}

Status CudaDevice::copy(void *to, const void *from, int64_t bytes) {
    return check(driver_.on_device(address(to), address(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoDAsync");
}

}  // namespace t5k::cuda
