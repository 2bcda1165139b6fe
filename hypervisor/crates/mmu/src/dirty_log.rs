//! The dirty log of a slot: which of its pages the guest, or somebody for it, has written since the last harvest (KVM:
//! `KVM_GET_DIRTY_LOG`).
//!
//! ```text
//!                    begin: write-protect, flush        harvest: take the bit, write-protect, one flush
//!   page, writable ─────────────────────────► bit 0, r-x ◄──────────────────────────┐
//!                                               │ write fault: set the bit, install │
//!                                               └────────────────────► bit 1, rwx ──┘
//!   contents changed by another way (Herald's own writes, discard, munmap, ...) ─► bit 1, whatever is mapped
//! ```
//!
//! A page that was written before has D, which nobody but the CPU and a fault for a write sets: its next write fault finds an
//! entry with D and without W, and needs to ask the host for nothing.
//!
//! The rule: where an entry of a logged slot is writable, its bit is set. It holds whenever the mmu lock is free: faults set the
//! bit before they install, both under the shared side, and begin and harvest have the exclusive one. So a zap loses nothing, and a
//! write through an entry that the harvest has yet to take back is one of the harvest that counts it.
//!
//! What is written in other ways is logged after it was written: whoever reads the page after a harvest sees it, or the next
//! harvest has the page again.
//!
//! With the processor's own log ([`LogBy::Processor`]) entries stay writable, and D takes the place of W: a processor that sets it
//! notes the page in a buffer. Whenever a CPU leaves the guest, and before whoever flushes stops waiting for it, it brings what
//! is there into the log ([`SecondaryMmu::note_logged`]). A cached translation with D set notes nothing more, so clearing D takes a flush as
//! well (I12); and one more comes before the harvest, to have the CPUs come out with what they have noted.

use crate::entry;
use crate::secondary::{Locked, SecondaryMmu};
use crate::slots::Slot;
use crate::tdp::{Tdp, resize};
use addr::{Gfn, GfnRange, Gpa, HvaRange, PageSize};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use mm::Host;
use mutants::{Mutant, intact};
use paging::{BlockBits, EntryRef, EptEntry, Found, Leaf, Level, TableEntry, View};
use sync::atomic::{AtomicU64, Ordering};

/// How writes of the guest are seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogBy {
    /// Logged pages are read-only until they are written.
    WriteFault,
    /// The processor logs where it sets D (page-modification logging, SDM vol. 3C 29.3.6).
    Processor,
}

/// Why a slot is not logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogError {
    /// No slot starts at this guest frame.
    NoSlot(Gfn),
    /// It is logged already.
    Logged(Gfn),
    /// As many slots are logged as can be.
    TooMany,
    /// The host address space is gone.
    Released,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlot(gfn) => write!(f, "no slot starts at {gfn}"),
            Self::Logged(gfn) => write!(f, "the slot at {gfn} is logged already"),
            Self::TooMany => write!(f, "{MOST} slots are logged already"),
            Self::Released => f.write_str("the guest's host address space has been torn down"),
        }
    }
}

/// Guest frames that were written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirtyPages {
    /// The frame of the first bit, a multiple of 512.
    first: u64,
    words: Vec<u64>,
}

impl DirtyPages {
    /// None, with room for those of a range.
    fn none(range: GfnRange) -> Self {
        let first = range.start().align_down(BLOCK).as_u64();
        let blocks = (range.end().as_u64() - first).div_ceil(BLOCK.base_pages());
        Self { first, words: vec![0; blocks as usize * WORDS] }
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, gfn: Gfn) -> bool {
        let index = gfn.as_u64().checked_sub(self.first);
        index.is_some_and(|index| {
            self.words.get((index / 64) as usize).is_some_and(|word| word >> (index % 64) & 1 != 0)
        })
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = Gfn> + '_ {
        self.words.iter().zip(0_u64..).flat_map(move |(&word, index)| {
            let mut rest = word;
            core::iter::from_fn(move || {
                let bit = u64::from(rest.trailing_zeros());
                (rest != 0).then(|| {
                    rest &= rest - 1;
                    Gfn::new(self.first + index * 64 + bit)
                })
            })
        })
    }
}

/// What one entry of the next level up spans: the pages of a page table.
const BLOCK: PageSize = PageSize::Size2M;
/// Words of the log of such a block.
const WORDS: usize = 8;

/// The log of one slot: a bit a page, in blocks that are those of page tables.
#[derive(Debug)]
pub(crate) struct DirtyLog {
    slot: Slot,
    by: LogBy,
    /// Guest frame of the first bit.
    first: Gfn,
    words: Vec<AtomicU64>,
}

impl DirtyLog {
    fn new(slot: Slot, by: LogBy) -> Self {
        let DirtyPages { first, words } = DirtyPages::none(slot.gfns());
        let words = words.into_iter().map(AtomicU64::new).collect();
        Self { slot, by, first: Gfn::new(first), words }
    }

    /// The frame was, or will be, written.
    fn set(&self, gfn: Gfn) {
        let index = gfn.as_u64() - self.first.as_u64();
        // Not only where it is clear: what was written is visible before the bit is, pairs with the exchange of `take`.
        self.words[(index / 64) as usize].fetch_or(1 << (index % 64), Ordering::AcqRel);
    }

    pub(crate) fn by(&self) -> LogBy {
        self.by
    }

    pub(crate) fn has(&self, gfn: Gfn) -> bool {
        let index = gfn.as_u64() - self.first.as_u64();
        self.words[(index / 64) as usize].load(Ordering::Relaxed) >> (index % 64) & 1 != 0
    }

    /// Takes the bits of frames in `range` from the block that begins with the word `at`.
    fn take(&self, at: usize, range: GfnRange) -> BlockBits {
        core::array::from_fn(|index| {
            let word = &self.words[at + index];
            let first = self.first.as_u64() + (at + index) as u64 * 64;
            let wanted = bits_within(first, range);
            match word.load(Ordering::Relaxed) & wanted {
                0 => 0,
                _ => word.fetch_and(!wanted, Ordering::AcqRel) & wanted,
            }
        })
    }
}

/// Of the 64 frames from `first` on, those in a range.
fn bits_within(first: u64, range: GfnRange) -> u64 {
    let below = |end: Gfn| match end.as_u64().saturating_sub(first) {
        count @ 0..64 => (1 << count) - 1,
        _ => u64::MAX,
    };
    below(range.end()) & !below(range.start())
}

/// Most slots that are logged at a time.
const MOST: usize = 4;

/// The logs of a guest's slots. The places are there from the start: nothing is allocated under the mmu lock.
#[derive(Debug, Default)]
pub(crate) struct Logs([Option<DirtyLog>; MOST]);

impl Logs {
    fn iter(&self) -> impl Iterator<Item = &DirtyLog> {
        self.0.iter().flatten()
    }

    pub(crate) fn find(&self, gfn: Gfn) -> Option<&DirtyLog> {
        self.iter().find(|log| log.slot.gfns().contains(gfn))
    }

    fn insert(&mut self, log: DirtyLog) -> Result<(), LogError> {
        let first = log.slot.gfns().start();
        if self.find(first).is_some() {
            return Err(LogError::Logged(first));
        }
        *self.0.iter_mut().find(|place| place.is_none()).ok_or(LogError::TooMany)? = Some(log);
        Ok(())
    }

    /// Takes away the log of the slot that starts at `first`, for the caller to drop without the lock.
    #[must_use = "it is dropped without the lock"]
    fn remove(&mut self, first: Gfn) -> Option<DirtyLog> {
        let is_it = |log: &mut DirtyLog| log.slot.gfns().start() == first;
        self.0.iter_mut().find_map(|place| place.take_if(is_it))
    }

    /// Apart from the path of faults without a log. Where no log has the frame, the leaf as it is. Else a base page: writable only for a write, which is noted.
    #[cold]
    pub(crate) fn admit(&self, gfn: Gfn, leaf: Leaf) -> Leaf {
        let Some(log) = self.find(gfn) else { return leaf };
        let mut leaf = if intact(Mutant::LogKeepsHuge) { resize(leaf, gfn, PageSize::Size4K) } else { leaf };
        // D is set in a leaf for a write, and in no other.
        if leaf.dirty && intact(Mutant::NoLogOnInstall) {
            log.set(gfn);
        }
        let may_write = leaf.dirty || log.by == LogBy::Processor || !intact(Mutant::LogReadInstallsWritable);
        leaf.rights.write &= may_write;
        leaf
    }

    /// What lies in `range` of the host's addresses has other contents.
    pub(crate) fn mark(&self, range: HvaRange) {
        for log in self.iter() {
            log.slot.gfns_of(range).into_iter().flat_map(|gfns| gfns.iter()).for_each(|gfn| log.set(gfn));
        }
    }
}

/// What an entry loses so that the next write is seen.
const fn seen_by(by: LogBy) -> u64 {
    match by {
        LogBy::WriteFault => EptEntry::WRITE,
        LogBy::Processor => EptEntry::DIRTY,
    }
}

/// Whether W is what nobody but the log has taken from the leaf.
fn may_have_w_back(leaf: EptEntry) -> bool {
    let bits = leaf.bits();
    bits & EptEntry::WRITE == 0 && (bits & EptEntry::DIRTY != 0 || !intact(Mutant::LogGivesWhatItDidNotTake))
}

impl<H: Host> SecondaryMmu<H> {
    /// Logs what is written to the slot that starts at `first`, from now on. By the processor only where each that runs the guest has
    /// such a log, and sets D.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn begin_log(&self, first: Gfn, by: LogBy) -> Result<(), LogError> {
        let slots = self.slots.read();
        let slot = slots.find(first).filter(|slot| slot.gfns().start() == first);
        let slot = slot.ok_or(LogError::NoSlot(first))?;
        // Nothing is allocated under the lock (I4).
        let log = DirtyLog::new(slot, by);
        let mut locked = self.locked.write();
        let tdp = locked.tdp.ok_or(LogError::Released)?;
        self.logs.write().insert(log)?;
        self.logging.fetch_add(1, Ordering::Release);
        let seen = if intact(Mutant::LogProtectsNothing) { seen_by(by) } else { 0 };
        let changed = tdp.watch(&*self.host, slot.gfns(), seen, &mut locked);
        if changed > 0 && intact(Mutant::NoFlushOfLogBegin) {
            self.flush(tdp);
        }
        Ok(())
    }

    /// Ends the log of the slot that starts at `first`; `false` where there was none. Entries stay as they are: pages that
    /// were not written are read-only until they are.
    pub fn end_log(&self, first: Gfn) -> bool {
        let log = self.logs.write().remove(first);
        if log.is_some() {
            self.logging.fetch_sub(1, Ordering::Release);
        }
        log.is_some()
    }

    /// Which of these frames were written since their logs began, or were harvested last; they are watched anew. One flush,
    /// however many they are. Virtual processors wait with their faults meanwhile: who has many frames may ask for them in parts.
    ///
    /// Whoever copies the pages afterwards has what was written before the call. What is written later may be in the copy,
    /// and is in the next harvest. Where the processor logs, its buffers were drained before.
    pub fn harvest(&self, range: GfnRange) -> DirtyPages {
        // Nothing is allocated under the lock (I4).
        let mut pages = DirtyPages::none(range);
        self.bring_in_logs(range);
        let mut locked = self.locked.write();
        let Some(tdp) = locked.tdp else { return pages };
        let logs = self.logs.read();
        let mut changed = 0;
        for log in logs.iter() {
            let Some(part) = log.slot.gfns().intersection(&range) else { continue };
            let seen = if intact(Mutant::HarvestProtectsNothing) { seen_by(log.by) } else { 0 };
            let mut block = part.start().align_down(BLOCK);
            while block < part.end() {
                let at = (block.as_u64() - log.first.as_u64()) as usize / 64;
                let bits = log.take(at, part);
                if bits != [0; WORDS] {
                    let into = (block.as_u64() - pages.first) as usize / 64;
                    pages.words[into..into + WORDS]
                        .iter_mut()
                        .zip(bits)
                        .for_each(|(word, bits)| *word |= bits);
                    changed += tdp.watch_block(&*self.host, block, (&bits, seen), &mut locked);
                }
                block = block.add(BLOCK.base_pages());
            }
        }
        drop(logs);
        if changed > 0 && intact(Mutant::NoFlushOfHarvest) {
            self.flush(tdp);
        }
        pages
    }

    /// Whether any slot is logged. Under the mmu lock, shared at least: no log begins meanwhile.
    #[inline]
    pub(crate) fn is_logging(&self) -> bool {
        self.logging.load(Ordering::Acquire) > 0
    }

    /// A write fault where only the log is in the way: sets the bit, and gives the right to write back (KVM: `fast_page_fault`). The
    /// host need not be asked: D without W says that the page could be written, since nobody but the log takes W and leaves the
    /// leaf; and the leaf is there, so no invalidation has come since, nor is in progress (I1).
    #[cold]
    pub(crate) fn writes_again(&self, gfn: Gfn) -> bool {
        let locked = self.locked.read();
        let Some(tdp) = locked.tdp else { return false };
        let logs = self.logs.read();
        let Some(log) = logs.find(gfn).filter(|log| log.by == LogBy::WriteFault) else { return false };
        let passes = |found: Found<EptEntry>| {
            if !found.entry.is_leaf(found.level) || !may_have_w_back(found.entry) {
                return false;
            }
            // Before the entry is writable, as in `admit`.
            log.set(gfn);
            entry::allow_write(&*self.host, &found)
        };
        match tdp.walk_to_page(&*self.host, gfn) {
            Some(page) => passes(page),
            None => passes(tdp.walk(&*self.host, gfn)),
        }
    }

    /// CPUs in the guest come out, and note what they have logged. Not under the mmu lock, which one that comes out for another
    /// reason may wait for.
    fn bring_in_logs(&self, range: GfnRange) {
        let by_processor = |log: &DirtyLog| log.by == LogBy::Processor && log.slot.gfns().overlaps(&range);
        let wanted = self.logs.read().iter().any(by_processor);
        let tdp = self.locked.read().tdp.filter(|_| wanted);
        if let Some(tdp) = tdp {
            self.flush(tdp);
        }
    }

    /// The processor has logged writes there (SDM vol. 3C 29.3.6). Frames without a log are passed over. No lock is waited for whose
    /// holder may wait for this CPU.
    pub fn note_logged(&self, pages: impl IntoIterator<Item = Gpa>) {
        let logs = self.logs.read();
        for gfn in pages.into_iter().map(Gpa::gfn) {
            if let Some(log) = logs.find(gfn) {
                log.set(gfn);
            }
        }
    }

    /// The slots that are logged.
    pub fn logged(&self) -> Vec<Slot> {
        self.logs.read().iter().map(|log| log.slot).collect()
    }
}

impl Tdp {
    /// Takes `seen` from every leaf that overlaps `range`; huge leaves go whole, and come back in base pages. How many have
    /// changed: the caller flushes.
    #[must_use = "entries that were narrowed are owed a flush (I6)"]
    fn watch<H: Host>(self, host: &H, range: GfnRange, seen: u64, locked: &mut Locked) -> u64 {
        let mut changed = 0;
        self.each_leaf(host, range, |found, gfns| {
            if found.level > Level::Pt && intact(Mutant::LogKeepsHuge) {
                entry::clear(host, found.at, found.entry, &mut locked.in_progress);
                locked.forget(host, gfns);
            } else if found.entry.bits() & seen != 0 {
                entry::narrow(host, found.at, seen, &mut locked.in_progress);
                locked.narrowed(host, || gfns.start());
            } else {
                return;
            }
            changed += 1;
        });
        changed
    }

    /// Takes `seen` from leaves of the page table that spans `block`, those whose bits are set. How many were looked at: the
    /// caller flushes.
    #[must_use = "entries that were narrowed are owed a flush (I6)"]
    fn watch_block<H: Host>(
        self,
        host: &H,
        block: Gfn,
        (bits, seen): (&BlockBits, u64),
        locked: &mut Locked,
    ) -> u64 {
        let found = paging::walk_to::<EptEntry, H>(host, self.root, block.base().as_u64(), Level::Pd);
        let View::Table(table) = found.view() else { return 0 };
        let mut looked_at = 0;
        for (&word, first) in bits.iter().zip((0_u16..).step_by(64)) {
            let mut rest = word;
            let nobody_else = !locked.has_shadows() || !intact(Mutant::HarvestOfAllLeavesShadow);
            if rest == u64::MAX && nobody_else {
                // Where all were written nobody is looked for.
                for index in first..first + 64 {
                    entry::narrow(host, EntryRef::new(table, index), seen, &mut locked.in_progress);
                }
                looked_at += 64;
                rest = 0;
            }
            while rest != 0 {
                let index = first + rest.trailing_zeros() as u16;
                entry::narrow(host, EntryRef::new(table, index), seen, &mut locked.in_progress);
                locked.narrowed(host, || block.add(u64::from(index)));
                rest &= rest - 1;
                looked_at += 1;
            }
        }
        looked_at
    }
}
