//! Snapshots: what a clone would begin with is written to a disk, in the background.
//!
//! ```text
//!   who asks ─► pause: states, address space forked, board copied, dirty log harvested ─► the guest goes on
//!       └─► a thread: pages of the copy ─► copied out ─► disk            the run ends once the header is there
//!                        └─ 2 MiB further: the copy's are discarded
//! ```
//!
//! The first one has all pages, each later one those that were written since the one before (`part.rs`).
//!
//! The guest writes on meanwhile: what it writes to is copied first, as for a clone. Pages in swap come in by the copy's own
//! faults. The writer copies a page before it hands it to the disk, and so pins none.

use super::clone::{Asker, CloneError, Twin};
use super::memory::Memory;
use super::oom;
use super::part::Part;
use super::run::Machine;
use super::vm::Vm;
use crate::cpu::uaccess::{self, HvaFault};
use crate::exit;
use crate::io::DiskQueue;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, Turn};
use crate::vcpu::Start;
use addr::{Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mm::{AddressSpace, FrameMemory, Host, OutOfFrames};
use mmu::LogError;
use snapshot::{Digest, Header, Page, PageMap, Range, Sink, Writer, empty_page};
use tiers::{BlockDevice, BlockError, MOST_PAGES};

/// What a virtual processor that has asked finds in a restored guest.
const RESTORED: u32 = 1;
/// Guests go first.
const WEIGHT: u32 = 50;

/// Why there is no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SnapshotError {
    /// There is no disk for one, or another guest has it.
    NoDisk,
    /// The one before is being written.
    UnderWay,
    /// The disk has as many as it can have.
    TooMany,
    /// What the guest writes from now on cannot be logged.
    Log(LogError),
    /// A guest has wanted the copy's memory.
    GivenUp,
    /// The disk has no room.
    Full {
        /// Its pages.
        pages: u64,
    },
    /// There can be no copy of the guest.
    Copy(CloneError),
    /// No memory for a thread or a buffer.
    NoMemory(OutOfFrames),
    /// A page of it cannot be had.
    Page(HvaFault),
    /// The disk does not take it.
    Disk(BlockError),
    /// What was written is not what the oracle saw.
    Oracle {
        /// The digest of what was written.
        written: u64,
        /// That of the instant.
        seen: u64,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk => f.write_str("there is no disk for one, or it is another guest's"),
            Self::UnderWay => f.write_str("one is under way"),
            Self::TooMany => f.write_str("the disk has as many as it can have"),
            Self::Log(error) => error.fmt(f),
            Self::GivenUp => f.write_str("given up, since a guest has found no memory"),
            Self::Full { pages } => write!(f, "it does not fit on its disk of {pages} pages"),
            Self::Copy(error) => error.fmt(f),
            Self::NoMemory(error) => error.fmt(f),
            Self::Page(error) => write!(f, "out of memory, or a page was lost: {error}"),
            Self::Disk(error) => write!(f, "its disk: {error}"),
            Self::Oracle { written, seen } => {
                write!(f, "the oracle saw memory of digest {seen:#x}, and {written:#x} was written")
            }
        }
    }
}

impl From<OutOfFrames> for SnapshotError {
    fn from(error: OutOfFrames) -> Self {
        Self::NoMemory(error)
    }
}

impl From<BlockError> for SnapshotError {
    fn from(error: BlockError) -> Self {
        Self::Disk(error)
    }
}

/// What the instant was like, beside what the copy holds.
struct Instant {
    tsc: u64,
    digest: Option<u64>,
}

impl Vm {
    /// Takes a snapshot of this instant.
    ///
    /// # Errors
    /// [`SnapshotError`]; the guest has lost nothing.
    pub(crate) fn snapshot(&self, asker: Option<Asker>) -> Result<(), SnapshotError> {
        let machine = self.machine;
        self.prepare_copy().map_err(SnapshotError::Copy)?;
        let mut part = self.begin_part()?;
        let copied = self.copy(RESTORED, asker, || {
            part.note_instant(&self.memory)?;
            let tsc = self.clock.now().0;
            let digest = self.oracle.then(|| digest(&self.memory, Behind::Kept).ok()).flatten();
            Ok::<_, SnapshotError>(Instant { tsc, digest })
        });
        let (mut twin, instant) = copied.map_err(SnapshotError::Copy)?;
        let instant = instant?;
        twin.memory.stop_merging();
        log::info!("{}: a snapshot is under way; it stood still for {} ticks", self.name(), twin.birth.pause);
        let (name, clock) = (Arc::clone(&self.place.name), self.clock);
        let writer = sched::spawn(&Group::new(WEIGHT), move || {
            // Dropped last: until then its memory is on its way.
            let copy = oom::Copy::new();
            let Twin { memory, board, starts, .. } = twin;
            let described = snapshot::Machine {
                ranges: ranges(&memory),
                tsc_hz: clock.tsc_hz,
                tsc: instant.tsc,
                boot_seconds: clock.boot_seconds,
                features: exit::features(|control| machine.offers(control)),
                digest: instant.digest,
                processors: processors(&starts),
            };
            // It is on the heap, of any length.
            let board = postcard::to_allocvec(&board).expect("the heap takes what is encoded");
            match write(machine, &memory, &part, &copy, (&described, &board)) {
                Ok(header) => {
                    let (pages, bytes) = (header.stored, header.bytes);
                    let number = header.number.get() + 1;
                    log::info!(
                        "{name}: the snapshot is complete: {pages} pages, {bytes} bytes, instant {number}"
                    );
                    part.complete(header);
                }
                Err(error) => {
                    log::error!("{name}: no snapshot: {error}");
                    machine.note_failure();
                }
            }
        })?;
        machine.joins(writer);
        Ok(())
    }
}

fn ranges(memory: &Memory<PhysicalMemory>) -> Vec<Range> {
    let slots = memory.mmu().slots();
    let range =
        |slot: &mmu::Slot| Range { start: slot.gfns().start().base().as_u64(), bytes: slot.hvas().len() };
    slots.iter().map(range).collect()
}

fn processors(starts: &[Start]) -> Vec<snapshot::Processor> {
    let saved = |start: &Start| match start {
        Start::Resume(state) => Some(state.save()),
        Start::Entry(_) | Start::Reset => None,
    };
    starts.iter().filter_map(saved).collect()
}

/// Writes memory, or what of it is not on the disk, and what belongs to it; the header that the file has then.
fn write(
    machine: &Machine,
    memory: &Memory<PhysicalMemory>,
    part: &Part,
    copy: &oom::Copy,
    (described, board): (&snapshot::Machine, &[u8]),
) -> Result<Header, SnapshotError> {
    let (out, chain) = (Pages::new(machine.host, part.queue())?, part.chain());
    let mut writer = match chain.newest() {
        None => Writer::new(out, described.memory() >> PAGE_SHIFT),
        Some(base) => Writer::behind(out, base)?,
    };
    let which = chain.wanted().map_or(Which::Used, Which::Changed);
    let mut digest = Digest::default();
    for_each_page(memory, which, Behind::Discarded, |index, page| {
        if copy.is_wanted() {
            return Err(SnapshotError::GivenUp);
        }
        if let Some(checksum) = writer.page(index, page)? {
            digest.add_sum(index, checksum);
        }
        Ok(())
    })?;
    let (seen, written) = (described.digest, digest.value());
    // Of a part that has not all of memory, whoever restores it sees whether it is right.
    if let Some(seen) = seen.filter(|&seen| chain.newest().is_none() && seen != written) {
        return Err(SnapshotError::Oracle { written, seen });
    }
    writer.finish(described, board)
}

/// What becomes of pages that were looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// They stay.
    Kept,
    /// Nobody wants them any more.
    Discarded,
}

/// Which pages are looked at.
#[derive(Clone, Copy)]
enum Which<'a> {
    /// Those that may hold something.
    Used,
    /// These.
    Changed(&'a PageMap),
}

impl Which<'_> {
    /// The first one in a range, whose first page has this number.
    fn next(self, space: &AddressSpace<PhysicalMemory>, range: HvaRange, number: u64) -> Option<Hva> {
        match self {
            Self::Used => space.next_used(range),
            Self::Changed(map) => {
                let bytes = (map.next(number)? - number) << PAGE_SHIFT;
                (bytes < range.len()).then(|| range.start().add(bytes))
            }
        }
    }
}

/// The oracle's digest of a guest's memory, which nobody changes.
///
/// # Errors
/// A page cannot be had.
pub(super) fn digest(memory: &Memory<PhysicalMemory>, behind: Behind) -> Result<u64, SnapshotError> {
    let mut digest = Digest::default();
    for_each_page(memory, Which::Used, behind, |index, page| {
        digest.add(index, page);
        Ok(())
    })?;
    Ok(digest.value())
}

/// Looks at pages in order.
fn for_each_page(
    memory: &Memory<PhysicalMemory>,
    which: Which<'_>,
    behind: Behind,
    mut look: impl FnMut(u64, &Page) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let space = memory.space();
    let mut page = empty_page();
    let mut before = 0;
    for slot in memory.mmu().slots() {
        let hvas = slot.hvas();
        let number = |hva: Hva| before + ((hva.as_u64() - hvas.start().as_u64()) >> PAGE_SHIFT);
        let (mut next, mut kept) = (hvas.start(), hvas.start());
        while let Some(found) = which.next(space, HvaRange::new(next, hvas.end()), number(next)) {
            let done = found.align_down(PageSize::Size2M);
            if behind == Behind::Discarded && done > kept {
                discard(memory, kept, done);
                kept = done;
            }
            uaccess::copy_from(space, found, &mut page[..]).map_err(SnapshotError::Page)?;
            look(number(found), &page)?;
            next = found.add(PAGE_SIZE);
            if sched::turn() == Turn::Over {
                sched::yield_now();
            }
        }
        if behind == Behind::Discarded {
            discard(memory, kept, hvas.end());
        }
        before += hvas.len() >> PAGE_SHIFT;
    }
    Ok(())
}

/// The copy's pages go, whoever else has them. What cannot go stays until the copy goes.
fn discard(memory: &Memory<PhysicalMemory>, start: Hva, end: Hva) {
    let _ = memory.space().discard(start, HvaRange::new(start, end).len());
}

/// Pages of the file, on their way to the disk, as many at a time as it takes.
struct Pages {
    host: Arc<PhysicalMemory>,
    queue: Arc<DiskQueue>,
    frames: Vec<Pfn>,
    /// The first page that waits, and how many do.
    first: u64,
    waiting: usize,
}

impl Pages {
    fn new(host: &Arc<PhysicalMemory>, queue: &Arc<DiskQueue>) -> Result<Self, OutOfFrames> {
        let (host, queue) = (Arc::clone(host), Arc::clone(queue));
        let mut pages = Self { host, queue, frames: Vec::new(), first: 0, waiting: 0 };
        for _ in 0..MOST_PAGES {
            pages.frames.push(pages.host.allocate_zeroed(PageSize::Size4K)?);
        }
        Ok(pages)
    }

    fn send(&mut self) -> Result<(), BlockError> {
        let waiting = core::mem::take(&mut self.waiting);
        if waiting == 0 { Ok(()) } else { self.queue.write(self.first, &self.frames[..waiting]) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.frames.iter().for_each(|&frame| self.host.free(frame));
    }
}

impl Sink for Pages {
    type Error = SnapshotError;

    fn write(&mut self, page: u64, bytes: &Page) -> Result<(), SnapshotError> {
        if page >= self.queue.blocks() {
            return Err(SnapshotError::Full { pages: self.queue.blocks() });
        }
        if self.waiting == MOST_PAGES || page != self.first + self.waiting as u64 {
            self.send()?;
        }
        if self.waiting == 0 {
            self.first = page;
        }
        self.host.write_bytes(self.frames[self.waiting], 0, bytes);
        self.waiting += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        self.send()?;
        Ok(self.queue.flush()?)
    }
}
