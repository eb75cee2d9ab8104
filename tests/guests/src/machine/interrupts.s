# 256 entries of 16 bytes each that end in Rust. Every gate has an interrupt stack, because precompiled code uses the red zone.
# Exceptions stay on it; interrupts and NMI move to below the red zone of what they interrupted, so that they nest. AT&T syntax.

.section .text.interrupts, "ax", @progbits
.code64
.balign 16
.global interrupt_stubs
interrupt_stubs:
.set number, 0
.rept 256
    .balign 16
    .if (number == 8) || ((number >= 10) && (number <= 14)) || (number == 17) || (number == 21) || (number == 29) || (number == 30)
    .else
    pushq $0
    .endif
    pushq $number
    .if (number == 2) || (number >= 32)
    jmp interrupt_moved
    .else
    jmp interrupt_common
    .endif
    .set number, number + 1
.endr

interrupt_moved:
    push %rax
    push %rcx
    mov %rsp, %rcx
    mov 56(%rcx), %rax
    sub $128, %rax
    and $-16, %rax
    mov %rax, %rsp
    pushq 64(%rcx)
    pushq 56(%rcx)
    pushq 48(%rcx)
    pushq 40(%rcx)
    pushq 32(%rcx)
    pushq 24(%rcx)
    pushq 16(%rcx)
    mov 8(%rcx), %rax
    mov (%rcx), %rcx

interrupt_common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rbx
    sub $512, %rsp
    and $-16, %rsp
    fxsave64 (%rsp)
    cld
    mov %rbx, %rdi
    call interrupt_entry
    fxrstor64 (%rsp)
    mov %rbx, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

# catch_call(function: rdi, argument: rsi, place for the stack pointer: rdx) -> 0, or 1 if the trap handler cut it short.
.global catch_call
catch_call:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, (%rdx)
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    xor %eax, %eax
    jmp 2f
.global catch_return
catch_return:
    mov $1, %eax
2:  popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
