//! What the machine, the oracle and the bench can find wrong. Each carries what a reader needs to see why.

use crate::machine::{Cached, Kind, Sight};
use addr::{Gfn, Hva, HvaRange, PageSize, Pfn};
use mmu::{DeviceEntry, Incoherence};

/// A rule that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Violation {
    /// A CPU walked a table that had been retired: it was still in a paging-structure cache, or still linked.
    DeadTableWalked { cpu: usize, root: Pfn, address: u64, table: Pfn },
    /// A CPU reached a frame that had been retired.
    DeadFrameTouched { cpu: usize, address: u64, frame: Pfn },
    /// The program copied a frame that had been retired: whoever copies has to hold it.
    DeadFrameCopied { frame: Pfn },
    /// A CPU met an entry with reserved bits set.
    MalformedEntry { cpu: usize, address: u64, level: u8, bits: u64 },
    /// A frame was retired while a CPU could still translate to it (I6).
    FreedWhileTranslated { cpu: usize, kind: Kind, root: Pfn, page: u64, cached: Cached },
    /// A table was retired while a CPU could still walk it (I11).
    FreedWhileWalkable { cpu: usize, table: Pfn },
    /// A device's access reached a frame that had been retired.
    DeviceTouchedDead { frame: Pfn },
    /// A frame was retired while a device's TLB still held it (I6).
    FreedWhileInDevice { entry: DeviceEntry },
    /// In the middle of an operation, a CPU could have seen a mapping that was neither the old nor the new one.
    Torn { kind: Kind, root: Pfn, page: u64, old: Option<Sight>, seen: Sight, now: Option<Sight> },
    /// In the middle of an operation, a CPU could have reached a frame that is nobody's.
    DeadFrameSeen { kind: Kind, root: Pfn, page: u64, frame: Pfn },
    /// The program used a frame as a table that is none, or not any more.
    NotATable { table: Pfn },

    /// The product's own oracle.
    Incoherent(Incoherence),
    /// A table is linked twice.
    TableShared { table: Pfn },
    /// A shared table does not know how many entries name it.
    Shares { table: Pfn, told: u32, named: u32 },
    /// A table is linked that has been retired, or never was one.
    TableDead { root: Pfn, table: Pfn },
    /// Tables are allocated that no walk reaches.
    TablesLeaked { tables: Vec<Pfn> },
    /// An entry, read as hardware reads it, is none.
    BadEntry { root: Pfn, address: u64, bits: u64 },
    /// A primary entry maps a frame that is not allocated.
    PrimaryDead { hva: Hva, frame: Pfn },
    /// A primary entry lies outside every area, or is not the size of its area's pages.
    OutsideAreas { hva: Hva, size: PageSize },
    /// A primary entry allows more than its area, or keeps from it what it should allow.
    RightsDiffer { hva: Hva, present: bool, write: bool },
    /// Two areas overlap, touch page fractions, or are equal neighbours.
    AreasWrong { range: HvaRange },
    /// A primary entry allows stores to a frame that others have, or whose stores nobody would notice (I7).
    WritableShared { hva: Hva, frame: Pfn },
    /// A frame has not as many references as primary entries and caches that hold it.
    References { frame: Pfn, entries: u32, count: u32 },
    /// A frame in the swap cache does not know its slot, or shares it.
    SwapCacheWrong { frame: Pfn, slot: Option<u64> },
    /// Swap slots are in use that nobody names, or the other way round.
    SlotsLeaked { used: u64, named: u64 },
    /// A note in an entry where no area can have one.
    NoteOutsideAreas { hva: Hva },
    /// A swap slot does not know how many entries name it.
    SwapNotes { slot: u64, told: u32, named: u32 },
    /// A frame that counts as one space's alone has several entries, or is named by a note.
    ExclusiveShared { frame: Pfn, entries: u32 },
    /// The frame's reverse map does not find an entry that maps it.
    Unfindable { hva: Hva, frame: Pfn },
    /// The address space miscounts its frames.
    Resident { counted: u64, told: u64 },
    /// The address space miscounts its pages in swap.
    Swapped { counted: u64, told: u64 },
    /// Frames are allocated that nobody owns, or the other way round.
    FramesLeaked { used: u64, owned: u64 },
    /// A secondary entry where there is no RAM.
    NoSlot { gfn: Gfn, frame: Pfn },
    /// A secondary entry maps another frame than the primary one, or one that the primary does not allow.
    SecondaryDiffers { gfn: Gfn, hva: Hva, frame: Pfn, primary: Option<Pfn> },
    /// A secondary entry allows stores that the primary one refuses.
    SecondaryWritable { gfn: Gfn, hva: Hva },
    /// A secondary entry allows stores to a frame that counts as clean (I7).
    SecondaryClean { gfn: Gfn, frame: Pfn },
    /// A device TLB's entry maps another frame than the primary one, or one that the primary does not allow.
    DeviceDiffers { entry: DeviceEntry, primary: Option<Pfn> },
    /// A device TLB's entry allows stores that the primary one refuses.
    DeviceWritable { entry: DeviceEntry },
    /// A device TLB's entry allows stores to a frame that counts as clean (I7).
    DeviceClean { entry: DeviceEntry },
    /// A CPU holds a translation that the tables do not, or one that allows more.
    Stale { cpu: usize, kind: Kind, root: Pfn, page: u64, cached: Cached, now: Option<Pfn> },
    /// A CPU holds a translation for an entry whose A bit is clear: the next use would not set it (I12).
    Unaged { cpu: usize, kind: Kind, root: Pfn, page: u64 },
    /// A CPU holds a table pointer that the tables do not.
    StaleStructure { cpu: usize, kind: Kind, root: Pfn, level: u8, table: Pfn },
    /// A CPU holds something from tables that nobody owns.
    UnknownRoot { cpu: usize, kind: Kind, root: Pfn },

    /// A word reads other than it was last written.
    Content { what: String, expected: u64, found: u64 },
    /// An operation answered other than it should.
    Answer { what: String, expected: String, found: String },
}
