// Switching between stacks: a few instructions on x86-64, ucontext elsewhere (3 to 12 times slower: a system call each).
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) || defined(T5K_SIM_UCONTEXT)
#include <ucontext.h>
#define T5K_SIM_USES_UCONTEXT 1
#endif

namespace t5k::sim {

class Fiber {
   public:
    // Starts at entry() on `stack` at the next switch_to; entry must never return.
    void prepare(unsigned char *stack, size_t bytes, void (*entry)());
    // Leaves `from`, continues `to`.
    static void switch_to(Fiber &from, Fiber &to);

   private:
#if defined(T5K_SIM_USES_UCONTEXT)
    ucontext_t context_;
#else
    void *sp_ = nullptr;
#endif
};

}  // namespace t5k::sim
