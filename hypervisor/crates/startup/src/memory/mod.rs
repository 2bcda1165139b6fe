//! The plan of the machine's memory: what becomes tables, heap and frames, before there is an allocator.
//!
//! ```text
//!   usable pages ─┬─ beyond what can be numbered or mapped, or too far away for what they hold ─► left out, with a warning
//!                 ├─ reserved: loader's, image, package, hand-off ─► mapped
//!                 ├─ tables   below 4 GiB, where the loader's identity map reaches
//!                 ├─ heap     anywhere: metadata of every frame, and what Herald itself needs
//!                 └─ frames   all the rest
//! ```
//!
//! **What is mapped.** The direct map has the usable pages and nothing else: not a device's registers, which no processor
//! may fetch by speculation through a cacheable mapping, and no firmware's memory. Of pages that firmware has kept
//! ([`firmware_pages`]: types 2 to 4, ACPI 6.5 table 15.1, and the first MiB, where a BIOS leaves tables without saying so) Herald
//! maps those that it reads, for reading, one by one. Their memory type is what firmware's MTRRs say: with a PAT type of WB
//! the MTRR's holds, so what firmware made UC stays UC (SDM vol. 3A table 12-7).
//!
//! **Sparse memory.** Metadata is an array from frame 0 on. Where memory lies so far up that the array would cost
//! more than [`FAIR_PART`] of all memory, the highest ranges are left out until it does not.

mod pages;
#[cfg(test)]
mod tests;

use abi::handoff::{MAX_REGIONS, REGION_USABLE, Region};
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PAGE_SHIFT, PAGE_SIZE, PageSize};
use core::fmt;

pub use pages::{pages_of, tables_for};

/// Metadata may take one part in so many of the memory that it describes.
pub const FAIR_PART: u64 = 8;
/// Least heap beside the metadata, in bytes.
pub const LEAST_HEAP: u64 = 4 << 20;
/// Ranges that can be reserved.
pub const MAX_RESERVED: usize = 64;
/// The heap's part of all memory, where that is more.
const HEAP_PART: u64 = 64;

/// Reserved by firmware, ACPI tables, memory that firmware keeps over sleep (ACPI 6.5 table 15.1).
const FIRMWARE: [u32; 3] = [2, 3, 4];
/// Interrupt vectors, the BIOS's data and its code.
const FIRST_MIB: Region = Region { start: 0, len: 1 << 20, kind: 2, reserved: 0 };

/// What the plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The memory map, as firmware has it.
    pub regions: &'a [Region],
    /// What is in use already.
    pub reserved: &'a [HpaRange],
    /// What the rest of Herald can do.
    pub limits: Limits,
}

/// What the rest of Herald can do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// End of what can be reached before there are tables.
    pub reached: Hpa,
    /// Bytes from address 0 that the direct map can hold.
    pub direct_map: u64,
    /// Frames from 0 on that can be numbered.
    pub frames: u64,
    /// Bytes of metadata for each frame.
    pub frame_meta: u64,
    /// Tables for what is mapped beside the direct map.
    pub other_tables: u64,
    /// The largest pages that the processor's tables can have.
    pub largest_page: PageSize,
}

/// Where everything goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For tables: below [`Limits::reached`].
    pub tables: HpaRange,
    /// For the heap.
    pub heap: HpaRange,
    /// Frames from 0 on that get metadata.
    pub frames: u64,
    /// What the direct map maps, for reading and writing.
    pub mapped: MemoryMap,
    /// What goes to the allocator of frames.
    pub free: MemoryMap,
    /// Memory that is not used.
    pub left_out: [Option<LeftOut>; 2],
}

/// Memory that is there and is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// It lies at or above this address.
    pub above: Hpa,
    /// How much it is.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// Why memory is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Herald maps or numbers no memory behind this address.
    Limit(Hpa),
    /// Metadata up to its end would take so many bytes.
    Sparse(u64),
    /// Below it is no room for the tables or the metadata that it needs.
    NoRoom,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(f, "{} MiB of memory from {} on are left unused: ", mib(self.bytes), self.above)?;
        match self.why {
            Why::Limit(limit) => write!(f, "Herald uses none beyond {limit}"),
            Why::Sparse(cost) => {
                write!(f, "bookkeeping would take {} MiB, more than 1/{FAIR_PART} of all memory", mib(cost))
            }
            Why::NoRoom => f.write_str("no room below for its tables and bookkeeping"),
        }
    }
}

/// Why there is no plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanError {
    /// More than [`MAX_REGIONS`] regions, or more than [`MAX_RESERVED`] ranges reserved.
    TooMany {
        /// Regions.
        regions: usize,
        /// Ranges reserved.
        reserved: usize,
    },
    /// The memory map has no usable page that is free.
    NoMemory,
    /// No range is large enough, whatever is left out.
    NoRoom {
        /// Bytes of tables wanted, for the least memory.
        tables: u64,
        /// Bytes of heap wanted.
        heap: u64,
        /// Where tables must lie.
        reached: Hpa,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { regions, reserved } => write!(
                f,
                "{regions} memory regions and {reserved} reserved ranges, at most {MAX_REGIONS} and {MAX_RESERVED} allowed"
            ),
            Self::NoMemory => f.write_str("the memory map has no usable memory"),
            Self::NoRoom { tables, heap, reached } => write!(
                f,
                "not enough memory for Herald itself: {tables} bytes in one piece below {reached}, and {heap} anywhere"
            ),
        }
    }
}

impl core::error::Error for PlanError {}

impl Request<'_> {
    /// Makes the plan. It is made on the first stack, before there is a heap: a map of memory is 4 KiB, so there are
    /// two of them and no more.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan(&self) -> Result<Plan, PlanError> {
        // So that no map below is ever full, and none forgets a range that another has.
        let (regions, reserved) = (self.regions.len(), self.reserved.len());
        if regions > MAX_REGIONS || reserved > MAX_RESERVED {
            return Err(PlanError::TooMany { regions, reserved });
        }
        let mut draft =
            Draft { request: self, usable: MemoryMap::new(self.regions), free: MemoryMap::default() };
        let beyond_limit = self.cut_at_limit(&mut draft.usable);
        draft.free.clone_from(&draft.usable);
        self.reserved.iter().for_each(|range| draft.free.reserve(*range));
        let (end, own) = draft.choose()?;
        let left_out = [beyond_limit, draft.left_out(end)];
        draft.leave_out(end);
        let Draft { usable: mapped, mut free, .. } = draft;
        free.reserve(own.tables);
        free.reserve(own.heap);
        Ok(Plan { tables: own.tables, heap: own.heap, frames: own.frames, mapped, free, left_out })
    }

    /// The first address that no frame and no mapping can have.
    fn limit(&self) -> Hpa {
        let bytes = self.limits.frames.saturating_mul(PAGE_SIZE).min(self.limits.direct_map);
        Hpa::try_new(bytes).unwrap_or(Hpa::new((1 << 52) - PAGE_SIZE)).align_down(PageSize::Size4K)
    }

    fn cut_at_limit(&self, usable: &mut MemoryMap) -> Option<LeftOut> {
        let (limit, before) = (self.limit(), usable.len());
        let beyond = usable.ranges().iter().find(|range| range.end() > limit)?;
        let above = beyond.start().max(limit);
        usable.cut(limit);
        Some(LeftOut { above, bytes: before - usable.len(), why: Why::Limit(limit) })
    }
}

/// Ranges of free memory: each region and each reserved range can add one.
const CANDIDATES: usize = MAX_REGIONS + MAX_RESERVED;

/// What Herald keeps for itself.
#[derive(Clone, Copy)]
struct Own {
    tables: HpaRange,
    heap: HpaRange,
    frames: u64,
}

/// A plan that is not yet made up.
struct Draft<'a> {
    request: &'a Request<'a>,
    /// All usable pages within the limits.
    usable: MemoryMap,
    /// Those of them that are not reserved.
    free: MemoryMap,
}

impl Draft<'_> {
    /// Where memory ends that is used, and what Herald keeps of it: as much as is fair, or else as pays most.
    fn choose(&self) -> Result<(Hpa, Own), PlanError> {
        let ends = || self.free.ranges().iter().map(HpaRange::end);
        let mut fair = ends().rev().filter(|&end| self.is_fair(end));
        if let Some(found) = fair.find_map(|end| Some((end, self.place(end)?))) {
            return Ok(found);
        }
        let gain = |end| self.memory(end).saturating_sub(self.metadata(end));
        let mut others: heapless::Vec<(u64, Hpa), CANDIDATES> = ends().map(|end| (gain(end), end)).collect();
        others.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(found) = others.iter().find_map(|&(_, end)| Some((end, self.place(end)?))) {
            return Ok(found);
        }
        let least = ends().next().ok_or(PlanError::NoMemory)?;
        let (tables, heap) = (self.tables(least), self.metadata(least) + LEAST_HEAP);
        Err(PlanError::NoRoom { tables, heap, reached: self.request.limits.reached })
    }

    /// Free memory below `end`.
    fn memory(&self, end: Hpa) -> u64 {
        self.free.ranges().iter().filter(|range| range.end() <= end).map(HpaRange::len).sum()
    }

    /// Frames that get metadata: not what is reserved further up, which is never the allocator's.
    fn frames(end: Hpa) -> u64 {
        end.as_u64() >> PAGE_SHIFT
    }

    /// Bytes of metadata.
    fn metadata(&self, end: Hpa) -> u64 {
        Self::frames(end).saturating_mul(self.request.limits.frame_meta)
    }

    fn is_fair(&self, end: Hpa) -> bool {
        self.metadata(end).saturating_mul(FAIR_PART) <= self.memory(end)
    }

    /// Bytes of tables if memory is used up to `end`: what is reserved is mapped wherever it lies.
    fn tables(&self, end: Hpa) -> u64 {
        let Limits { largest_page, other_tables, .. } = self.request.limits;
        let usable = self.usable.ranges();
        let below = usable.iter().filter_map(|range| range.intersection(&HpaRange::new(Hpa::ZERO, end)));
        let reserved = self.request.reserved.iter().filter(|range| range.end() > end);
        let beyond = reserved.flat_map(|range| usable.iter().filter_map(|usable| usable.intersection(range)));
        let pages = |range: HpaRange| {
            let end = range.end().align_up(PageSize::Size4K).unwrap_or(range.end());
            HpaRange::new(range.start().align_down(PageSize::Size4K), end)
        };
        let beyond: u64 = beyond.map(|range| tables_for([pages(range)], largest_page)).sum();
        (tables_for(below, largest_page) + beyond).saturating_add(other_tables).saturating_mul(PAGE_SIZE)
    }

    /// Takes out what lies above `end`, but for what is reserved there, which stays mapped.
    fn leave_out(&mut self, end: Hpa) {
        for range in self.free.ranges().iter().filter(|range| range.start() >= end) {
            self.usable.reserve(*range);
        }
        self.free.cut(end);
    }

    /// Where tables and heap go if memory is used up to `end`; `None` where there is no room.
    fn place(&self, end: Hpa) -> Option<Own> {
        let reached = self.request.limits.reached.min(end);
        let tables = self.free.highest_fit(self.tables(end), PageSize::Size4K, reached)?;
        let part = LEAST_HEAP.max(self.memory(end) / HEAP_PART);
        let heap = [part, LEAST_HEAP].into_iter().find_map(|bytes| {
            let bytes = self.metadata(end).checked_add(bytes)?.checked_next_multiple_of(PAGE_SIZE)?;
            let highest = self.free.highest_fit(bytes, PageSize::Size4K, end)?;
            // Where that meets the tables, there is nothing above them.
            if highest.overlaps(&tables) {
                self.free.highest_fit(bytes, PageSize::Size4K, tables.start())
            } else {
                Some(highest)
            }
        })?;
        Some(Own { tables, heap, frames: Self::frames(end) })
    }

    /// What lies above the end that was chosen.
    fn left_out(&self, end: Hpa) -> Option<LeftOut> {
        let above = self.free.ranges().iter().find(|range| range.start() >= end)?.start();
        let bytes = self.free.len() - self.memory(end);
        let all = self.free.end();
        let why = if self.is_fair(all) { Why::NoRoom } else { Why::Sparse(self.metadata(all)) };
        Some(LeftOut { above, bytes, why })
    }
}

/// Pages that Herald may read but never uses: what firmware has kept, without anything that is in use by Herald itself.
#[must_use]
pub fn firmware_pages(request: &Request<'_>) -> MemoryMap {
    let kept = request.regions.iter().filter(|region| FIRMWARE.contains(&region.kind));
    let mut pages = MemoryMap::touching(kept.chain([&FIRST_MIB]));
    // Of the first MiB only what the request reserves is sure not to be handed out.
    let mut free = MemoryMap::new(request.regions);
    request.reserved.iter().for_each(|range| free.reserve(*range));
    free.ranges().iter().for_each(|range| pages.reserve(*range));
    let first_mib = Hpa::new(FIRST_MIB.len);
    for range in request.reserved.iter().filter(|range| range.end() > first_mib) {
        pages.reserve(HpaRange::new(range.start().max(first_mib), range.end()));
    }
    pages.cut(Hpa::try_new(request.limits.direct_map).unwrap_or(pages.end()));
    pages
}

/// For a hand-off of numbers: the range, if there is such memory.
#[must_use]
pub fn range_of(start: u64, bytes: u64) -> Option<HpaRange> {
    HpaRange::sized(Hpa::try_new(start)?, bytes)
}

const _: () = assert!(REGION_USABLE == 1, "not among the kinds that firmware keeps");
