//! Loads and stores that may fault, on all CPUs at a time: a fault at one of the two instructions ends it, and says so.

use core::arch::global_asm;
use guest::cpu;
use guest::trap::Frame;

global_asm!(
    ".pushsection .text",
    // RDI: address, RSI: value. RAX: what was loaded, RDX: 0, or the fault's error code and a bit above it.
    "rewrite_load:",
    "xor edx, edx",
    "rewrite_load_at: mov rax, [rdi]",
    "ret",
    "rewrite_store:",
    "xor edx, edx",
    "rewrite_store_at: mov [rdi], rsi",
    "rewrite_end: ret",
    ".popsection",
);

unsafe extern "sysv64" {
    fn rewrite_load(linear: u64) -> Outcome;
    fn rewrite_store(linear: u64, value: u64) -> Outcome;
}
unsafe extern "C" {
    static rewrite_load_at: u8;
    static rewrite_store_at: u8;
    static rewrite_end: u8;
}

const PAGE_FAULT: u64 = 14;
/// RDX and RDI among a frame's registers.
const RDX: usize = 11;
const RDI: usize = 9;
const FAULTED: u64 = 1 << 32;

#[derive(Clone, Copy)]
#[repr(C)]
struct Outcome {
    value: u64,
    fault: u64,
}

/// The error code of a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault(pub(super) u64);

impl Outcome {
    fn result(self) -> Result<u64, Fault> {
        if self.fault == 0 { Ok(self.value) } else { Err(Fault(self.fault & !FAULTED)) }
    }
}

/// The exception hook.
pub(super) fn fault(frame: &mut Frame) -> bool {
    let places = [(&raw const rewrite_load_at).addr() as u64, (&raw const rewrite_store_at).addr() as u64];
    let is_ours =
        frame.vector == PAGE_FAULT && places.contains(&frame.rip) && cpu::cr2() == frame.registers[RDI];
    if is_ours {
        frame.registers[RDX] = FAULTED | frame.error;
        frame.rip = (&raw const rewrite_end).addr() as u64;
    }
    is_ours
}

/// Loads a word.
pub(super) fn load(linear: u64) -> Result<u64, Fault> {
    // SAFETY: no Rust object lies there; a fault is brought back by `fault`.
    unsafe { rewrite_load(linear) }.result()
}

/// Stores a word, where the tables of this test lead to nothing else but its own pages.
pub(super) fn store(linear: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: as above, and what lies there is read by physical addresses, volatile.
    unsafe { rewrite_store(linear, value) }.result().map(|_| ())
}
