//! Another CPU in real mode for longer than its start takes: exceptions, messages and NMIs by its vector table, HLT, ports, CPUID, protected
//! mode and back, a segment that reaches all memory in real mode ("big real mode"), where its local APIC is, and long mode, entered with a
//! selector that keeps it in the interpreter.
//!
//! ```text
//!   real ─► #DE, ports, CPUID ─► protected, 32 bits ─► protected, 16 bits ─► real again, FS large ─► long ─► real ─► message ─► two NMIs ─► halts
//! ```
//!
//! With `unknown=1` it executes FNINIT at the end, which no interpreter of Herald's knows.

use crate::Guest;
use crate::cpus;
use crate::report::{Failure, same};
use core::arch::{global_asm, x86_64::__cpuid};
use guest::apic::LocalApic;

/// Where the code is copied: the page that a start-up message names.
const PAGE: u32 = 9;
/// The CPU.
const OTHER: u32 = 1;
/// The vector of the message.
const VECTOR: u32 = 0x70;
/// ICR: level "assert", and delivery as an NMI.
const NMI: u32 = 0x4400;
/// Where it says how far it is, and what it has seen, in its page.
const STEP: u32 = 0xe00;
const DIVISIONS: u32 = 0xe02;
const MESSAGES: u32 = 0xe04;
const NMIS: u32 = 0xe06;
const PORT: u32 = 0xe08;
const SIGNATURE: u32 = 0xe0c;
const FLAT: u32 = 0xe10;
const APIC_ID: u32 = 0xe14;
const UNKNOWN: u32 = 0xe18;
const EFER: u32 = 0xe1c;

global_asm!(
    ".pushsection .text",
    ".balign 16",
    ".code16",
    "real_mode:",
    "cli",
    "cld",
    "mov %cs, %ax",
    "mov %ax, %ds",
    "mov %ax, %ss",
    "mov $0xd00, %sp",
    "xor %ax, %ax",
    "mov %ax, %es",
    "movw $(real_divide - real_mode), %es:0",
    "mov %cs, %es:2",
    "movw $(real_nmi - real_mode), %es:8",
    "mov %cs, %es:10",
    "movw $(real_message - real_mode), %es:0x1c0",
    "mov %cs, %es:0x1c2",
    "mov $1, %ax",
    "xor %dx, %dx",
    "xor %cx, %cx",
    "div %cx", // two bytes
    "mov $0xe0, %dx",
    "mov $0xa55a, %ax",
    "out %ax, %dx",
    "xor %ax, %ax",
    "in %dx, %ax",
    "mov %ax, {port}",
    "mov $0x40000000, %eax",
    "cpuid",
    "mov %ebx, {signature}",
    "lgdtl real_gdt - real_mode",
    "mov %cr0, %eax",
    "or $1, %al",
    "mov %eax, %cr0",
    "ljmpl $8, $(real_32 - real_mode + 0x9000)",
    ".balign 8",
    "real_table: .quad 0",
    ".quad 0x00cf9a000000ffff, 0x00cf92000000ffff", // all memory: code of 32 bits, data
    ".quad 0x00009a009000ffff, 0x000092009000ffff", // this page and more: code of 16 bits, data
    "real_gdt: .word 39",
    ".long real_table - real_mode + 0x9000",
    ".code32",
    "real_32:",
    "mov $16, %eax",
    "mov %eax, %ds",
    "mov %eax, %fs",
    "movl $0x12345678, 0x9000 + {flat}",
    "ljmp $24, $(real_16 - real_mode)",
    ".code16",
    "real_16:",
    "mov $32, %ax",
    "mov %ax, %ds",
    "mov %ax, %ss",
    "mov %cr0, %eax",
    "and $0xfe, %al",
    "mov %eax, %cr0",
    "ljmp $0x900, $(real_again - real_mode)",
    "real_again:",
    "mov %cs, %ax",
    "mov %ax, %ds",
    "mov %ax, %ss",
    "mov $0xfee000f0, %ebx",
    "movl $0x1ff, %fs:(%ebx)", // the local APIC is on
    "mov $0xfee00020, %ebx",
    "mov %fs:(%ebx), %eax",
    "mov %eax, {apic_id}",
    "mov $0x13, %ax", // the level of a user, where no entry into long mode allows it
    "mov %ax, %es",
    "mov $0x20, %eax", // PAE
    "mov %eax, %cr4",
    "mov $boot_pml4, %eax",
    "mov %eax, %cr3",
    "mov $0xc0000080, %ecx",
    "xor %edx, %edx",
    "mov $0x100, %eax", // LME
    "wrmsr",
    "mov %cr0, %eax",
    "or $0x80000001, %eax",
    "mov %eax, %cr0",
    "rdmsr", // in long mode, by the guest's tables
    "mov %eax, {efer}",
    "invlpg (0)",
    "mov %cr3, %eax",
    "mov %eax, %cr3",
    "mov %cr0, %eax",
    "and $0x7ffffffe, %eax",
    "mov %eax, %cr0",
    "xor %eax, %eax",
    "wrmsr",
    "mov %eax, %cr4",
    "mov %ax, %es",
    "movw $1, {step}",
    "2: sti",
    "hlt",
    "cli",
    "cmpw $0, {messages}",
    "je 2b",
    "movw $2, {step}",
    "3: hlt",
    "cmpw $2, {nmis}",
    "jb 3b",
    "cmpw $0, {unknown}",
    "je 4f",
    "fninit",
    "4: movw $3, {step}",
    "5: hlt",
    "jmp 5b",
    "real_divide:",
    "push %bp",
    "mov %sp, %bp",
    "addw $2, 2(%bp)",
    "pop %bp",
    "incw %cs:{divisions}",
    "iret",
    "real_nmi:",
    "incw %cs:{nmis}",
    "iret",
    "real_message:",
    "incw %cs:{messages}",
    "push %ebx",
    "mov $0xfee000b0, %ebx",
    "movl $0, %fs:(%ebx)",
    "pop %ebx",
    "iret",
    "real_mode_end:",
    ".code64",
    ".popsection",
    step = const STEP,
    divisions = const DIVISIONS,
    messages = const MESSAGES,
    nmis = const NMIS,
    port = const PORT,
    signature = const SIGNATURE,
    flat = const FLAT,
    apic_id = const APIC_ID,
    unknown = const UNKNOWN,
    efer = const EFER,
    options(att_syntax)
);

unsafe extern "C" {
    static real_mode: u8;
    static real_mode_end: u8;
}

/// Reads two bytes of its page.
fn word(at: u32) -> u64 {
    let place = core::ptr::with_exposed_provenance::<u16>(((PAGE << 12) + at) as usize);
    // SAFETY: memory below 640 KiB, of which nobody but the two CPUs of this test uses this page; identity-mapped.
    unsafe { place.read_volatile() }.into()
}

fn long(at: u32) -> u64 {
    word(at) | word(at + 2) << 16
}

fn prepare(unknown: u16) {
    let from = &raw const real_mode;
    let len = (&raw const real_mode_end).addr() - from.addr();
    let page = core::ptr::with_exposed_provenance_mut::<u8>((PAGE << 12) as usize);
    // SAFETY: as in `word`.
    unsafe {
        page.write_bytes(0, 4096);
        page.copy_from_nonoverlapping(from, len);
        page.add(UNKNOWN as usize).cast::<u16>().write_volatile(unknown);
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    LocalApic::current().enable(0x1_0000);
    prepare(guest.argument("unknown").unwrap_or(0) as u16);
    cpus::start_at(OTHER, PAGE);
    cpus::wait("the other CPU to fall asleep", || word(STEP) == 1)?;
    cpus::send(OTHER, VECTOR);
    cpus::wait("it to be woken by a message", || word(STEP) == 2)?;
    for count in 1..=2 {
        cpus::send(OTHER, NMI);
        cpus::wait("it to be woken by an NMI", || word(NMIS) == count)?;
    }
    cpus::wait("its end", || word(STEP) == 3)?;
    for (what, expected, found) in [
        ("divisions by zero", 1, word(DIVISIONS)),
        ("messages", 1, word(MESSAGES)),
        ("NMIs", 2, word(NMIS)),
        ("port", 0xa55a, word(PORT)),
        ("CPUID", __cpuid(0x4000_0000).ebx.into(), long(SIGNATURE)),
        ("protected mode's store", 0x1234_5678, long(FLAT)),
        ("EFER in long mode", 0x500, long(EFER)),
        ("APIC id", u64::from(OTHER) << 24, long(APIC_ID)),
    ] {
        same(what, 0, expected, found)?;
    }
    Ok(())
}
