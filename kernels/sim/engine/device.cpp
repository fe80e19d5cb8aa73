// Links the engine's own model and C interface with the CUDA device on the simulator: `device="cuda-sim"`.
//
// The C interface asks device/cpu.h for a device; here that name makes a CUDA device, so that not a line of the model
// differs from the library a user installs. The simulator's library is found beside this one.
#include <stdexcept>

#include "device/cpu.h"
#include "device/cuda_launch.h"

namespace t5k {

bool choose_isa(const char *, Isa *isa) { return *isa = Isa::scalar, true; }
const char *isa_name(Isa) { return "cuda-sim"; }

std::unique_ptr<Device> make_cpu_device(Isa, int) {
    cuda::Driver driver;
    std::string missing;
    if (!cuda::open_driver("libcuda_sim.so", &driver, &missing)) throw std::runtime_error(missing);
    std::unique_ptr<Device> device;
    const Status status = cuda::CudaDevice::open(driver, "", &device);
    if (!status.ok()) throw std::runtime_error(status.message);
    return device;
}

}  // namespace t5k
