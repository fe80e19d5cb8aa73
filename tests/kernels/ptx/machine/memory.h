// Device memory and who touched it: allocations, bounds, and a history per 4 bytes that finds races.
//
// The first functions stand in for kernels/sim/memory.cpp behind the same driver; see sim/memory.h.
#pragma once

#include <cstddef>
#include <vector>

#include "program.h"
#include "sim/memory.h"

namespace t5k::ptx {

// The last write and two last readers of 4 bytes. Masks name the bytes meant.
struct History {
    struct Access {
        u32 launch = 0, block = 0, thread = 0, epoch = 0, clock = 0;
        u8 mask = 0;
        bool is_strong = false;
        int line = 0;
    };
    Access write, reads[2];
};

struct Allocation {
    unsigned char *start = nullptr;
    size_t bytes = 0;
    int device = 0;
    bool is_module_s = false;  // a variable of the module, which every device has
    std::vector<History> history;  // empty until a kernel touches it
};

// The allocation that holds [address, address + bytes), or null.
Allocation *allocation_of(u64 address, size_t bytes);
// False for memory of another device that has not given access to its peers.
bool is_visible(const Allocation &allocation);

}  // namespace t5k::ptx
