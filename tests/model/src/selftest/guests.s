# Guests of a few instructions, run at ring 0 in 64-bit mode. Each entry is a label; the blob is copied whole. AT&T syntax.
.section .rodata.selftest, "a", @progbits
.code64
.global selftest_start
.global selftest_end
.global selftest_cpuid
.global selftest_spin
.global selftest_mark
.global selftest_look
.global selftest_words
selftest_start:

# An exit for each CPUID.
selftest_cpuid:
    cpuid
    jmp selftest_cpuid

# No exit at all.
selftest_spin:
    inc %rbx
    jmp selftest_spin

# Leaves a mark in everything VMRUN does not swap.
selftest_mark:
    mov $0xCAFEF00DCAFEF00D, %rax
    mov %rax, %dr0
    mov %rax, %dr3
    movq %rax, %xmm7
    fld1
    xor %ecx, %ecx
    xor %edx, %edx
    mov $7, %eax
    xsetbv
    vinsertf128 $1, %xmm7, %ymm7, %ymm7
    hlt
    jmp selftest_look

# Reads them all.
selftest_look:
    mov %dr0, %r8
    mov %dr3, %r9
    movq %xmm7, %r10
    vextractf128 $1, %ymm7, %xmm6
    movq %xmm6, %r11
    fnstsw %ax
    movzx %ax, %r12
    rdtscp
    mov %rcx, %r13
    xor %ecx, %ecx
    xgetbv
    mov %rax, %r14
    hlt

# One exit of each other kind.
selftest_words:
    mov $0x3F9, %dx
    in %dx, %al
    mov $0x10, %ecx
    rdmsr
    vmmcall
    hlt
    .byte 0xF2, 0x0F, 0x01, 0xFF
selftest_end:
