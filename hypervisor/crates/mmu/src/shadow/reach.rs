//! A guest's tables, reached through the tables of its MMU, entry by entry, as a processor with EPT reaches them (SDM vol. 3C
//! 28.3.1): a frame is used under the mmu lock, and only while a leaf maps it, so it is the guest's (I6). An entry is written only
//! through a leaf that may be written, which the host was asked for: copied on write, dirty, logged.

use super::walk::{GuestTables, Width};
use crate::secondary::{FaultOutcome, MmuError, SecondaryMmu};
use crate::tdp::resize;
use addr::{GfnRange, Gpa, PageSize, Pfn};
use mm::{Access, Host};
use mutants::{Mutant, intact};

/// The memory of a guest.
pub(super) struct Reached<'m, H: Host>(pub(super) &'m SecondaryMmu<H>);

impl<H: Host> Reached<'_, H> {
    /// Works on the frame that is mapped at an address; `None` where there is no RAM.
    fn on_frame<R>(
        &self,
        at: Gpa,
        access: Access,
        work: impl Fn(&H, Pfn) -> R,
    ) -> Result<Option<R>, MmuError> {
        let mmu = self.0;
        loop {
            let locked = mmu.locked.read();
            let leaf = locked.tdp.and_then(|tdp| tdp.ground_in_use(&*mmu.host, at.gfn()));
            if let Some(leaf) = leaf.filter(|leaf| access == Access::Read || leaf.rights.write) {
                let _held = intact(Mutant::GuestTableWrittenUnlocked).then_some(locked);
                return Ok(Some(work(&mmu.host, resize(leaf, at.gfn(), PageSize::Size4K).pfn)));
            }
            drop(locked);
            if mmu.fault(at, access)? == FaultOutcome::NotRam {
                return Ok(None);
            }
        }
    }
}

impl<H: Host> SecondaryMmu<H> {
    /// Compares bytes of RAM and, if they are those, replaces them, in one go as the guest's processors see it, if all are of
    /// the same eight; `None` where there is no RAM. No shadow has let it, so it tells of it as a device would. No lock is held.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on.
    pub fn exchange(&self, at: Gpa, old: &[u8], new: &[u8]) -> Result<Option<bool>, MmuError> {
        let (word, shift) = place(at);
        let start = (shift / 8) as usize;
        let number = |bytes: &[u8], rest: &[u8; 8]| {
            let mut all = *rest;
            all.iter_mut().skip(start).zip(bytes).for_each(|(byte, new)| *byte = *new);
            u64::from_le_bytes(all)
        };
        let done = Reached(self).on_frame(at, Access::Write, |host, frame| {
            let mut now = host.load_word(frame, word);
            while number(old, &now.to_le_bytes()) == now {
                match host.exchange_word(frame, word, now, number(new, &now.to_le_bytes())) {
                    Ok(()) => return true,
                    // Perhaps other bytes.
                    Err(other) => now = other,
                }
            }
            false
        })?;
        if done == Some(true) {
            self.note_written(core::iter::once(GfnRange::new(at.gfn(), at.gfn().add(1))));
        }
        Ok(done)
    }
}

/// Where an aligned entry is in its page: the word, and how far to shift that.
const fn place(at: Gpa) -> (u16, u32) {
    let offset = at.offset_in(PageSize::Size4K);
    ((offset / 8) as u16, (offset % 8 * 8) as u32)
}

const fn mask(width: Width) -> u64 {
    match width {
        Width::Bits32 => 0xffff_ffff,
        Width::Bits64 => u64::MAX,
    }
}

impl<H: Host> GuestTables for Reached<'_, H> {
    type Error = MmuError;

    fn load(&self, at: Gpa, width: Width) -> Result<u64, MmuError> {
        let (word, shift) = place(at);
        let found = self.on_frame(at, Access::Read, |host, frame| host.load_word(frame, word) >> shift)?;
        Ok(found.unwrap_or(u64::MAX) & mask(width))
    }

    fn exchange(&self, at: Gpa, width: Width, old: u64, new: u64) -> Result<bool, MmuError> {
        let (word, shift) = place(at);
        let mask = mask(width) << shift;
        let done = self.on_frame(at, Access::Write, |host, frame| {
            let mut now = host.load_word(frame, word);
            while now & mask == old << shift {
                match host.exchange_word(frame, word, now, now & !mask | new << shift) {
                    Ok(()) => return true,
                    // Perhaps the other half.
                    Err(other) => now = other,
                }
            }
            false
        })?;
        // A hole keeps nothing.
        Ok(done.unwrap_or(true))
    }
}
