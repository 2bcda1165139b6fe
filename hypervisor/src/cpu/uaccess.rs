//! Guest memory by host virtual address: ordinary stores that may fault, and a way out for those that cannot be
//! resolved.
//!
//! ```text
//!   copy ──► rep movs ──► #PF ──► space::fault ──┬─ Ok: the instruction goes on where it was
//!                                                └─ Err: RIP moves to the fix-up, copy returns 1
//! ```
//!
//! No memory-manager lock may be held (the fault takes the mmap lock).

use super::space;
use crate::physmem::PhysicalMemory;
use addr::{Hva, HvaRange};
use core::arch::naked_asm;
use core::fmt;
use mm::{AddressSpace, USER_END};

/// A byte of the range could not be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HvaFault {
    /// First byte of the access.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

impl fmt::Display for HvaFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at hva:{:#x} cannot be reached", self.len, self.start)
    }
}

/// Copies to host virtual addresses of `space`.
///
/// # Errors
/// [`HvaFault`]; a part may have been copied.
pub(crate) fn copy_to(space: &AddressSpace<PhysicalMemory>, to: Hva, bytes: &[u8]) -> Result<(), HvaFault> {
    check(to, bytes.len())?;
    // SAFETY: writes the lower half only, which holds nothing of Herald's; what cannot be resolved ends at the
    // fix-up.
    let failed =
        space::with(space, || unsafe { copy(to.as_u64(), bytes.as_ptr() as u64, bytes.len() as u64) });
    outcome(failed, to, bytes.len())
}

/// Copies from host virtual addresses of `space`.
///
/// # Errors
/// [`HvaFault`]; a part may have been copied.
pub(crate) fn copy_from(
    space: &AddressSpace<PhysicalMemory>,
    from: Hva,
    bytes: &mut [u8],
) -> Result<(), HvaFault> {
    check(from, bytes.len())?;
    let (to, len) = (bytes.as_mut_ptr() as u64, bytes.len());
    // SAFETY: writes `bytes` only, which lie in the upper half and are the caller's; what cannot be resolved ends at the
    // fix-up.
    let failed = space::with(space, || unsafe { copy(to, from.as_u64(), len as u64) });
    outcome(failed, from, len)
}

fn check(start: Hva, len: usize) -> Result<(), HvaFault> {
    let inside = HvaRange::sized(start, len as u64).is_some_and(|range| range.end() <= USER_END);
    outcome(u64::from(!inside), start, len)
}

fn outcome(failed: u64, start: Hva, len: usize) -> Result<(), HvaFault> {
    if failed == 0 { Ok(()) } else { Err(HvaFault { start: start.as_u64(), len: len as u64 }) }
}

/// Copies `len` bytes from `from` to `to`: words, then what is left. Returns 0, or 1 from the fix-up.
///
/// # Safety
/// The side that is not in the lower half is valid for the access.
#[unsafe(naked)]
unsafe extern "sysv64" fn copy(to: u64, from: u64, len: u64) -> u64 {
    naked_asm!(
        "mov rcx, rdx",
        "shr rcx, 3",
        ".global uaccess_start",
        "uaccess_start:",
        "rep movsq",
        "mov rcx, rdx",
        "and rcx, 7",
        "rep movsb",
        ".global uaccess_end",
        "uaccess_end:",
        "xor eax, eax",
        "ret",
        ".global uaccess_fixup",
        "uaccess_fixup:",
        "mov eax, 1",
        "ret",
    )
}

unsafe extern "C" {
    static uaccess_start: u8;
    static uaccess_end: u8;
    static uaccess_fixup: u8;
}

/// Where an instruction at `rip` goes on after a fault that cannot be resolved; `None`: it is not ours.
#[must_use]
pub(crate) fn fixup(rip: u64) -> Option<u64> {
    let range = &raw const uaccess_start as u64..&raw const uaccess_end as u64;
    range.contains(&rip).then_some(&raw const uaccess_fixup as u64)
}
