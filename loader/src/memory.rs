//! Memory as the loader sees it: the first 4 GiB, identity-mapped.

use abi::handoff::HandOff;
use addr::{Hpa, HpaRange};
use core::cell::UnsafeCell;

/// The first byte that is not mapped.
pub(crate) const MAPPED_END: Hpa = Hpa::new(1 << 32);

unsafe extern "C" {
    static loader_start: u8;
    static bss_end: u8;
}

/// The loader itself, its tables and its stack.
pub(crate) fn own_range() -> HpaRange {
    HpaRange::new(Hpa::new(&raw const loader_start as u64), Hpa::new(&raw const bss_end as u64))
}

/// The bytes of a range.
///
/// # Panics
/// If it is not all mapped, or starts at address 0.
///
/// # Safety
/// Nobody writes to the range as long as the bytes are used: not the loader either, by [`bytes_to_fill`].
pub(crate) unsafe fn bytes_at(range: HpaRange) -> &'static [u8] {
    assert!(range.start() != Hpa::ZERO && range.end() <= MAPPED_END, "{range} is not mapped");
    // SAFETY: identity-mapped, and any bits make a byte; the caller answers for the rest.
    unsafe { core::slice::from_raw_parts(range.start().as_u64() as *const u8, range.len() as usize) }
}

/// The bytes of a range that is the caller's to fill.
///
/// # Safety
/// Nothing else uses the range: it is free in the memory map, and not handed out before.
pub(crate) unsafe fn bytes_to_fill(range: HpaRange) -> &'static mut [u8] {
    assert!(range.start() != Hpa::ZERO && range.end() <= MAPPED_END, "{range} is not mapped");
    // SAFETY: identity-mapped RAM; the caller answers for the rest.
    unsafe { core::slice::from_raw_parts_mut(range.start().as_u64() as *mut u8, range.len() as usize) }
}

struct Kept(UnsafeCell<HandOff>);

// SAFETY: `keep` alone uses it, once: one CPU, no interrupts.
unsafe impl Sync for Kept {}

static KEPT: Kept = Kept(UnsafeCell::new(HandOff::new(abi::handoff::Loader::Bios)));

/// Puts the hand-off where it stays when the stack is gone.
pub(crate) fn keep(handoff: HandOff) -> &'static HandOff {
    // SAFETY: called once; no other reference to the cell exists.
    unsafe {
        *KEPT.0.get() = handoff;
        &*KEPT.0.get()
    }
}
