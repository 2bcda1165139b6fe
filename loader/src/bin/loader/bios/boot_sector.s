# The boot sector. The BIOS has put it at 0x7c00, in real mode, with the drive's number in DL.
# It reads the rest of the loader, both parts, right behind itself, then goes on in stage.s.

.section .boot, "awx", @progbits
.code16
.globl boot_sector
boot_sector:
    ljmp $0, $1f                        # some BIOSes jump to 07c0:0000
1:  cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $boot_sector, %sp              # grows down from the boot sector
    sti
    cld
    movb %dl, boot_drive
    rdtsc
    movl %eax, first_tsc
    movl %edx, first_tsc + 4

    movb $0x41, %ah                     # INT 13h AH=41h: does the drive know extended reads?
    movw $0x55aa, %bx
    movb boot_drive, %dl                # RDTSC took DL
    int $0x13
    movw $no_extensions, %si
    jc boot_failed
    cmpw $0xaa55, %bx
    jne boot_failed

read_next:                              # INT 13h AH=42h, {chunk} sectors at a time
    movw $disk_address_packet, %si
    movb boot_drive, %dl
    movb $0x42, %ah
    int $0x13
    movw $read_failed, %si
    jc boot_failed
    addw ${chunk}, packet_lba
    addw ${chunk} * 32, packet_segment  # a sector is 32 paragraphs
    movw packet_lba, %ax
    cmpw $loader_sectors, %ax
    jb read_next
    jmp stage

# SI: a message, zero-terminated. To the screen, and as a link frame (abi::link) to the debug console;
# then status 4, and the end.
boot_failed:
    movw %si, %di
1:  lodsb
    testb %al, %al
    jz 2f
    movb $0x0e, %ah                     # INT 10h AH=0Eh: teletype
    movw $7, %bx
    int $0x10
    jmp 1b
2:  movw %si, %cx
    subw %di, %cx
    decw %cx                            # bytes without the zero
    movw $0xe9, %dx
    movb $0xfe, %al                     # sync, channel 1 (log), length
    outb %al, %dx
    movb $1, %al
    outb %al, %dx
    movb %cl, %al
    outb %al, %dx
    xorb %al, %al
    outb %al, %dx
    movw %di, %si
    rep outsb
    movw $end_frame, %si
    movw $end_frame_len, %cx
    rep outsb
    movw $0x8900, %dx                   # Bochs: the letters end the machine
    movw $shutdown_word, %si
    movw $8, %cx
    rep outsb
3:  hlt
    jmp 3b

no_extensions: .asciz "Herald: this BIOS cannot read the boot disk by block number"
read_failed:   .asciz "Herald: the BIOS cannot read the loader from the boot disk"
end_frame:     .byte 0xfe, 3, 5, 0, 4, 0, 0, 0, 0
.set end_frame_len, . - end_frame
shutdown_word: .ascii "Shutdown"

boot_drive: .byte 0
.balign 4
disk_address_packet:
    .byte 16, 0
    .word {chunk}
    .word 0                             # offset
packet_segment:
    .word 0x7e0                         # segment: behind the boot sector
packet_lba:
    .quad 1

.balign 8
first_tsc: .quad 0

.org 510
.word 0xaa55
