#include "sim/fiber.h"

namespace t5k::sim {

#if defined(T5K_SIM_USES_UCONTEXT)

void Fiber::prepare(unsigned char *stack, size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
}

void Fiber::switch_to(Fiber &from, Fiber &to) { swapcontext(&from.context_, &to.context_); }

#else

extern "C" void t5k_sim_switch(void **save, void *load);
// System V: rbx, rbp, r12..r15 survive a call; all else the compiler has saved already.
asm(R"(
.text
.globl t5k_sim_switch
.hidden t5k_sim_switch
.type t5k_sim_switch, @function
t5k_sim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size t5k_sim_switch, .-t5k_sim_switch
)");

void Fiber::prepare(unsigned char *stack, size_t bytes, void (*entry)()) {
    // At entry() the stack must stand 8 below a multiple of 16, as after a call: six registers, the address, one spare.
    auto **top = reinterpret_cast<void **>(reinterpret_cast<uintptr_t>(stack + bytes) / 16 * 16);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    sp_ = top;
}

void Fiber::switch_to(Fiber &from, Fiber &to) { t5k_sim_switch(&from.sp_, to.sp_); }

#endif

}  // namespace t5k::sim
