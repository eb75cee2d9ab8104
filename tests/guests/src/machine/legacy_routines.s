# Routines of the blob; what each is given and leaves stands at VALUES. AT&T syntax.

.set VALUES, 0xB100
.set BUFFER, 0xC000

.code16
# Leaves CR0, CS and the address of a label.
.global real_where
real_where:
    mov %cr0, %eax
    mov %eax, VALUES
    xor %eax, %eax
    mov %cs, %ax
    mov %eax, VALUES + 4
    ret

.global legacy_blob_end
legacy_blob_end:
.code64
