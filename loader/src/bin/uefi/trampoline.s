# Out of long mode, and back with the page tables and control registers that Herald starts with (SDM vol. 3A, 10.8.5). It
# runs at the start of some page below 4 GiB, whose end is its stack. RDI: hand-off, RSI: entry point, RDX: tables, all
# but the entry point below 4 GiB. Interrupts are off.

.text
.globl trampoline
trampoline:
    leaq trampoline(%rip), %rbx
    leaq 4096(%rbx), %rsp
    pushq %rsi                          # 32-bit code keeps no upper halves
    leaq gdt(%rip), %rax
    pushq %rax
    subq $8, %rsp
    movw $gdt_end - gdt - 1, 6(%rsp)
    lgdt 6(%rsp)
    addq $16, %rsp

    # PCIDE must be off before paging is. LA57 stays until then.
    movq %cr4, %rax
    andl $0x1020, %eax                  # PAE, LA57
    movq %rax, %cr4
    pushq $0x08
    leaq 1f(%rip), %rax
    pushq %rax
    lretq

.code32
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl %cr0, %eax
    andl $0x7fffffff, %eax              # PG
    movl %eax, %cr0
    movl $0x20, %eax                    # PAE
    movl %eax, %cr4
    movl %edx, %cr3
    movl $0xc0000080, %ecx              # IA32_EFER
    xorl %edx, %edx
    movl $0x100, %eax                   # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    pushl $0x18
    leal 2f - trampoline(%ebx), %eax
    pushl %eax
    lretl

.code64
2:  movl %esp, %esp
    movl %edi, %edi
    popq %rax
    xorl %ebp, %ebp
    jmpq *%rax

.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x08: 32-bit code
    .quad 0x00cf93000000ffff            # 0x10: data
    .quad 0x00af9b000000ffff            # 0x18: 64-bit code
gdt_end:
.globl trampoline_end
trampoline_end:
