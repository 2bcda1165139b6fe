//! Into the guest and back: the few lines that cannot be Rust.
//!
//! ```text
//!   enter_guest(registers, launched)
//!     push callee-saved, push registers ─► HOST_RSP = rsp ─► load guest registers ─► VMLAUNCH / VMRESUME
//!                                                                                     │          │ fails
//!   exit: guest RDI goes above the pointer on the stack ◄─── VM exit ─────────────────┘          ▼
//!     save guest registers, pop callee-saved, return 0                              pop, return 1
//! ```
//!
//! RSP, RIP, RFLAGS and the segments are in the VMCS. CR2 is not: Herald's own page faults change it, so it is
//! saved and restored around. FPU and vector state is never touched by Herald, which is built without it.

use core::arch::naked_asm;
use core::mem::offset_of;

/// The guest's registers that the VMCS does not hold.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub(crate) struct GuestRegisters {
    /// General registers by number: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 (RSP, in the VMCS), 5 RBP, 6 RSI, 7 RDI, 8-15.
    pub general: [u64; 16],
    /// CR2.
    pub cr2: u64,
}

const GENERAL: usize = offset_of!(GuestRegisters, general);

/// Byte offset of general register `number`.
const fn at(number: usize) -> usize {
    GENERAL + number * 8
}

/// Enters the guest of the current VMCS; returns 0 after a VM exit, 1 where the instruction failed.
///
/// # Safety
/// The current VMCS is this guest's; its host state leads to [`exit_point`] with the CR3, segments and tables of
/// this CPU; `registers` outlives the call. `launched` is 0 for a VMCS that is clear, else 1.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter_guest(registers: *mut GuestRegisters, launched: u64) -> u64 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov eax, 0x6c14", // HOST_RSP
        "vmwrite rax, rsp",
        "test rsi, rsi", // flags survive the moves below
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "jz 2f",
        "vmresume",
        "jmp 3f",
        "2:",
        "vmlaunch",
        "3:", // VMfail: no state was loaded
        "pop rdi",
        "mov eax, 1",
        "jmp {leave}",
        rax = const at(0), rcx = const at(1), rdx = const at(2), rbx = const at(3), rbp = const at(5),
        rsi = const at(6), rdi = const at(7), r8 = const at(8), r9 = const at(9), r10 = const at(10),
        r11 = const at(11), r12 = const at(12), r13 = const at(13), r14 = const at(14), r15 = const at(15),
        leave = sym leave,
    )
}

/// Where the processor goes at a VM exit, with RSP as [`enter_guest`] left it. HOST_RIP points here.
///
/// # Safety
/// Only the processor comes here.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn exit_point() {
    naked_asm!(
        "push rdi", // the guest's; no XCHG with the pointer below, which would lock the line
        "mov rdi, [rsp + 8]",
        "mov [rdi + {rax}], rax",
        "mov [rdi + {rcx}], rcx",
        "mov [rdi + {rdx}], rdx",
        "mov [rdi + {rbx}], rbx",
        "mov [rdi + {rbp}], rbp",
        "mov [rdi + {rsi}], rsi",
        "mov [rdi + {r8}], r8",
        "mov [rdi + {r9}], r9",
        "mov [rdi + {r10}], r10",
        "mov [rdi + {r11}], r11",
        "mov [rdi + {r12}], r12",
        "mov [rdi + {r13}], r13",
        "mov [rdi + {r14}], r14",
        "mov [rdi + {r15}], r15",
        "pop qword ptr [rdi + {rdi}]",
        "pop rax", // the pointer
        "xor eax, eax",
        "jmp {leave}",
        rax = const at(0), rcx = const at(1), rdx = const at(2), rbx = const at(3), rbp = const at(5),
        rsi = const at(6), rdi = const at(7), r8 = const at(8), r9 = const at(9), r10 = const at(10),
        r11 = const at(11), r12 = const at(12), r13 = const at(13), r14 = const at(14), r15 = const at(15),
        leave = sym leave,
    )
}

/// The common way out of both.
///
/// # Safety
/// Only those two come here, with RSP at the registers that [`enter_guest`] has saved.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave() {
    naked_asm!("pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp", "ret")
}
