//! The IDT and what comes through it (SDM vol. 3A 6.10, 6.12).
//!
//! ```text
//!   vector n ─► stub n: [error code, or 0] n ─► common: save registers ─► dispatch(&mut Frame) ─► IRETQ
//! ```

use super::descriptors::{CODE, StackIndex};
use super::{fault_address, interrupts, space, uaccess};
use addr::Hva;
use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;
use core::fmt;
use mm::Access;
use x86::dtables::{DescriptorTablePointer, lidt};

/// Registers at a trap, as the stubs push them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Frame {
    /// R15 down to RAX, in the order of the pushes.
    general: [u64; 15],
    vector: u64,
    error_code: u64,
    /// Where it happened.
    pub rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl Frame {
    /// RBP: the start of a back-trace.
    #[must_use]
    pub(crate) const fn frame_pointer(&self) -> u64 {
        self.general[8]
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 15] = [
            "r15", "r14", "r13", "r12", "r11", "r10", "r9 ", "r8 ", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx",
            "rax",
        ];
        write!(f, "rip {:016x}  rsp {:016x}  rfl {:016x}", self.rip, self.rsp, self.rflags)?;
        for (name, value) in NAMES.iter().zip(self.general).rev() {
            write!(f, "  {name} {value:016x}")?;
        }
        write!(f, "  cr2 {:016x}", fault_address())
    }
}

const PAGE_FAULT: u64 = 14;
/// Page-fault error code: the access was a write (SDM vol. 3A figure 4-12).
const WRITE: u64 = 1 << 1;

// A stub of 16 bytes for each vector; 8, 10-14, 17, 21, 29 and 30 come with an error code.
global_asm!(
    ".balign 16",
    // Rust refers to it from another codegen unit, perhaps.
    ".global trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && \
     vector != 17 && vector != 21 && vector != 29 && vector != 30",
    "push 0",
    ".endif",
    "push vector",
    "jmp {common}",
    ".set vector, vector + 1",
    ".endr",
    common = sym common,
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Saves the registers, calls [`dispatch`], restores them.
///
/// # Safety
/// Only the stubs come here, with the trap's frame, an error code and the vector on the stack.
#[unsafe(naked)]
unsafe extern "sysv64" fn common() {
    naked_asm!(
        "push rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "mov rbx, rsp",
        "and rsp, -16",
        "call {dispatch}",
        "mov rsp, rbx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rbp",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rbx",
        "pop rax",
        "add rsp, 16",
        "iretq",
        dispatch = sym dispatch,
    )
}

extern "sysv64" fn dispatch(frame: &mut Frame) {
    match frame.vector {
        PAGE_FAULT => page_fault(frame),
        vector @ 32.. => interrupts::handle(vector as u8),
        vector => crate::panic::trap(exception_name(vector), frame.error_code, frame),
    }
}

/// A fault on an hva is the host memory manager's to resolve; any other is a bug.
fn page_fault(frame: &mut Frame) {
    let address = fault_address();
    if let Some(hva) = Hva::try_new(address).filter(|&hva| hva < mm::USER_END) {
        let access = if frame.error_code & WRITE != 0 { Access::Write } else { Access::Read };
        match space::fault(hva, access) {
            Ok(()) => return,
            Err(error) => {
                if let Some(fixup) = uaccess::fixup(frame.rip) {
                    log::debug!("guest memory: {error}");
                    frame.rip = fixup;
                    return;
                }
            }
        }
    }
    crate::panic::trap("page fault", frame.error_code, frame);
}

const fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "NMI",
        3 => "breakpoint",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection fault",
        16 => "x87 error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD error",
        _ => "unexpected exception",
    }
}

struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: `init` is the only writer, called once before any trap.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

/// Loads the IDT, which all CPUs share.
pub(crate) fn load() {
    // SAFETY: `init` has filled it, and nobody changes it any more.
    unsafe { lidt(&DescriptorTablePointer::new(&*IDT.0.get())) };
}

/// Fills the IDT. Called once.
pub(crate) fn init() {
    // SAFETY: called once, with interrupts off; every gate leads to a stub.
    unsafe {
        let idt = &mut *IDT.0.get();
        for (vector, gate) in idt.iter_mut().enumerate() {
            let stack = match vector {
                8 => StackIndex::DoubleFault,
                2 => StackIndex::Nmi,
                18 => StackIndex::MachineCheck,
                _ => StackIndex::Current,
            };
            *gate = interrupt_gate(&raw const trap_stubs as u64 + vector as u64 * 16, stack);
        }
    }
    load();
}

/// A present 64-bit interrupt gate (SDM vol. 3A figure 6-8).
const fn interrupt_gate(handler: u64, stack: StackIndex) -> [u64; 2] {
    let low = handler & 0xffff
        | (CODE.bits() as u64) << 16
        | (stack as u64) << 32
        | 0x8e << 40
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}
