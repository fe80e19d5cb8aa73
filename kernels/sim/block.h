// One launch on the simulator: every block in turn, every thread of a block on its own fiber (block.cpp).
#pragma once

#include <string>

#include "sim/sim.h"

namespace t5k::sim {

struct Launch {
    const Kernel *kernel;
    Dim grid, block;
    size_t dynamic_bytes;
    const void *job;
};

// "" or what went wrong, in one sentence with the block and thread.
std::string run(const Launch &launch);
// Order of lanes and blocks of the launches that follow: 0 ascending, 1 descending, else random from this seed; under an
// odd seed above 1 one warp runs as far ahead of the others as barriers let it.
void set_order(unsigned long long seed);
const Kernel *find_kernel(const char *name);
const Kernel *first_kernel();

}  // namespace t5k::sim
