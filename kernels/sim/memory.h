// Device memory of the simulator: filled with NaN, canaries at both ends, and an owner: one of the simulated devices.
//
// While one device is simulated every allocation is a heap object. With several, each device allocates from its own range
// of addresses, and see() takes away the pages of those that the code about to run may not touch.
#pragma once

#include <cstddef>
#include <string>

namespace t5k::sim {

constexpr int MOST_DEVICES = 8;

void *allocate_memory(size_t bytes, int device = 0, bool has_others = false);  // null when the simulated device is full
bool free_memory(void *memory);       // false: not an allocation
bool owns(const void *memory, size_t bytes);  // the whole range lies in one live allocation
int owner(const void *memory);                // the device, -1: not in an allocation
std::string damaged();                        // "" or which allocation was written outside its bounds
// Makes AddressSanitizer, if it is there, report whoever touches these bytes (the simulator itself is not checked).
void guard(const void *start, size_t bytes);
// What may be touched from now on: bit d for the memory of device d. A kernel that touches other memory fails by name.
void see(unsigned devices);
constexpr unsigned EVERYTHING = ~0u;
void set_capacity(size_t bytes);  // of every device
void set_capacity(int device, size_t bytes);
size_t capacity_bytes(int device = 0);
size_t allocations();

}  // namespace t5k::sim
