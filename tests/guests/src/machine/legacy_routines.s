# Routines of the blob; what each is given and leaves stands at VALUES. AT&T syntax.

.set VALUES, 0xB100
.set BUFFER, 0xC000
.set SCRATCH, 0x3FF
.set APIC, 0xFEE00000
# Where the 32-bit page tables of the checks have the local APIC.
.set ALIAS, 0x40000000

# Sets an entry of the real-mode interrupt table.
.macro vector number, handler
    movw $(BLOB + \handler - legacy_blob), 4 * \number
    movw $0, 4 * \number + 2
.endm

.code16
# Leaves CR0 and CS.
.global real_where
real_where:
    mov %cr0, %eax
    mov %eax, VALUES
    xor %eax, %eax
    mov %cs, %ax
    mov %eax, VALUES + 4
    ret

# Leaves a byte by the scratch register, a double word by CF8, a word by CFC.
.global real_ports
real_ports:
    xor %eax, %eax
    mov $SCRATCH, %dx
    mov $0x5A, %al
    out %al, %dx
    xor %al, %al
    in %dx, %al
    mov %eax, VALUES
    mov $0xCF8, %dx
    mov $0x80000000, %eax
    out %eax, %dx
    xor %eax, %eax
    in %dx, %eax
    mov %eax, VALUES + 4
    mov $0xCFC, %dx
    xor %eax, %eax
    in %dx, %ax
    mov %eax, VALUES + 8
    ret

# Leaves SI, CX, DI, CX of REP OUTSB of 8 bytes from the buffer and REP INSB of 5 to 100h behind it by ES.
.global real_strings
real_strings:
    xor %eax, %eax
    mov %eax, %ecx
    mov %eax, %esi
    mov %eax, %edi
    mov $SCRATCH, %dx
    mov $BUFFER, %si
    mov $8, %cx
    rep outsb
    mov %esi, VALUES
    mov %ecx, VALUES + 4
    mov $(BUFFER + 0x100) >> 4, %ax
    mov %ax, %es
    mov $3, %di
    mov $5, %cx
    rep insb
    mov %edi, VALUES + 8
    mov %ecx, VALUES + 12
    xor %ax, %ax
    mov %ax, %es
    ret

# Leaves what INT 60h found: times, flags within, flags after, and its saved IP less that of the next instruction.
.global real_software_interrupt
real_software_interrupt:
    vector 0x60, real_on_60
    sti
    int $0x60
1:  pushfw
    cli
    pop %ax
    mov %ax, VALUES + 8
    subw $(BLOB + 1b - legacy_blob), VALUES + 12
    ret
real_on_60:
    incl VALUES
    pushfw
    pop %ax
    mov %ax, VALUES + 4
    mov %sp, %bp
    mov (%bp), %ax
    mov %ax, VALUES + 12
    iretw

# Leaves how often IRQ 4 came by vector 24h, and the flags within.
.global real_interrupt
real_interrupt:
    vector 0x24, real_on_irq
    sti
    nop
    nop
    cli
    ret
real_on_irq:
    push %ax
    incl VALUES
    pushfw
    pop %ax
    mov %ax, VALUES + 4
    mov $0x20, %al
    out %al, $0x20
    pop %ax
    iretw

# Leaves how often IRQ 0 came by vector 20h, after HLT.
.global real_halt
real_halt:
    vector 0x20, real_on_irq
    sti
    hlt
    cli
    ret

# Leaves how often each of vectors 0, 1, 3, 4, 6 and 13 came, by vector.
.global real_exceptions
real_exceptions:
    vector 0, real_on_0
    vector 3, real_on_3
    vector 4, real_on_4
    vector 6, real_on_6
    vector 13, real_on_13
    mov $(BLOB + 1f - legacy_blob), %bx
    xor %ax, %ax
    xor %dx, %dx
    xor %cx, %cx
    div %cx
1:  mov $(BLOB + 2f - legacy_blob), %bx
    int3
    nop
2:  mov $(BLOB + 3f - legacy_blob), %bx
    mov $0x7F, %al
    add $1, %al
    into
    nop
3:  mov $(BLOB + 4f - legacy_blob), %bx
    ud2
4:  mov $(BLOB + 5f - legacy_blob), %bx
    mov $0xFFFF, %si
    mov (%si), %ax
5:  ret
real_on_0:
    incl VALUES
    jmp real_go_on
real_on_3:
    incl VALUES + 4 * 3
    jmp real_go_on
real_on_4:
    incl VALUES + 4 * 4
    jmp real_go_on
real_on_6:
    incl VALUES + 4 * 6
    jmp real_go_on
real_on_13:
    incl VALUES + 4 * 13
real_go_on:
    mov %sp, %bp
    mov %bx, (%bp)
    iretw

# Leaves how often #DB came and its saved IP less that of the instruction after IN.
.global real_step
real_step:
    vector 1, real_on_1
    mov $SCRATCH, %dx
    pushfw
    pop %ax
    or $0x100, %ax
    push %ax
    popfw
    in %dx, %al
1:  nop
    subw $(BLOB + 1b - legacy_blob), VALUES + 4
    ret
real_on_1:
    incl VALUES
    mov %sp, %bp
    mov (%bp), %ax
    mov %ax, VALUES + 4
    andw $~0x100, 4(%bp)
    iretw

# Leaves EBX of CPUID 0.
.global real_cpuid
real_cpuid:
    xor %eax, %eax
    xor %ecx, %ecx
    cpuid
    mov %ebx, VALUES
    ret

# Leaves the local APIC's version, read by a data segment of 4 GiB in real mode, and TPR after a write of 30h.
.global real_unreal
real_unreal:
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $0x10, %dx
    mov %dx, %ds
    and $~1, %al
    mov %eax, %cr0
    xor %dx, %dx
    mov %dx, %ds
    mov $APIC, %esi
    mov 0x30(%esi), %eax
    mov %eax, VALUES
    movl $0x30, 0x80(%esi)
    mov 0x80(%esi), %eax
    mov %eax, VALUES + 4
    ret

# Leaves how often NMI came, raised by COM1's line.
.global real_nmi
real_nmi:
    vector 2, real_on_2
    mov $0x3F9, %dx
    xor %al, %al
    out %al, %dx
    mov $2, %al
    out %al, %dx
    mov $200, %cx
1:  in $0x61, %al
    loop 1b
    xor %al, %al
    out %al, %dx
    ret
real_on_2:
    incl VALUES
    iretw

# With a data segment at FEE00000: leaves the version, and TPR after a write of 20h.
.global protected_16_segment
protected_16_segment:
    mov $0x30, %ax
    mov %ax, %ds
    mov 0x30, %eax
    mov %eax, %ss:VALUES
    movl $0x20, 0x80
    mov 0x80, %eax
    mov %eax, %ss:VALUES + 4
    mov $0x28, %ax
    mov %ax, %ds
    ret

# By prefixes 66h and 67h from 16-bit code: leaves the version read by a 32-bit address through SS, flat by then.
.global protected_16_prefixes
protected_16_prefixes:
    mov $0x10, %ax
    mov %ax, %es
    mov $APIC, %esi
    mov %es:0x30(%esi), %eax
    mov %eax, VALUES
    movl $0x50, %es:0x80(%esi)
    mov %es:0x80(%esi), %ebx
    mov %ebx, VALUES + 4
    mov $0x28, %ax
    mov %ax, %es
    ret

.code32
# Leaves what the forms of 32-bit code do to the APIC at EAX = VALUES[0]: version by A1 and 8B, TMICT after C7, after ADD, after
# XCHG and what XCHG got, after STOSD.
.global flat_32_forms
flat_32_forms:
    mov VALUES, %ebx
    mov APIC + 0x30, %eax
    mov %eax, VALUES + 4
    mov 0x30(%ebx), %ecx
    mov %ecx, VALUES + 8
    movl $0x10000000, 0x380(%ebx)
    mov 0x380(%ebx), %eax
    mov %eax, VALUES + 12
    mov $0x1234, %ecx
    add %ecx, 0x380(%ebx)
    mov 0x380(%ebx), %eax
    mov %eax, VALUES + 16
    mov $0x20000000, %eax
    xchg %eax, 0x380(%ebx)
    mov %eax, VALUES + 20
    lea 0x380(%ebx), %edi
    mov $0x30000000, %eax
    stosl
    mov 0x380(%ebx), %eax
    mov %eax, VALUES + 24
    movl $0, 0x380(%ebx)
    ret

# Leaves a byte by the scratch register, ESI, ECX of REP OUTSB and EDI, ECX of REP INSB.
.global flat_32_ports
flat_32_ports:
    mov $SCRATCH, %edx
    mov $0x5A, %al
    out %al, %dx
    xor %eax, %eax
    in %dx, %al
    mov %eax, VALUES
    mov $BUFFER, %esi
    mov $8, %ecx
    rep outsb
    mov %esi, VALUES + 4
    mov %ecx, VALUES + 8
    mov $BUFFER + 0x100, %edi
    mov $5, %ecx
    rep insb
    mov %edi, VALUES + 12
    mov %ecx, VALUES + 16
    ret

# With CR3 = VALUES[0] and CR4 = VALUES[1]: leaves the version at ALIAS, TPR after a write of 60h there.
.global paged_32
paged_32:
    call paged_on
    mov ALIAS + 0x30, %eax
    mov %eax, VALUES + 8
    movl $0x60, ALIAS + 0x80
    mov ALIAS + 0x80, %eax
    mov %eax, VALUES + 12
    jmp paged_off

# With CR3 = VALUES[0], CR4 = VALUES[1], IDT at VALUES[4] (limit VALUES[5]): leaves how often INT 40h and vector 41h came, and
# error code and CR2 of a read of the absent page behind ALIAS.
.global paged_32_events
paged_32_events:
    mov VALUES + 20, %eax
    mov %ax, VALUES + 24
    mov VALUES + 16, %eax
    mov %eax, VALUES + 26
    lidt VALUES + 24
    movl $0, VALUES + 8
    movl $0, VALUES + 12
    movl $0, VALUES + 16
    movl $0, VALUES + 20
    call paged_on
    int $0x40
    movl $0x44041, ALIAS + 0x300
    sti
    nop
    nop
    cli
    mov $(BLOB + 1f - legacy_blob), %ebx
    mov ALIAS + 0x1030, %eax
1:  jmp paged_off
.global flat_on_40
flat_on_40:
    incl VALUES + 8
    iret
.global flat_on_41
flat_on_41:
    incl VALUES + 12
    movl $0, ALIAS + 0xB0
    iret
.global flat_on_page_fault
flat_on_page_fault:
    pop %eax
    or $0x80000000, %eax
    mov %eax, VALUES + 16
    mov %cr2, %eax
    mov %eax, VALUES + 20
    mov %ebx, (%esp)
    iret

paged_on:
    mov VALUES + 4, %eax
    mov %eax, %cr4
    mov VALUES, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    jmp 1f
1:  ret
paged_off:
    mov %cr0, %eax
    and $0x7FFFFFFF, %eax
    mov %eax, %cr0
    jmp 1f
1:  xor %eax, %eax
    mov %eax, %cr3
    ret

.global legacy_blob_end
legacy_blob_end:
.code64
