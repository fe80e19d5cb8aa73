#include "device/cuda.h"

#include "device/cuda_steps.h"

namespace t5k {
namespace {

constexpr int OLDEST_ARCH = 80;  // cp.async and mma.m16n8k16 on bf16

Status refuse(const cuda::Driver &driver, cuda::CUresult code, const char *what) {
    const char *text = "unknown error";
    driver.error_string(code, &text);
    return Status::invalid(std::string("the CUDA driver is there, but ") + what + " says: " + text);
}

}  // namespace

Status look_at_cuda(const char *path, t5k_cuda *out) {
    *out = t5k_cuda{};
    cuda::Driver driver;
    std::string missing;
    if (!cuda::open_driver(path, &driver, &missing)) return Status::invalid(missing);
    int count = 0, major = 0, minor = 0, version = 0;
    cuda::CUdevice device = 0;
    cuda::CUresult code = driver.init(0);
    if (code != cuda::CUDA_SUCCESS && code != cuda::CUDA_ERROR_NO_DEVICE) return refuse(driver, code, "cuInit");
    if (code == cuda::CUDA_SUCCESS) code = driver.device_count(&count);
    if (code != cuda::CUDA_SUCCESS || count < 1)
        return Status::invalid("the CUDA driver is there, but it finds no device (is one passed into this container?)");
    size_t bytes = 0;
    driver.driver_version(&version);
    code = driver.device_get(&device, 0);
    if (code == cuda::CUDA_SUCCESS)
        code = driver.device_attribute(&major, cuda::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    if (code == cuda::CUDA_SUCCESS)
        code = driver.device_attribute(&minor, cuda::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    if (code == cuda::CUDA_SUCCESS) code = driver.device_memory(&bytes, device);
    if (code == cuda::CUDA_SUCCESS) code = driver.device_name(out->name, sizeof out->name, device);
    if (code != cuda::CUDA_SUCCESS) return refuse(driver, code, "asking for its first device");
    out->devices = count;
    out->arch = major * 10 + minor;
    out->driver_version = version;
    out->memory_bytes = static_cast<int64_t>(bytes);
    if (out->arch >= OLDEST_ARCH) return Status::good();
    return Status::invalid(std::string(out->name) + " is sm_" + std::to_string(out->arch) +
                           ": the kernels need sm_80 (Ampere) or newer");
}

Status make_cuda_device(const char *path, const void *image, std::unique_ptr<Device> *out) {
    cuda::Driver driver;
    std::string missing;
    if (!cuda::open_driver(path, &driver, &missing)) return Status::invalid(missing);
    if (!image) return Status::invalid("cuda_image: expected a cubin, got null");
    return cuda::CudaDevice::open(driver, image, out);
}

}  // namespace t5k
