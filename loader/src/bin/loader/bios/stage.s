# What only real mode can do: open A20, ask the BIOS for the memory map. Then protected mode, where the loader
# proper moves from behind this part to 1 MiB.

.section .stage, "awx", @progbits
.code16
stage:
    movw $0x2401, %ax                   # INT 15h AX=2401h: enable A20
    int $0x15
    inb $0x92, %al                      # and the fast gate, for BIOSes without it; bit 0 would reset
    testb $2, %al
    jnz 1f
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92
1:
    # INT 15h EAX=E820h: one 20- or 24-byte entry a call, EBX continues, 0 ends (ACPI 6.5, 15.1).
    xorl %ebx, %ebx
    xorl %ebp, %ebp                     # entries
    movw ${e820_entries}, %di
2:  movl $0xe820, %eax
    movl $24, %ecx
    movl $0x534d4150, %edx              # "SMAP"
    movl $1, 20(%di)                    # ACPI 3 attributes of a 20-byte answer: valid
    int $0x15
    jc 3f
    cmpl $0x534d4150, %eax
    jne 3f
    addw $24, %di
    incl %ebp
    testl %ebx, %ebx
    jz 3f
    cmpl ${e820_max}, %ebp
    jb 2b
3:  movl %ebp, {e820_count}

    cli
    lgdt flat_gdt_pointer
    movl %cr0, %eax
    orl $1, %eax                        # PE
    movl %eax, %cr0
    ljmp $0x08, $bios_protected

.code32
bios_protected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x7c00, %esi
    addl $loader_on_disk, %esi
    movl $loader_start, %edi
    movl $loader_dwords, %ecx
    rep movsl
    movl first_tsc, %eax
    movl first_tsc + 4, %edx
    movl %eax, start_tsc
    movl %edx, start_tsc + 4
    movl ${loader_bios}, %esi
    xorl %ebx, %ebx
    jmp enter_long_mode

.balign 8
flat_gdt:                               # until `enter_long_mode`, which is out of 16-bit reach, loads its own
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x08: 32-bit code
    .quad 0x00cf93000000ffff            # 0x10: data
flat_gdt_pointer:
    .word . - flat_gdt - 1
    .long flat_gdt
