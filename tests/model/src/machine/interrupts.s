# 256 entries of 16 bytes each, all ending in `interrupt_common`, which saves what Rust may change (x87 and SSE too), calls
# `interrupt_entry` with the frame and returns. Every gate has an interrupt stack, so red zones are safe. AT&T syntax.

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
    jmp interrupt_common
    .set number, number + 1
.endr

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
