// The CPU device: kernels of one ISA, run by one thread team.
#pragma once

#include <memory>

#include "device/device.h"
#include "device/kernel_table.h"

namespace t5k {

std::unique_ptr<Device> make_cpu_device(Isa isa, int threads);

}  // namespace t5k
