//! Ways in which an instruction can name a device register: with and without SIB and displacement, with REX
//! bits, by absolute offset, through a segment with a base, as a string element; and read-modify-write forms.
//!
//! All get the address of a 32-bit register.

use core::arch::asm;
use guest::cpu;

/// A way to read; returns the value read.
type Read = (&'static str, fn(usize) -> u32);
/// A way to write a value; returns the value that the register should then hold.
type Write = (&'static str, fn(usize, u32) -> u32);
/// A way to change the register, and what that does to its value.
type Change = (&'static str, fn(usize), fn(u32) -> u32);

/// `IA32_FS_BASE`.
const FS_BASE: u32 = 0xc000_0100;
/// Where the absolute forms go: the local APIC timer's initial count.
const ABSOLUTE: u64 = 0xfee0_0380;

/// Runs instructions that load `{value}` from the register at `{at}`. RCX, R8-R10, R12, R13 and R15 are free.
macro_rules! load {
    ($at:expr, $($code:literal),+) => {{
        let value: u64;
        // SAFETY: the register's page is identity-mapped and holds registers only.
        unsafe {
            asm!($($code),+, at = in(reg) $at, value = out(reg) value, out("rcx") _, out("r8") _, out("r9") _,
                 out("r12") _, out("r13") _, options(nostack));
        }
        value as u32
    }};
}

/// Runs instructions that store `{value}` to the register at `{at}`, and returns the value.
macro_rules! store {
    ($at:expr, $value:expr, $($code:literal),+) => {{
        // SAFETY: as in `load`.
        unsafe {
            asm!($($code),+, at = in(reg) $at, value = inout(reg) $value => _, out("rcx") _, out("r10") _,
                 out("r12") _, out("r13") _, out("r15") _, options(nostack));
        }
        $value
    }};
}

/// Runs instructions that change the register at `{at}`.
macro_rules! change {
    ($at:expr, $($code:literal),+) => {
        // SAFETY: as in `load`.
        unsafe { asm!($($code),+, at = in(reg) $at, out("rcx") _, options(nostack)) }
    };
}

pub(crate) const READS: [Read; 12] = [
    ("mov r32, [base]", |at| load!(at, "mov {value:e}, [{at}]")),
    ("mov r32, [base + disp8]", |at| load!(at - 0x40, "mov {value:e}, [{at} + 0x40]")),
    ("mov r32, [base + disp32]", |at| load!(at + 0x1000, "mov {value:e}, [{at} - 0x1000]")),
    ("mov r32, [base + index * 4]", |at| {
        load!(at - 0x100, "mov ecx, 0x40", "mov {value:e}, [{at} + rcx * 4]")
    }),
    ("mov r9d, [r12 + r13 * 8 + disp]", |at| {
        load!(
            at - 0x88,
            "mov r12, {at}",
            "mov r13d, 0x10",
            "mov r9d, [r12 + r13 * 8 + 8]",
            "mov {value:e}, r9d"
        )
    }),
    ("mov r8d, [r13]", |at| load!(at, "mov r13, {at}", "mov r8d, [r13]", "mov {value:e}, r8d")),
    ("mov r32, [r12]", |at| load!(at, "mov r12, {at}", "mov {value:e}, [r12]")),
    ("mov r32, [base32]", |at| load!(at, "mov {value:e}, [{at:e}]")),
    ("movsxd r64, [base]", |at| load!(at, "movsxd {value}, dword ptr [{at}]")),
    ("mov eax, moffs64", |_| {
        let value;
        // SAFETY: the local APIC's page is identity-mapped.
        unsafe { asm!("movabs eax, [{at}]", at = const ABSOLUTE, out("eax") value, options(nostack)) };
        value
    }),
    ("mov r32, fs:[disp32]", |at| {
        // SAFETY: nothing in this program uses FS.
        unsafe { cpu::wrmsr(FS_BASE, at as u64 - 0x100) };
        load!(at, "/* {at} */", "mov {value:e}, fs:[0x100]")
    }),
    ("lodsd", |at| {
        let value;
        // SAFETY: reads one register; the direction flag is clear.
        unsafe { asm!("lodsd", inout("rsi") at => _, out("eax") value, options(nostack)) };
        value
    }),
];

pub(crate) const WRITES: [Write; 9] = [
    ("mov [base], r32", |at, value| store!(at, value, "mov [{at}], {value:e}")),
    ("mov [base + disp8], r32", |at, value| store!(at - 0x70, value, "mov [{at} + 0x70], {value:e}")),
    ("mov [base + disp32], r32", |at, value| store!(at + 0x2000, value, "mov [{at} - 0x2000], {value:e}")),
    ("mov [base + index * 2], r10d", |at, value| {
        store!(at - 0x20, value, "mov r10d, {value:e}", "mov ecx, 0x10", "mov [{at} + rcx * 2], r10d")
    }),
    ("mov [r13 + r12], r15d", |at, value| {
        store!(at - 8, value, "mov r15d, {value:e}", "mov r13, {at}", "mov r12d, 8", "mov [r13 + r12], r15d")
    }),
    ("mov [base], imm32", |at, _| {
        store!(at, 0, "mov dword ptr [{at}], 0x7654321f", "/* {value:e} */");
        0x7654_321f
    }),
    ("mov moffs64, eax", |_, value| {
        // SAFETY: the local APIC's page is identity-mapped.
        unsafe { asm!("movabs [{at}], eax", at = const ABSOLUTE, in("eax") value, options(nostack)) };
        value
    }),
    ("xchg [base], r32", |at, value| store!(at, value, "xchg [{at}], {value:e}")),
    ("stosd", |at, value| {
        // SAFETY: writes one register; the direction flag is clear.
        unsafe { asm!("stosd", inout("rdi") at => _, in("eax") value, options(nostack)) };
        value
    }),
];

pub(crate) const CHANGES: [Change; 4] = [
    ("or [base], imm", |at| change!(at, "or dword ptr [{at}], 0xf0"), |value| value | 0xf0),
    ("and [base], imm", |at| change!(at, "and dword ptr [{at}], 0xffff00"), |value| value & 0x00ff_ff00),
    ("add [base], r32", |at| change!(at, "mov ecx, 3", "add [{at}], ecx"), |value| value.wrapping_add(3)),
    (
        "xor [base + disp], r32",
        |at| change!(at, "mov ecx, 0x55", "xor [{at} + 0], ecx"),
        |value| value ^ 0x55,
    ),
];
