# From 32-bit protected mode to Rust in long mode. ESI: a Loader number, EBX: information or 0.
#
# The tables map the first 4 GiB to themselves by 2 MiB pages (1 GiB pages are not everywhere). The GiB at IMAGE_OFFSET
# has a directory of its own, empty until Herald's image is placed (memory.rs):
#
#   PML4[0], PML4[511] -> PDPT;  PDPT[0..4] -> four PDs;  PDPT[510] -> image_directory

.section .text.entry, "ax", @progbits
.code32
.globl enter_long_mode
enter_long_mode:
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl

    movl $pdpt + 3, %eax                # present, writable
    movl %eax, pml4
    movl %eax, pml4 + 511 * 8
    movl $page_directories + 3, %eax
    movl %eax, pdpt
    movl $image_directory + 3, pdpt + 510 * 8
    addl $4096, %eax
    movl %eax, pdpt + 8
    addl $4096, %eax
    movl %eax, pdpt + 16
    addl $4096, %eax
    movl %eax, pdpt + 24
    movl $0x83, %eax                    # present, writable, 2 MiB
    movl $page_directories, %edi
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    jnc 1b                              # until 4 GiB

    # SDM vol. 3A 10.8.5: PAE, CR3, LME, PG.
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              # IA32_EFER
    rdmsr
    orl $0x100, %eax
    wrmsr
    lgdt gdt_pointer
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmp $0x18, $1f

.code64
1:  movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq $stack_end, %rsp
    movl %esi, %edi
    movl %ebx, %esi
    movq start_tsc, %rdx
    xorl %ebp, %ebp
    call loader_main
    ud2

.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x08: 32-bit code
    .quad 0x00cf93000000ffff            # 0x10: data
    .quad 0x00af9b000000ffff            # 0x18: 64-bit code
gdt_pointer:
    .word . - gdt - 1
    .long gdt

.section .data
.balign 8
.globl start_tsc
start_tsc: .quad 0                      # TSC at the loader's first instruction

.section .bss.tables, "aw", @nobits
.balign 4096
pml4:             .skip 4096
pdpt:             .skip 4096
page_directories: .skip 4 * 4096
.globl image_directory
image_directory:  .skip 4096
# Memory maps and hand-offs are some KiB each, and live on the stack.
stack:            .skip 128 * 1024
stack_end:
