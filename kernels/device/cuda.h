// The CUDA device, over whichever driver library is named: libcuda.so.1, or the simulator.
#pragma once

#include <memory>

#include "device/device.h"
#include "include/t5k.h"

namespace t5k {

// NCCL, if `library` is not null, for sums of more than `over` bytes.
struct NcclChoice {
    const char *library = nullptr;
    int64_t over = 0;
};

// cuBLASLt, if `library` is not null, for tiled products of at least `rows` rows of 16-bit or fp32 weights.
struct CublasLtChoice {
    const char *library = nullptr;
    int64_t rows = 0;
    bool allows_tf32 = false;  // of fp32 factors
};

struct LibraryChoice {
    NcclChoice nccl;
    CublasLtChoice cublaslt;
};

// `image` is a cubin with every kernel of ops/ for the first device. Rank r runs on GPU r; where there is only one GPU, all
// run on it, one after another; fewer GPUs than ranks are refused. libraries: who
// does large sums between GPUs and large products. activations: T5K_F32, T5K_F16 or T5K_BF16. Nothing of CUDA is linked: without a driver the status says what
// is missing.
Status make_cuda_device(const char *driver, const void *image, int activations, int ranks, const LibraryChoice &libraries,
                        std::unique_ptr<Device> *out);

// What the driver says of its devices; the status says what is missing.
Status look_at_cuda(const char *driver, t5k_cuda *out);

}  // namespace t5k
