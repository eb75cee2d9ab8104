# From the loader to Rust: the 32-bit entries of multiboot and PVH, the 16-bit SIPI entry of the other processors, one way into
# long mode for all. AT&T syntax.

.set MULTIBOOT_MAGIC, 0x1BADB002
# Page-aligned modules, memory information, addresses valid (so that a 64-bit ELF may be loaded flat).
.set MULTIBOOT_FLAGS, 0x00010003

.section .multiboot, "a", @progbits
.balign 4
multiboot_header:
    .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
    .long multiboot_header, image_start, load_end, image_end, multiboot_start

# XEN_ELFNOTE_PHYS32_ENTRY; QEMU reads eight bytes of description.
.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18
.asciz "Xen"
.quad pvh_start

.set CR4_PAE_PGE_OSFXSR_OSXMMEXCPT, 0x6A0
.set EFER, 0xC0000080
.set EFER_LME_NXE, 0x900
.set CR0_PG_WP_NE_ET_MP_PE, 0x80010033

.section .boot32, "ax", @progbits
.code32
multiboot_start:
    mov $1, %ebp
    jmp first_start
.global pvh_start
pvh_start:
    xor %ebp, %ebp
first_start:
    cli
    cld
    mov $load_end, %edi
    mov $image_end, %ecx
    sub %edi, %ecx
    shr $2, %ecx
    xor %eax, %eax
    rep stosl
    mov %ebx, %esi
    mov $long_first, %edi

# Turns long mode on and goes to EDI, keeping EBP, ESI and EBX.
enter_long_mode:
    mov $CR4_PAE_PGE_OSFXSR_OSXMMEXCPT, %eax
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $EFER, %ecx
    rdmsr
    or $EFER_LME_NXE, %eax
    wrmsr
    mov $CR0_PG_WP_NE_ET_MP_PE, %eax
    mov %eax, %cr0
    lgdt boot_gdt_pointer
    ljmpl $0x08, $long_common

# EBP = CR0 as found, EBX = CS as found, ESI = EDX as found.
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
    mov %esi, %esi
    xor %ebp, %ebp
    call guest_main
    ud2
long_other:
    mov %ebx, %r12d
    mov $1, %eax
    xor %ecx, %ecx
    cpuid
    shr $24, %ebx
    and $15, %ebx
    mov %ebx, %edi
    lea 1(%rbx), %eax
    shl $14, %eax
    lea other_stacks(%rax), %rsp
    mov %esi, %ecx
    mov %r12d, %esi
    mov %ebp, %edx
    xor %ebp, %ebp
    call guest_other_main
    ud2

# Copied to a page below 1 MiB, where the other processors start; finds itself by CS.
.section .rodata.trampoline, "a", @progbits
.code16
.global trampoline
.global trampoline_end
trampoline:
    cli
    cld
    mov %edx, %esi
    xor %ebx, %ebx
    mov %cs, %bx
    mov %bx, %ds
    mov %cr0, %ebp
    lgdtl trampoline_gdt_pointer - trampoline
    mov %ebp, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x18, $protected_other
.balign 8
trampoline_gdt_pointer:
    .word 7 * 8 - 1
    .long boot_gdt
trampoline_end:
.code64

.section .data.boot, "aw", @progbits
.balign 8
# 0x08 64-bit code, 0x10 data, 0x18 32-bit code, 0x20 16-bit code, 0x28 16-bit data, 0x30 data at FEE00000.
.global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF
    .quad 0x00CF93000000FFFF
    .quad 0x00CF9B000000FFFF
    .quad 0x00009B000000FFFF
    .quad 0x000093000000FFFF
    .quad 0xFE0093E00000FFFF
.global boot_gdt_pointer
boot_gdt_pointer:
    .word 7 * 8 - 1
    .long boot_gdt, 0

# The first 4 GiB one to one in pages of 2 MiB, the last of them uncached; above 512 GiB a window of single pages.
.balign 4096
.global boot_pml4
boot_pml4:
    .quad boot_pdpt + 3
    .quad window_pdpt + 7
    .zero 4080
boot_pdpt:
    .quad boot_pd + 3, boot_pd + 0x1003, boot_pd + 0x2003, boot_pd + 0x3003
    .zero 4064
boot_pd:
    .set page, 0
    .rept 1536
    .quad (page << 21) + 0x83
    .set page, page + 1
    .endr
    .rept 512
    .quad (page << 21) + 0x9B
    .set page, page + 1
    .endr
window_pdpt:
    .quad window_pd + 7
    .zero 4088
window_pd:
    .quad window_pt + 7
    .zero 4088
.global window_pt
window_pt:
    .zero 4096

.section .bss.boot_stack, "aw", @nobits
.balign 4096
.zero 0x10000
boot_stack_top:
.global other_stacks
other_stacks:
.zero 0x40000
