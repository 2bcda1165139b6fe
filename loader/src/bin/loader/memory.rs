//! Memory as the loader sees it: the first 4 GiB, identity-mapped, and Herald's image where it is linked.

use abi::handoff::HandOff;
use addr::{Hpa, HpaRange, PageSize};
use core::cell::UnsafeCell;

/// The first byte that is not mapped.
pub(crate) const MAPPED_END: Hpa = Hpa::new(1 << 32);

unsafe extern "C" {
    static loader_start: u8;
    static bss_end: u8;
    static mut image_directory: [u64; 512];
}

/// The loader itself, its tables and its stack.
pub(crate) fn own_range() -> HpaRange {
    HpaRange::new(Hpa::new(&raw const loader_start as u64), Hpa::new(&raw const bss_end as u64))
}

/// What firmware's information points at, where it is mapped.
pub(crate) fn mapped(range: HpaRange) -> Option<&'static [u8]> {
    // SAFETY: whoever wrote it runs no more, and the loader fills memory only after it has copied all this into the
    // hand-off.
    (range.start() != Hpa::ZERO && range.end() <= MAPPED_END).then(|| unsafe { bytes_at(range) })
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

/// Puts the hand-off where it stays when the stack is gone, and seals it.
pub(crate) fn keep(mut handoff: HandOff) -> &'static HandOff {
    handoff.seal_at(KEPT.0.get() as u64);
    // SAFETY: called once; no other reference to the cell exists.
    unsafe {
        *KEPT.0.get() = handoff;
        &*KEPT.0.get()
    }
}

/// Maps the image where it is linked, by 2 MiB pages; both places are such pages' first bytes.
pub(crate) fn map_image(linked: HpaRange, place: HpaRange) {
    /// Present, writable, a 2 MiB page (SDM vol. 3A table 4-17).
    const LARGE_PAGE: u64 = 0x83;
    let size = PageSize::Size2M.bytes();
    let first = linked.start().as_u64() / size;
    for index in 0..place.len().div_ceil(size) {
        let entry = (place.start().as_u64() + index * size) | LARGE_PAGE;
        // SAFETY: an entry of `long_mode.s`' page directory for the GiB in which images are linked. It was not present,
        // so no translation of it is cached.
        unsafe {
            (&raw mut image_directory).cast::<u64>().add((first + index) as usize).write_volatile(entry)
        };
    }
}
