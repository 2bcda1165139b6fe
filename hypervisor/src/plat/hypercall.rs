//! Hypercalls (`abi::hypercall`): a mark for measurements, and host operations on the caller's own memory.

use super::memory::{Memory, NotRam};
use super::ticks::Ticks;
use abi::hypercall::{DENIED, DISCARD, INVALID, MARK_INIT, PROTECT, UNKNOWN};
use addr::Gpa;
use mm::Host;

/// A VMCALL: RAX, RBX, RCX, and the caller's privilege level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hypercall {
    /// RAX.
    pub number: u64,
    /// RBX, RCX.
    pub arguments: [u64; 2],
    /// CPL, 0 to 3.
    pub privilege: u8,
}

impl Hypercall {
    /// Performs the call at TSC `now`; returns RAX.
    pub fn perform<H: Host + 'static>(&self, memory: &Memory<H>, ticks: &mut Ticks, now: u64) -> u64 {
        let [start, len] = self.arguments;
        match self.number {
            MARK_INIT => {
                ticks.mark_init(now);
                0
            }
            DISCARD | PROTECT if self.privilege != 0 => DENIED,
            DISCARD => answer(start, |gpa| memory.discard(gpa, len)),
            PROTECT => answer(start, |gpa| memory.protect(gpa, len)),
            _ => UNKNOWN,
        }
    }
}

fn answer(start: u64, operation: impl FnOnce(Gpa) -> Result<(), NotRam>) -> u64 {
    let Some(gpa) = Gpa::try_new(start) else { return INVALID };
    if operation(gpa).is_ok() { 0 } else { INVALID }
}
