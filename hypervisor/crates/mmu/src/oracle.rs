//! The coherence rule as code: every present secondary entry maps the frame that the primary entry maps, with
//! no more permission. Run it where no operation is under way.

use crate::device_tlb::DeviceEntry;
use crate::dirty_log::{LogBy, Logs};
use crate::secondary::{Locked, SecondaryMmu};
use crate::shadow::{self, Shadow, ShadowLeaf};
use crate::tdp::resize;
use addr::{Gfn, Hva, PageSize, Pfn};
use alloc::vec::Vec;
use core::fmt;
use mm::{Host, Mapping};
use paging::{Cursor, EptEntry, Leaf};

/// A secondary entry that breaks the rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoherence {
    /// It maps a guest frame that is no RAM.
    NoSlot {
        /// The guest frame.
        gfn: Gfn,
        /// What is mapped there.
        entry: Leaf,
    },
    /// It maps what the primary tables do not, or more of it than they do.
    Differs {
        /// The guest frame.
        gfn: Gfn,
        /// Its host address.
        hva: Hva,
        /// What is mapped there.
        entry: Leaf,
        /// What the primary tables map.
        primary: Option<Mapping>,
    },
    /// It maps a frame that is free.
    FreeFrame {
        /// The guest frame.
        gfn: Gfn,
        /// The frame.
        pfn: Pfn,
    },
    /// It is writable, but nobody will write the frame back.
    WritableClean {
        /// The guest frame.
        gfn: Gfn,
        /// The frame.
        pfn: Pfn,
    },
    /// It is writable, or no base page, and the dirty log of its slot does not have it.
    Unlogged {
        /// The guest frame.
        gfn: Gfn,
        /// What is mapped there.
        entry: Leaf,
    },
    /// A leaf of a shadow does not stand on one of the MMU, or allows more than that.
    Groundless {
        /// The guest frame.
        gfn: Gfn,
        /// What the shadow maps.
        entry: ShadowLeaf,
        /// What the MMU maps there.
        ground: Option<Leaf>,
    },
    /// A leaf of a shadow that the chain of its guest frame does not have.
    Unchained {
        /// The guest frame.
        gfn: Gfn,
        /// What the shadow maps.
        entry: ShadowLeaf,
    },
    /// A table of a shadow has something that the guest's table does not say, or not any more, and nothing tells the shadow.
    Unfaithful {
        /// Where the guest's table lies.
        gfn: Gfn,
        /// The entry of the shadow's.
        index: u16,
        /// What the guest's says there; `None`: it is nowhere.
        entry: Option<u64>,
    },
    /// A processor may write a guest's table, and its shadow would not hear of it.
    Unprotected {
        /// Where the guest's table lies.
        gfn: Gfn,
    },
    /// A device TLB's entry maps what the primary tables do not, or allows more than they do.
    DeviceDiffers {
        /// The entry.
        entry: DeviceEntry,
        /// What the primary tables map.
        primary: Option<Mapping>,
    },
    /// A device TLB's entry maps a frame that is free.
    DeviceFreeFrame {
        /// The entry.
        entry: DeviceEntry,
    },
    /// A device TLB's entry is writable, but nobody will write the frame back.
    DeviceWritableClean {
        /// The entry.
        entry: DeviceEntry,
    },
}

impl fmt::Display for Incoherence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlot { gfn, entry } => write!(f, "{gfn} is no RAM but maps {entry:?}"),
            Self::Differs { gfn, hva, entry, primary } => {
                write!(f, "{gfn} maps {entry:?} but {hva} maps {primary:?}: missing notifier call, or a race")
            }
            Self::FreeFrame { gfn, pfn } => write!(f, "{gfn} maps the free frame {pfn}"),
            Self::WritableClean { gfn, pfn } => write!(f, "{gfn} maps the clean frame {pfn} writable (I7)"),
            Self::Unlogged { gfn, entry } => write!(f, "{gfn} maps {entry:?}, and the log does not know it"),
            Self::Groundless { gfn, entry, ground } => {
                write!(f, "a shadow maps {entry:?} for {gfn}, but {ground:?} is mapped")
            }
            Self::Unchained { gfn, entry } => {
                write!(f, "a shadow maps {entry:?} for {gfn}, which its reverse map does not know")
            }
            Self::Unfaithful { gfn, index, entry } => {
                write!(f, "a shadow has entry {index} of the table in {gfn}, which says {entry:x?}")
            }
            Self::Unprotected { gfn } => {
                write!(f, "the table in {gfn} may be written, and a shadow relies on it")
            }
            Self::DeviceDiffers { entry, primary } => {
                write!(
                    f,
                    "{entry:?} of a device, but {primary:?} is mapped: missing notifier call, or a race"
                )
            }
            Self::DeviceFreeFrame { entry } => write!(f, "{entry:?} of a device maps a free frame"),
            Self::DeviceWritableClean { entry } => {
                write!(f, "{entry:?} of a device lets a clean frame be written (I7)")
            }
        }
    }
}

impl<H: Host> SecondaryMmu<H> {
    /// Checks every present entry; returns how many there are.
    ///
    /// # Errors
    /// The first [`Incoherence`].
    pub fn check_coherence(&self) -> Result<u64, Incoherence> {
        let slots = self.slots.read();
        // Exclusive: no fault changes the tables meanwhile.
        let locked = self.locked.write();
        let mut checked = self.check_shadows(&locked)?;
        let Some(tdp) = locked.tdp else { return Ok(checked) };
        let logs = self.logs.read();
        for visit in Cursor::<H, EptEntry>::new(&self.host, tdp.root, 0, 1 << 48) {
            let Some(entry) = visit.found.leaf() else { continue };
            let gfn = addr::Gpa::new(visit.address).gfn();
            let slot = slots.find(gfn).ok_or(Incoherence::NoSlot { gfn, entry })?;
            self.check_leaf(gfn, slot.hva_of(gfn), entry)?;
            if misses(&logs, gfn, &entry) {
                return Err(Incoherence::Unlogged { gfn, entry });
            }
            checked += 1;
        }
        Ok(checked)
    }

    /// Every leaf of a shadow stands on a leaf, with the same frame and no more rights, and is found by its guest frame. What a shadow keeps
    /// of a guest's table is what that says.
    fn check_shadows(&self, locked: &Locked) -> Result<u64, Incoherence> {
        let mut checked = 0;
        for (gfn, entry, chained) in locked.shadows.iter().flat_map(|shadow| shadow.leaves(&*self.host)) {
            if !chained {
                return Err(Incoherence::Unchained { gfn, entry });
            }
            let ground = locked.tdp.and_then(|tdp| tdp.whole_ground(&*self.host, gfn));
            let carries = |leaf: Leaf| {
                let same = resize(leaf, gfn, entry.size).pfn == entry.pfn && leaf.size >= entry.size;
                same && (leaf.rights.write || !entry.write)
            };
            if !ground.is_some_and(carries) {
                return Err(Incoherence::Groundless { gfn, entry, ground });
            }
            checked += 1;
        }
        if let Some(gfn) = shadow::unprotected(&*self.host, &locked.shadows) {
            return Err(Incoherence::Unprotected { gfn });
        }
        let ground = |gfn| Some(locked.tdp?.ground(&*self.host, gfn)?.pfn);
        match shadow::unfaithful(&*self.host, &locked.shadows, ground) {
            Some((gfn, index, entry)) => Err(Incoherence::Unfaithful { gfn, index, entry }),
            None => Ok(checked),
        }
    }

    fn check_leaf(&self, gfn: Gfn, hva: Hva, entry: Leaf) -> Result<(), Incoherence> {
        let primary = self.space.lookup(hva);
        let coherent = primary.is_some_and(|primary| {
            let offset = hva.offset_in(primary.size) >> addr::PAGE_SHIFT;
            primary.pfn.add(offset) == entry.pfn
                && entry.size <= primary.size
                && (primary.writable || !entry.rights.write)
        });
        if !coherent {
            return Err(Incoherence::Differs { gfn, hva, entry, primary });
        }
        let frames = self.host.frames();
        let head = primary.map_or(entry.pfn, |primary| primary.pfn);
        // An execute-in-place store's own frame: nobody frees it, nobody writes it back.
        let Some(meta) = self.space.mm().counted(head) else {
            return if frames.is_free(head) {
                Err(Incoherence::FreeFrame { gfn, pfn: head })
            } else {
                Ok(())
            };
        };
        for index in 0..entry.size.base_pages() {
            let pfn = entry.pfn.add(index);
            if frames.is_free(pfn) {
                return Err(Incoherence::FreeFrame { gfn, pfn });
            }
        }
        if entry.rights.write && !meta.is_dirty() {
            return Err(Incoherence::WritableClean { gfn, pfn: head });
        }
        Ok(())
    }

    /// Tables that wait for their next use.
    pub fn spare_tables(&self) -> Vec<Pfn> {
        self.locked.read().spare.all(&*self.host)
    }

    /// Frames that the shadows are made of.
    pub fn shadow_frames(&self) -> Vec<Pfn> {
        self.locked.read().shadows.iter().flat_map(Shadow::frames).collect()
    }

    /// Guest frames that have an entry of their own size, for reports.
    pub fn mapped(&self) -> u64 {
        let locked = self.locked.read();
        let Some(tdp) = locked.tdp else { return 0 };
        Cursor::<H, EptEntry>::new(&self.host, tdp.root, 0, 1 << 48)
            .filter_map(|visit| visit.found.leaf())
            .map(|leaf| leaf.size.bytes() / PageSize::Size4K.bytes())
            .sum()
    }
}

/// Whether writes through a leaf would go unnoticed. What a processor has yet to tell of cannot be seen here.
fn misses(logs: &Logs, gfn: Gfn, entry: &Leaf) -> bool {
    let Some(log) = logs.find(gfn) else { return false };
    let writable = entry.rights.write && log.by() == LogBy::WriteFault;
    entry.size != PageSize::Size4K || writable && !log.has(gfn)
}
