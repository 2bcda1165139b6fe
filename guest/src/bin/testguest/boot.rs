//! From the loader to Rust, by either of two protocols at one entry point, so that one file serves both:
//!
//! ```text
//!   multiboot-1 (0.6.96, 3.2): 32-bit protected mode, no paging; EAX magic, EBX block  ─► long mode ─┐
//!   Linux' 64-bit entry:       long mode, paging one to one; RSI boot_params           ──────────────┴─► own tables, GDT ─► main
//! ```
//!
//! The first two instructions are the same bytes in both modes. Long mode needs PAE tables, EFER.LME, then CR0.PG (SDM 3, 9.8.5), and a
//! 64-bit code segment.

use core::arch::global_asm;
use guest::bootinfo::{LINUX_MAGIC, MULTIBOOT_MAGIC};

/// The header's flags: modules on page boundaries, memory information wanted.
const HEADER_FLAGS: u32 = 0b11;
const HEADER_MAGIC: u32 = 0x1bad_b002;

global_asm!(
    ".pushsection .multiboot, \"a\"",
    ".balign 4",
    ".long {magic}, {flags}, {checksum}",
    ".popsection",

    ".pushsection .bss",
    "boot_stack: .skip 64 * 1024",
    "boot_stack_top:",
    ".popsection",
    // 2048 entries of 2 MiB: present, writable, large.
    ".pushsection .data",
    ".balign 4096",
    ".global boot_pml4",
    "boot_pml4: .quad boot_pointers + 3",
    ".balign 4096",
    ".global boot_pointers",
    "boot_pointers: .quad boot_directories + 0x0003, boot_directories + 0x1003",
    ".quad boot_directories + 0x2003, boot_directories + 0x3003",
    ".balign 4096",
    "boot_directories:",
    ".set boot_page, 0x83",
    ".rept 2048",
    ".quad boot_page",
    ".set boot_page, boot_page + 0x200000",
    ".endr",
    ".popsection",
    ".pushsection .rodata",
    ".balign 8",
    // Null, code (long, present, readable), data (present, writable).
    ".global boot_gdt",
    "boot_gdt: .quad 0, 0x00209a0000000000, 0x0000920000000000",
    // In 32-bit mode the lower half of the address is read.
    "boot_gdt_pointer: .word . - boot_gdt - 1",
    ".quad boot_gdt",
    ".popsection",

    ".pushsection .text",
    ".code64",
    ".global _start",
    "_start:",
    "cmp eax, {loader}",
    "je boot_by_multiboot",
    "cli",
    "cld",
    "mov edi, {linux}",
    // ESI: boot_params, which are below 4 GiB.
    "mov eax, offset boot_pml4",
    "mov cr3, rax",
    // CR4: PAE, and SSE for the FPU test (OSFXSR, OSXMMEXCPT).
    "mov rax, cr4",
    "or eax, 0x620",
    "mov cr4, rax",
    // CR0: paging; MP set, EM and TS clear.
    "mov rax, cr0",
    "and eax, 0xfffffff3",
    "or eax, 0x80000002",
    "mov cr0, rax",
    "lgdt [boot_gdt_pointer]",
    "mov esp, offset boot_stack_top",
    "push 8",
    "mov eax, offset boot_long_mode",
    "push rax",
    "retfq",

    ".code32",
    "boot_by_multiboot:",
    "cli",
    "cld",
    "mov esp, offset boot_stack_top",
    "mov edi, eax",
    "mov esi, ebx",
    "mov eax, offset boot_pml4",
    "mov cr3, eax",
    // As above.
    "mov eax, cr4",
    "or eax, 0x620",
    "mov cr4, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "and eax, 0xfffffff3",
    "or eax, 0x80000002",
    "mov cr0, eax",
    "lgdt [boot_gdt_pointer]",
    "push 8",
    "mov eax, offset boot_long_mode",
    "push eax",
    "retf",

    ".code64",
    "boot_long_mode:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov esp, offset boot_stack_top",
    "xor ebp, ebp",
    "call {main}",
    "ud2",
    ".popsection",
    magic = const HEADER_MAGIC,
    flags = const HEADER_FLAGS,
    checksum = const HEADER_MAGIC.wrapping_add(HEADER_FLAGS).wrapping_neg(),
    loader = const MULTIBOOT_MAGIC,
    linux = const LINUX_MAGIC,
    main = sym crate::main,
);
