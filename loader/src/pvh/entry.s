# The PVH entry: 32-bit protected mode, paging off, flat segments, EBX = physical address of
# hvm_start_info. The note tells the loader where it is (Xen's XEN_ELFNOTE_PHYS32_ENTRY).

.section .note.Xen, "a", @note
.balign 4
    .long 4, 8, 18                      # bytes of name, bytes of value, type
    .asciz "Xen"
    .quad pvh_entry

.section .text.entry, "ax", @progbits
.code32
.globl pvh_entry
pvh_entry:
    cli
    cld
    rdtsc
    movl %eax, start_tsc
    movl %edx, start_tsc + 4
    movl ${loader_pvh}, %esi
    jmp enter_long_mode
