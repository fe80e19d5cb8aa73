// Which GPUs are here, and a device over one of them or over a group.
#include "cuda/host/device.h"

#include <dlfcn.h>

namespace t5k {

bool cuda::open_driver(const char *path, Driver *driver, std::string *missing) {
    driver->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!driver->library) {
        *missing = std::string("no CUDA driver: ") + dlerror();
        return false;
    }
#define T5K_RESOLVE(member, symbol, parameters)                                                          \
    driver->member = reinterpret_cast<CUresult(*) parameters>(dlsym(driver->library, #symbol));          \
    if (!driver->member) {                                                                               \
        *missing = std::string(path) + " has no " #symbol ": a driver older than CUDA 12";               \
        return false;                                                                                    \
    }
    T5K_CUDA_DRIVER(T5K_RESOLVE)
#undef T5K_RESOLVE
    return true;
}

namespace {

constexpr int OLDEST_ARCH = 80;  // cp.async and mma.m16n8k16 on bf16

Status refuse(const cuda::Driver &driver, cuda::CUresult code, const char *what) {
    const char *text = "unknown error";
    driver.error_string(code, &text);
    return Status::invalid(std::string("the CUDA driver is there, but ") + what + " says: " + text);
}

Status ask_arch(const cuda::Driver &driver, cuda::CUdevice device, int *arch) {
    int major = 0, minor = 0;
    cuda::CUresult code = driver.device_attribute(&major, cuda::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    if (code == cuda::CUDA_SUCCESS)
        code = driver.device_attribute(&minor, cuda::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    *arch = major * 10 + minor;
    return code == cuda::CUDA_SUCCESS ? Status::good() : refuse(driver, code, "asking for a device's architecture");
}

// Whether each of `count` devices can reach the memory of each other one.
bool are_peers(const cuda::Driver &driver, int count) {
    for (int a = 0; a < count; ++a)
        for (int b = 0; b < count; ++b) {
            int can = 0;
            if (a != b && (driver.can_access_peer(&can, a, b) != cuda::CUDA_SUCCESS || !can)) return false;
        }
    return true;
}

}  // namespace

Status look_at_cuda(const char *path, t5k_cuda *out) {
    *out = t5k_cuda{};
    cuda::Driver driver;
    std::string missing;
    if (!cuda::open_driver(path, &driver, &missing)) return Status::invalid(missing);
    int count = 0, version = 0;
    cuda::CUdevice device = 0;
    cuda::CUresult code = driver.init(0);
    if (code != cuda::CUDA_SUCCESS && code != cuda::CUDA_ERROR_NO_DEVICE) return refuse(driver, code, "cuInit");
    if (code == cuda::CUDA_SUCCESS) code = driver.device_count(&count);
    if (code != cuda::CUDA_SUCCESS || count < 1)
        return Status::invalid("the CUDA driver is there, but it finds no device (is one passed into this container?)");
    size_t bytes = 0;
    driver.driver_version(&version);
    code = driver.device_get(&device, 0);
    if (code == cuda::CUDA_SUCCESS) code = driver.device_memory(&bytes, device);
    if (code == cuda::CUDA_SUCCESS) code = driver.device_name(out->name, sizeof out->name, device);
    if (code != cuda::CUDA_SUCCESS) return refuse(driver, code, "asking for its first device");
    out->devices = count;
    out->are_peers = count > 1 && are_peers(driver, count);
    T5K_TRY(ask_arch(driver, device, &out->arch));
    out->driver_version = version;
    out->memory_bytes = static_cast<int64_t>(bytes);
    if (out->arch >= OLDEST_ARCH) return Status::good();
    return Status::invalid(std::string(out->name) + " is sm_" + std::to_string(out->arch) +
                           ": the kernels need sm_80 (Ampere) or newer");
}

Status make_cuda_device(const char *path, const void *image, int activations, int ranks, std::unique_ptr<Device> *out) {
    cuda::Driver driver;
    std::string missing;
    if (!cuda::open_driver(path, &driver, &missing)) return Status::invalid(missing);
    if (!image) return Status::invalid("cuda_image: expected a cubin, got null");
    int count = 0;
    cuda::CUresult code = driver.init(0);
    if (code == cuda::CUDA_SUCCESS) code = driver.device_count(&count);
    if (code != cuda::CUDA_SUCCESS) return refuse(driver, code, "counting its devices");
    if (ranks == 1 || count == 1) {
        std::unique_ptr<cuda::CudaDevice> device;
        T5K_TRY(cuda::CudaDevice::open(driver, image, activations, 0, &device));
        *out = std::move(device);
        return Status::good();
    }
    if (count < ranks)
        return Status::invalid("tensor-parallel degree " + std::to_string(ranks) + ": expected a GPU per rank, or one for all, got " +
                               std::to_string(count) + " (CUDA_VISIBLE_DEVICES=0 runs all ranks on one)");
    int arch = 0, other = 0;
    T5K_TRY(ask_arch(driver, 0, &arch));
    for (int r = 1; r < ranks; ++r) {
        T5K_TRY(ask_arch(driver, r, &other));
        if (other != arch)
            return Status::invalid("GPU 0 is sm_" + std::to_string(arch) + " and GPU " + std::to_string(r) + " is sm_" +
                                   std::to_string(other) + ": the ranks of one model need GPUs of one kind");
    }
    return cuda::CudaGroup::open(driver, image, activations, ranks, out);
}

}  // namespace t5k
