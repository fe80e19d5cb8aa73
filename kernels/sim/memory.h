// Device memory of the simulator: one heap object per allocation, filled with NaN, canaries at both ends.
#pragma once

#include <cstddef>
#include <string>

namespace t5k::sim {

void *allocate_memory(size_t bytes);  // null when the simulated device is full
bool free_memory(void *memory);       // false: not an allocation
bool owns(const void *memory, size_t bytes);  // the whole range lies in one live allocation
std::string damaged();                        // "" or which allocation was written outside its bounds
// Makes AddressSanitizer, if it is there, report whoever touches these bytes (the simulator itself is not checked).
void guard(const void *start, size_t bytes);
void set_capacity(size_t bytes);
size_t capacity_bytes();
size_t allocations();

}  // namespace t5k::sim
