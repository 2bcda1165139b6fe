# The ways in that start in 32-bit protected mode without paging: PVH (start information in EBX) and multiboot2
# (information in EBX, which GRUB vouches for with its magic number in EAX).

# XEN_ELFNOTE_PHYS32_ENTRY: where a PVH loader starts.
.section .note.Xen, "a", @note
.balign 4
    .long 4, 8, 18                      # bytes of name, bytes of value, type
    .asciz "Xen"
    .quad pvh_entry

# Multiboot2 2.0, 3.1: the header, on 8 bytes, in the first 32 KiB of the file. The tags with addresses make GRUB load
# the part at 1 MiB alone: what a BIOS would put at 0x7c00 is not for it.
.section .multiboot2, "a", @progbits
.balign 8
multiboot2_header:
    .long 0xe85250d6, 0, multiboot2_end - multiboot2_header
    .long -(0xe85250d6 + (multiboot2_end - multiboot2_header))
    .word 2, 0                          # addresses
    .long 24, multiboot2_header, loader_start, loader_end, bss_end
    .word 3, 0                          # entry point
    .long 12, multiboot2_entry
    .balign 8
    .word 4, 1                          # optional: EGA text will do
    .long 12, 2
    .balign 8
    .word 5, 1                          # optional: else pixels, as many as the screen likes
    .long 20, 0, 0, 32
    .balign 8
    .word 6, 1                          # optional: modules on page boundaries
    .long 8
    .word 0, 0
    .long 8
multiboot2_end:

.section .text.entry, "ax", @progbits
.code32
.globl pvh_entry
pvh_entry:
    movl ${loader_pvh}, %esi
    jmp from_protected_mode
multiboot2_entry:
    movl ${loader_multiboot2}, %esi
from_protected_mode:
    cli
    cld
    rdtsc
    movl %eax, start_tsc
    movl %edx, start_tsc + 4
    jmp enter_long_mode
