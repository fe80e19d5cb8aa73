// The CUDA device, over whichever driver library is named: libcuda.so.1, or the simulator.
#pragma once

#include <memory>

#include "device/device.h"
#include "include/t5k.h"

namespace t5k {

// `image` is a cubin with every kernel of ops/ for the first device. Rank r runs on GPU r; where there is only one GPU, all
// run on it, one after another; fewer GPUs than ranks are refused. activations: T5K_F32, T5K_F16 or T5K_BF16. Nothing of CUDA is
// linked: without a driver the status names what is missing.
Status make_cuda_device(const char *driver, const void *image, int activations, int ranks,
                        std::unique_ptr<Device> *out);

// What the driver says of its devices; the status says what is missing.
Status look_at_cuda(const char *driver, t5k_cuda *out);

}  // namespace t5k
