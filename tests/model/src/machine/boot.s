# From the loader to Rust: 32-bit PVH entry of the first processor, 16-bit SIPI entry of the others, one way into long mode with
# five-level paging for both. AT&T syntax.

# The note that makes QEMU enter at `pvh_start` (XEN_ELFNOTE_PHYS32_ENTRY); QEMU reads eight bytes of description.
.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18
.asciz "Xen"
.quad pvh_start

.set CR4_PAE_PGE_OSFXSR_OSXMMEXCPT_LA57_OSXSAVE, 0x416A0
.set EFER, 0xC0000080
.set EFER_LME_NXE_SVME, 0x1900
.set CR0_PG_WP_NE_ET_MP_PE, 0x80010033

.section .boot32, "ax", @progbits
.code32
.global pvh_start
pvh_start:
    cli
    cld
    mov $boot_stack_top, %esp
    mov %ebx, %ebp
    mov $1, %eax
    xor %ecx, %ecx
    cpuid
    mov $message_xsave, %esi
    bt $26, %ecx
    jnc refuse
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    mov $message_la57, %esi
    bt $16, %ecx
    jnc refuse
    mov $0x80000001, %eax
    cpuid
    mov $message_svm, %esi
    bt $2, %ecx
    jnc refuse
    mov $message_gib, %esi
    bt $26, %edx
    jnc refuse
    mov $long_first, %edi

# Turns long mode on and goes to EDI, keeping EBP.
enter_long_mode:
    mov $CR4_PAE_PGE_OSFXSR_OSXMMEXCPT_LA57_OSXSAVE, %eax
    mov %eax, %cr4
    mov $boot_pml5, %eax
    mov %eax, %cr3
    mov $EFER, %ecx
    rdmsr
    or $EFER_LME_NXE_SVME, %eax
    wrmsr
    mov $CR0_PG_WP_NE_ET_MP_PE, %eax
    mov %eax, %cr0
    lgdt boot_gdt_pointer
    ljmpl $0x08, $long_common

# Prints the message at ESI on the debug console and ends QEMU with "refused" (0x12).
refuse:
    mov $0xE9, %dx
1:  lodsb
    test %al, %al
    jz 2f
    out %al, %dx
    jmp 1b
2:  mov $0x12, %eax
    mov $0xF4, %dx
    out %eax, %dx
3:  cli
    hlt
    jmp 3b

protected_other:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $long_other, %edi
    jmp enter_long_mode

.code64
long_common:
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    fninit
    mov %edi, %edi
    jmp *%rdi
long_first:
    mov $boot_stack_top, %rsp
    mov %ebp, %edi
    xor %ebp, %ebp
    call model_main
    ud2
long_other:
    mov other_stack(%rip), %rsp
    mov other_argument(%rip), %rdi
    xor %ebp, %ebp
    call model_other_main
    ud2

# Copied to 0x8000, where the other processors start.
.section .rodata.trampoline, "a", @progbits
.code16
.global trampoline
.global trampoline_end
trampoline:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    lgdtl 0x8000 + trampoline_gdt_pointer - trampoline
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x18, $protected_other
.balign 8
trampoline_gdt_pointer:
    .word 4 * 8 - 1
    .long boot_gdt
trampoline_end:
.code64

.section .rodata.boot, "a", @progbits
message_xsave:
    .asciz "model-error: this processor has no XSAVE: start QEMU with -cpu EPYC-Milan,+la57,phys-bits=52\n"
message_la57:
    .asciz "model-error: this processor has no five-level paging: start QEMU with -cpu EPYC-Milan,+la57,phys-bits=52\n"
message_svm:
    .asciz "model-error: this processor has no SVM: start QEMU with -cpu EPYC-Milan,+la57,phys-bits=52\n"
message_gib:
    .asciz "model-error: this processor has no 1 GiB pages: start QEMU with -cpu EPYC-Milan,+la57,phys-bits=52\n"

.section .data.boot, "aw", @progbits
.balign 8
.global other_stack
.global other_argument
other_stack:
    .quad 0
other_argument:
    .quad 0

# 0x08 64-bit code, 0x10 data, 0x18 32-bit code.
boot_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF
    .quad 0x00CF93000000FFFF
    .quad 0x00CF9B000000FFFF
boot_gdt_pointer:
    .word 4 * 8 - 1
    .long boot_gdt

# The first 512 GiB one to one in pages of 1 GiB.
.balign 4096
boot_pml5:
    .quad boot_pml4 + 3
    .zero 4088
boot_pml4:
    .quad boot_pdpt + 3
    .zero 4088
boot_pdpt:
    .set gib, 0
    .rept 512
    .quad (gib << 30) + 0xE3
    .set gib, gib + 1
    .endr

.section .bss.boot_stack, "aw", @nobits
.balign 4096
.global boot_stack_guard
boot_stack_guard:
.zero 0x1000
.zero 0x20000
boot_stack_top:
