# Out of long mode and back: a blob that is copied to 9000h, below the reach of real mode, and its routines. AT&T syntax.
# B000h.. is what it saves, B100h.. what the routines are given and leave.

.set BLOB, 0x9000
.set SAVED_RSP, 0xB000
.set SAVED_CR3, 0xB008
.set ROUTINE, 0xB010
.set MODE, 0xB014
.set SAVED_GS, 0xB018
.set SAVED_IDT, 0xB020
.set SAVED_GDT, 0xB030
.set SAVED_CR4, 0xB040
.set STACK, 0x7F00

.set MODE_REAL, 0
.set MODE_PROTECTED_16, 1
.set MODE_PROTECTED_32, 2
.set MODE_COMPATIBILITY, 3

.section .text.legacy, "ax", @progbits
.code64
# legacy_call(routine: edi, mode: esi)
.global legacy_call
legacy_call:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    cli
    mov %rsp, SAVED_RSP
    mov %cr3, %rax
    mov %rax, SAVED_CR3
    mov %cr4, %rax
    mov %rax, SAVED_CR4
    mov %edi, ROUTINE
    mov %esi, MODE
    sidt SAVED_IDT
    sgdt SAVED_GDT
    mov $0xC0000101, %ecx
    rdmsr
    mov %eax, SAVED_GS
    mov %edx, SAVED_GS + 4
    lgdt boot_gdt_pointer
    pushq $0x18
    pushq $(BLOB + legacy_32 - legacy_blob)
    lretq

.section .rodata.legacy, "a", @progbits
.balign 16
.global legacy_blob
legacy_blob:
.code32
legacy_32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $STACK, %esp
    cmpl $MODE_COMPATIBILITY, MODE
    jne 1f
    call *ROUTINE
    ljmpl $0x08, $(BLOB + legacy_64 - legacy_blob)
1:  mov %cr0, %eax
    and $0x7FFFFFFF, %eax
    mov %eax, %cr0
    mov $0xC0000080, %ecx
    rdmsr
    and $~0x100, %eax
    wrmsr
    cmpl $MODE_PROTECTED_32, MODE
    je 2f
    ljmpl $0x20, $(BLOB + legacy_16 - legacy_blob)
2:  call *ROUTINE
legacy_back:
    cli
    mov SAVED_CR4, %eax
    mov %eax, %cr4
    mov SAVED_CR3, %eax
    mov %eax, %cr3
    mov $0xC0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
    ljmpl $0x08, $(BLOB + legacy_64 - legacy_blob)
legacy_flat:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    mov $STACK, %esp
    jmp legacy_back

.code16
legacy_16:
    mov $0x28, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov %ax, %fs
    mov %ax, %gs
    mov ROUTINE, %bx
    cmpl $MODE_REAL, MODE
    je 1f
    call *%bx
    cli
    ljmpl $0x18, $(BLOB + legacy_flat - legacy_blob)
1:  mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmpw $0, $(BLOB + legacy_real - legacy_blob)
legacy_real:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov %ax, %fs
    mov %ax, %gs
    mov $STACK, %sp
    lidtl BLOB + legacy_real_idt - legacy_blob
    call *%bx
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x18, $(BLOB + legacy_flat - legacy_blob)
.balign 4
legacy_real_idt:
    .word 0x3FF
    .long 0

.code64
legacy_64:
    lgdt SAVED_GDT
    lidt SAVED_IDT
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov $0x10, %eax
    mov %eax, %ss
    mov SAVED_RSP, %rsp
    mov $0xC0000101, %ecx
    mov SAVED_GS, %eax
    mov SAVED_GS + 4, %edx
    wrmsr
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
