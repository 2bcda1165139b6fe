//! From firmware's long mode to Herald's.
//!
//! Herald is entered as `long_mode.s` would do it: four levels of tables ([`loader::tables`]), nothing in CR4 but PAE,
//! nothing in EFER but LME. Firmware may have five levels, which only a processor outside of long mode can change (SDM
//! vol. 3A, 4.1.1), so `trampoline.s` leaves long mode and comes back.
//!
//! Trampoline and tables are memory of type `EfiRuntimeServicesCode`: firmware lets such memory be executed, and the hand-off
//! calls it reserved, so that Herald does not use it while it still runs on these tables.

use crate::pages::Pages;
use addr::{Hpa, HpaRange, PAGE_SIZE};
use core::arch::{asm, global_asm};
use loader::LoadError;
use loader::tables::{self, TABLES, Tables};
use uefi::boot::MemoryType;
use zerocopy::FromBytes;

global_asm!(include_str!("trampoline.s"), options(att_syntax));

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
}

/// Tables, then a page for the trampoline.
const PAGES: usize = TABLES + 1;
/// Bytes of the tables.
const TABLE_BYTES: usize = size_of::<Tables>();

/// What is needed between boot services and Herald.
pub(crate) struct Start {
    pages: Pages,
    entry: u64,
}

impl Start {
    /// Makes the tables for an image linked for `linked` that lies at `place`, and puts the trampoline behind them.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(linked: HpaRange, place: HpaRange, entry: u64) -> Result<Self, LoadError> {
        let bytes = PAGES as u64 * PAGE_SIZE;
        let mut pages = Pages::new(bytes, MemoryType::RUNTIME_SERVICES_CODE)?;
        let start = pages.range().start();
        let (in_tables, page) = pages.bytes().split_at_mut(TABLE_BYTES);
        let tables = Tables::mut_from_bytes(in_tables).map_err(|_| LoadError::NoRoom { bytes })?;
        tables::fill(tables, start, linked, place);
        let code = code();
        page[..code.len()].copy_from_slice(code);
        Ok(Self { pages, entry })
    }

    /// Enters Herald with a hand-off; boot services are gone.
    pub(crate) fn jump(&self, handoff: Hpa) -> ! {
        let root = self.pages.range().start().as_u64();
        let page = root + TABLE_BYTES as u64;
        // SAFETY: the page holds the trampoline and room for its stack. Firmware maps it to itself, and so do the tables at
        // `root`, which also map Herald's image, with `entry` in it. Interrupts are off from here on, for good.
        unsafe {
            asm!(
                "cli",
                "cld",
                "jmp {page}",
                page = in(reg) page,
                in("rdi") handoff.as_u64(),
                in("rsi") self.entry,
                in("rdx") root,
                options(noreturn)
            );
        }
    }
}

/// The trampoline as it is linked, to be copied.
fn code() -> &'static [u8] {
    let (start, end) = (&raw const trampoline, &raw const trampoline_end);
    // SAFETY: the two labels are the ends of one piece of this image's code, which nobody writes.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}
