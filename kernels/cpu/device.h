// The CPU device: kernels of one ISA, run by one thread team.
#pragma once

#include <memory>

#include "device/device.h"
#include "cpu/kernel_table.h"

namespace t5k {

// cache_bytes: of a number in the decoder's caches, 4 (fp32) or 2 (bf16).
std::unique_ptr<Device> make_cpu_device(Isa isa, int threads, int64_t cache_bytes = 4);

}  // namespace t5k
