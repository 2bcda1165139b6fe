//! One access in long mode, by the supervisor or by CPL 3, and what came of it.
//!
//! ```text
//!   attempt ─► IRETQ, to either level ─► read, write, or the target itself ─► UD2: it was allowed ─┐
//!                                                    └─► #PF: it was not ──────────────────────────┴─► seen ─► attempt goes on
//! ```

use super::expect::{Attempt, Kind};
use super::segments::{CODE, DATA, USER_CODE, USER_DATA};
use super::tables::Tables;
use super::{Case, Outcome};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::cpu;
use guest::trap::{self, Frame};

/// RFLAGS: the bit that is always set, and AC.
pub(super) const FLAGS: u64 = 2;
pub(super) const ALIGNMENT_CHECK: u64 = 1 << 18;
/// #UD, #GP, #PF.
const INVALID_OPCODE: u64 = 6;
const PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
/// RAX among a frame's registers.
const RAX: usize = 14;
/// UD2, as it lies in memory.
pub(super) const UD2: u64 = 0x0b0f;

global_asm!(
    ".pushsection .text",
    // RDI: address, RSI: value to write, RDX: flags, RCX: where to, R8: CS, R9: SS.
    "conformance_go:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "mov [rip + {stack}], rsp",
    "mov rax, rsp",
    "push r9", "push rax", "push rdx", "push r8", "push rcx",
    "mov rax, rsi",
    "iretq",
    "conformance_back:",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",
    ".balign 16",
    "conformance_code:",
    "mov rax, [rdi]", "ud2",
    ".balign 16",
    "mov [rdi], rax", "ud2",
    ".popsection",
    stack = sym STACK,
);

unsafe extern "sysv64" {
    fn conformance_go(address: u64, value: u64, flags: u64, to: u64, code: u64, data: u64);
}
unsafe extern "C" {
    static conformance_back: u8;
    static conformance_code: Code;
}

/// Code that reads, and, after so many bytes, code that writes.
pub(super) type Code = [u64; 4];
const CODE_BYTES: u64 = 16;
/// RSP of the attempt that is under way; 0: none is.
static STACK: AtomicU64 = AtomicU64::new(0);
/// Vector, error code, CR2, RIP and RAX of its end.
static END: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// It went through; a load has got this.
    Done(u64),
    /// A page fault at this linear address.
    Fault { code: u64, cr2: u64 },
    /// #GP before the attempt, by what has loaded CR3.
    Refused,
    /// Another exception, or #UD elsewhere than it should be.
    Other { vector: u64, rip: u64 },
}

impl Seen {
    /// By vector, error code, CR2, RIP and RAX of the exception that has ended an attempt, which began at `to`, if it began.
    pub(super) fn of([vector, error, cr2, rip, rax]: [u64; 5], to: u64) -> Self {
        match vector {
            INVALID_OPCODE if rip >= to && rip - to <= 3 => Self::Done(rax),
            PAGE_FAULT => Self::Fault { code: error, cr2 },
            PROTECTION if error == 0 && rip != to => Self::Refused,
            _ => Self::Other { vector, rip },
        }
    }
}

/// Where an attempt begins, with the supervisor's code and the user's here.
pub(super) const fn entry_of(attempt: Attempt, linear: u64, [supervisor, user]: [u64; 2]) -> u64 {
    let code = if attempt.user { user } else { supervisor };
    match attempt.kind {
        Kind::Read => code,
        Kind::Write => code + CODE_BYTES,
        Kind::Fetch => linear,
    }
}

fn end(frame: &mut Frame) -> bool {
    let stack = STACK.swap(0, Ordering::SeqCst);
    if stack == 0 {
        return false;
    }
    let values = [frame.vector, frame.error, cpu::cr2(), frame.rip, frame.registers[RAX]];
    END.iter().zip(values).for_each(|(place, value)| place.store(value, Ordering::SeqCst));
    let back = (&raw const conformance_back).addr() as u64;
    (frame.rip, frame.cs, frame.flags, frame.rsp, frame.ss) = (back, CODE, FLAGS, stack, DATA);
    true
}

/// Has the user's code where CPL 3 finds it, and exceptions come here.
pub(super) fn prepare(tables: &Tables) {
    // SAFETY: labels of the code above, 32 bytes.
    tables.set_user_code(unsafe { &conformance_code });
    trap::set_exception_hook(end);
}

/// Does a case.
pub(super) fn perform(tables: &Tables, case: &Case) -> Outcome {
    let linear = tables.linear();
    if case.lays {
        tables.lay(case.entries());
        cpu::invalidate(linear);
    }
    tables.set_target(case.value);
    let attempt = case.attempt;
    let supervisor_code = (&raw const conformance_code).addr() as u64;
    let to = entry_of(attempt, linear, [supervisor_code, tables.user_code()]);
    let flags = if attempt.aligned { FLAGS | ALIGNMENT_CHECK } else { FLAGS };
    let (cs, ss) = if attempt.user { (USER_CODE, USER_DATA) } else { (CODE, DATA) };
    // SAFETY: whatever it comes to, an exception ends it, and `end` brings it back. Only the target may be written.
    unsafe { conformance_go(linear, case.next, flags, to, cs, ss) };
    let seen = Seen::of([0, 1, 2, 3, 4].map(|place| END[place].load(Ordering::SeqCst)), to);
    Outcome { seen, target: tables.target(), entries: tables.entries(case.entries().len()) }
}
