//! Host virtual addresses that Herald fixes, and the linker's symbols.
//!
//! ```text
//!  0xffff_8880_0000_0000   direct map of usable memory, 64 TiB at most; firmware's tables, for reading
//!  0xffff_c900_0000_0000   registers of the local APIC, not cached
//!  0xffff_c940_0000_0000   registers of other devices, not cached, one range behind the other
//!  0xffff_c960_0000_0000   stacks of threads
//!  0xffff_fe80_0000_0000   the screen
//!  0xffff_ffff_8020_0000   the image: text, rodata, data and bss, stacks above guard pages
//! ```

use addr::{Hpa, Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, Pfn};

/// Where physical address 0 is mapped.
pub(crate) const DIRECT_MAP: Hva = Hva::new(0xffff_8880_0000_0000);
/// Bytes that the direct map can hold: 128 entries of the root, which every address space copies.
pub(crate) const DIRECT_MAP_BYTES: u64 = 1 << 46;
/// Where device registers are mapped, at their physical address.
pub(crate) const DEVICES: Hva = Hva::new(0xffff_c900_0000_0000);
/// Where registers are mapped that may lie anywhere in physical memory: the third quarter of what the root's entry of
/// [`DEVICES`] spans, which every address space has, because the local APIC is there before the first of them.
pub(crate) const REGISTERS: Hva = DEVICES.add(1 << 38);
/// Bytes of that.
pub(crate) const REGISTERS_BYTES: u64 = 1 << 37;
/// Where stacks are mapped: the last quarter.
pub(crate) const STACKS: Hva = REGISTERS.add(REGISTERS_BYTES);
/// Bytes of that.
pub(crate) const STACKS_BYTES: u64 = 1 << 37;

const _: () = assert!(DIRECT_MAP.as_u64() + DIRECT_MAP_BYTES <= DEVICES.as_u64());

/// The direct map's address of a physical address.
#[must_use]
pub(crate) fn direct(address: Hpa) -> Hva {
    DIRECT_MAP.add(address.as_u64())
}

/// The frame at an address of the direct map; `None` where the address is another one, or not a page's.
#[must_use]
pub(crate) fn direct_frame(address: Hva) -> Option<Pfn> {
    let offset =
        address.as_u64().checked_sub(DIRECT_MAP.as_u64()).filter(|&offset| offset < DIRECT_MAP_BYTES)?;
    (offset % PAGE_SIZE == 0).then(|| Pfn::new(offset >> PAGE_SHIFT))
}
/// Where the screen's memory is mapped, from its first page on.
pub(crate) const SCREEN: Hva = Hva::new(0xffff_fe80_0000_0000);

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __data_end: u8;
    static __image_end: u8;
}

macro_rules! range {
    ($(#[$doc:meta])* $name:ident, $start:ident, $end:ident) => {
        $(#[$doc])*
        #[must_use]
        pub(crate) fn $name() -> HvaRange {
            HvaRange::new(Hva::new(&raw const $start as u64), Hva::new(&raw const $end as u64))
        }
    };
}

range! {
    /// Code.
    text, __image_start, __text_end
}
range! {
    /// Constants.
    rodata, __text_end, __rodata_end
}
range! {
    /// Variables.
    data, __rodata_end, __data_end
}
range! {
    /// Stacks and their guard pages.
    stacks, __data_end, __image_end
}
