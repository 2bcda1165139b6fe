//! One access, by the supervisor or by CPL 3, and what came of it.
//!
//! ```text
//!   attempt ─► IRETQ, to either level ─► read, write, or the target itself ─► UD2: it was allowed ─┐
//!                                                    └─► #PF: it was not ──────────────────────────┴─► seen ─► attempt goes on
//! ```

use super::expect::{Attempt, Kind};
use crate::Guest;
use crate::report::Failure;
use addr::Gpa;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use guest::cpu;
use guest::memory::Pages;
use guest::trap::{self, Frame};

/// Selectors: those of the boot code, and behind them a user's and the task's.
const CODE: u64 = 8;
const DATA: u64 = 16;
const USER_DATA: u64 = 24 | 3;
const USER_CODE: u64 = 32 | 3;
const TASK: u16 = 40;
/// Code and data of the supervisor and of the user (SDM vol. 3A 3.4.5).
const SEGMENTS: [u64; 5] =
    [0, 0x0020_9a00_0000_0000, 0x0000_9200_0000_0000, 0x0000_f200_0000_0000, 0x0020_fa00_0000_0000];
/// A 64-bit TSS that is free, its limit, and where it lies in its page.
const FREE_TASK: u64 = 0x89 << 40;
const TASK_LIMIT: u64 = 103;
const TASK_OFFSET: u64 = 1024;
/// RFLAGS: the bit that is always set, and AC.
const FLAGS: u64 = 2;
const ALIGNMENT_CHECK: u64 = 1 << 18;
/// #UD, #PF.
const INVALID_OPCODE: u64 = 6;
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
    static conformance_code: [u64; 4];
}

/// Bytes between the code that reads and the code that writes.
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
    /// Another exception, or #UD elsewhere than it should be.
    Other { vector: u64, rip: u64 },
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

/// The segments and the task that lead to CPL 3 and back, and the code that a user runs.
pub(super) struct Probe {
    /// Where CPL 3 finds its code.
    user_code: u64,
}

impl Probe {
    /// With the user's code mapped at a linear address; this page holds it.
    pub(super) fn new(
        guest: &mut Guest,
        (pages, page): (&Pages, u64),
        user_code: u64,
    ) -> Result<Self, Failure> {
        let (tables, stack) = (guest.memory.take(1)?, guest.memory.take(4)?);
        // SAFETY: labels of the code above, 32 bytes.
        let code = unsafe { conformance_code };
        pages.fill(page, |word| code.get(word as usize).copied().unwrap_or(UD2));
        load_segments(&tables, stack.page(3).add(addr::PAGE_SIZE));
        trap::set_exception_hook(end);
        Ok(Self { user_code })
    }

    /// Makes an access, which writes this value if it writes.
    pub(super) fn attempt(&self, linear: u64, attempt: Attempt, value: u64) -> Seen {
        let supervisor_code = (&raw const conformance_code).addr() as u64;
        let code = if attempt.user { self.user_code } else { supervisor_code };
        let to = match attempt.kind {
            Kind::Read => code,
            Kind::Write => code + CODE_BYTES,
            Kind::Fetch => linear,
        };
        let flags = if attempt.aligned { FLAGS | ALIGNMENT_CHECK } else { FLAGS };
        let (cs, ss) = if attempt.user { (USER_CODE, USER_DATA) } else { (CODE, DATA) };
        // SAFETY: whatever it comes to, an exception ends it, and `end` brings it back. Only the target may be written.
        unsafe { conformance_go(linear, value, flags, to, cs, ss) };
        let [vector, error, cr2, rip, rax] = [0, 1, 2, 3, 4].map(|place| END[place].load(Ordering::SeqCst));
        match vector {
            INVALID_OPCODE if rip >= to && rip - to <= 3 => Seen::Done(rax),
            PAGE_FAULT => Seen::Fault { code: error, cr2 },
            _ => Seen::Other { vector, rip },
        }
    }
}

fn load_segments(tables: &Pages, stack: Gpa) {
    let task = tables.page(0).as_u64() + TASK_OFFSET;
    // SDM vol. 3A 8.2.3: the descriptor has 16 bytes; RSP0 is four bytes into the TSS.
    let descriptor = FREE_TASK | TASK_LIMIT | (task & 0xff_ffff) << 16 | (task >> 24 & 0xff) << 56;
    let words = SEGMENTS.into_iter().chain([descriptor, task >> 32]);
    tables.fill(0, |_| 0);
    words.zip(0..).for_each(|(value, word)| tables.write(0, word, value));
    tables.write(0, TASK_OFFSET / 8, stack.as_u64() << 32);
    tables.write(0, TASK_OFFSET / 8 + 1, stack.as_u64() >> 32);
    let pointer: [u16; 5] = {
        let base = tables.page(0).as_u64();
        [TASK + 15, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16]
    };
    // SAFETY: the boot code's segments are in the new table, at their places; the task names a stack of its own.
    unsafe {
        asm!("lgdt [{}]", "ltr {:x}", in(reg) &raw const pointer, in(reg) TASK, options(readonly, nostack));
    }
}
