#include "fibers.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define PE_ASAN
#include <sanitizer/common_interface_defs.h>
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PE_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace pe::cuda::emulation {
namespace {

constexpr size_t kGuard = 16 * 1024;
#ifdef PE_ASAN
constexpr size_t kStack = 512 * 1024;
#else
constexpr size_t kStack = 128 * 1024;
#endif

// Of the last switch. Not thread_local: the next kernel may be launched on another thread of the machine.
Fiber* left = nullptr;
Fiber* resumed = nullptr;

}  // namespace

#if defined(__x86_64__)

// Saves what a callee must keep on the stack that is left, *from, and takes it from the other. swapcontext
// would also ask the kernel for the signal mask: ten times as slow.
extern "C" void pe_emulation_switch(void** from, void* to);
asm(R"(
    .text
    .hidden pe_emulation_switch
    .globl pe_emulation_switch
    .type pe_emulation_switch, @function
pe_emulation_switch:
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
    .size pe_emulation_switch, . - pe_emulation_switch
)");

namespace {

void* new_context(void* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(static_cast<char*>(stack) + size);
    *--top = nullptr;  // where entry would return to; the stack is then aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    constexpr int kSaved = 6;
    for (int i = 0; i < kSaved; ++i) *--top = nullptr;
    return top;
}
void delete_context(void*) {}
void switch_context(void*& from, void* to) { pe_emulation_switch(&from, to); }

}  // namespace

#else

namespace {

void* new_context(void* stack, size_t size, void (*entry)()) {
    ucontext_t* context = new ucontext_t;
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = size;
    makecontext(context, entry, 0);
    return context;
}
void delete_context(void* context) { delete static_cast<ucontext_t*>(context); }
void switch_context(void*& from, void* to) {
    if (from == nullptr) from = new ucontext_t;
    swapcontext(static_cast<ucontext_t*>(from), static_cast<ucontext_t*>(to));
}

}  // namespace

#endif

Fiber::Fiber(void (*body)()) : body_(body) {
    memory_ = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED || mprotect(memory_, kGuard, PROT_NONE) != 0) std::abort();
    bottom_ = static_cast<char*>(memory_) + kGuard;
    size_ = kStack;
    context_ = new_context(const_cast<void*>(bottom_), size_, enter);
}

Fiber::~Fiber() {
    delete_context(context_);
    if (memory_ != nullptr) munmap(memory_, kGuard + kStack);
}

void Fiber::swap(Fiber& from, Fiber& to) {
    left = &from;
    resumed = &to;
#ifdef PE_ASAN
    __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.size_);
#endif
    switch_context(from.context_, to.context_);
    from.arrived();
}

void Fiber::arrived() {
#ifdef PE_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, &left->bottom_, &left->size_);
#endif
}

void Fiber::enter() {
    Fiber* self = resumed;
    self->arrived();
    self->body_();
    std::abort();
}

}  // namespace pe::cuda::emulation
