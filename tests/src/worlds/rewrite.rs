//! Guests that change their own tables, and flush where the architecture asks for it.
//!
//! ```text
//!   store to an entry ─┬─ nothing was mapped there: nobody has to flush (SDM vol. 3A 4.10.4.3)
//!                      └─ else INVLPG or MOV to CR3 here at once; on the other CPUs before they next use the tables
//! ```
//!
//! So what an address leads to is known at each access, and what CPUs have cached meanwhile is as old as it may be.

use super::paging::{ENTRY, LARGE, SMALL_PAGES};
use super::{TABLES, World};
use crate::Violation;
use crate::lab::Verdict;
use crate::machine::GuestMode;
use addr::{Gfn, PageSize};
use mm::CpuIndex;
use std::collections::{BTreeMap, BTreeSet};

/// The first of the pages that a guest maps by entries of 4 KiB, and how many.
pub const IN_SMALL: (u64, u64) = (SMALL_PAGES as u64 * PageSize::Size2M.base_pages(), 512);
/// Where the directory and the page table lie among [`TABLES`].
const DIRECTORY: u64 = TABLES.0 + 2;
const PAGE_TABLE: u64 = TABLES.0 + 3;

/// A change to a guest's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rewrite {
    /// An entry of 4 KiB leads elsewhere, or nowhere.
    Page {
        /// The page, counted from the first of [`IN_SMALL`].
        index: u16,
        /// The guest frame that it leads to.
        to: Option<u64>,
        /// INVLPG, not MOV to CR3.
        alone: bool,
    },
    /// The directory's entry becomes one of 2 MiB, or one for the page table again.
    Size {
        /// One of 2 MiB.
        large: bool,
    },
}

/// What a guest's tables map, where that is not the frame of the same number.
#[derive(Clone, Debug, Default)]
pub(super) struct Maps {
    large: bool,
    pages: BTreeMap<u16, Option<u64>>,
    /// CPUs that have to flush before they next use them.
    owing: BTreeSet<usize>,
}

impl Maps {
    /// Those of a child: nobody has used them.
    pub(super) fn inherited(&self) -> Self {
        Self { owing: BTreeSet::new(), ..self.clone() }
    }

    fn entry(&self, index: u16) -> Option<u64> {
        self.pages.get(&index).copied().unwrap_or(Some(IN_SMALL.0 + u64::from(index)))
    }

    fn find(&self, gfn: u64) -> Option<u64> {
        let index = gfn.checked_sub(IN_SMALL.0).filter(|index| !self.large && *index < IN_SMALL.1);
        index.map_or(Some(gfn), |index| self.entry(index as u16))
    }
}

impl World {
    /// The guest frame that a guest's tables lead to from a page; `None`: nowhere.
    pub(super) fn mapped(&self, id: usize, page: u64) -> Option<u64> {
        self.living(id).tables.as_ref().map_or(Some(page), |maps| maps.find(page))
    }

    /// The guest changes an entry of its tables, by these.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn rewrite(&mut self, id: usize, cpu: CpuIndex, what: Rewrite) -> Result<Verdict, Violation> {
        let (at, entry) = match what {
            Rewrite::Page { index, to, .. } => {
                let entry = to.map_or(0, |to| Gfn::new(to).base().as_u64() | ENTRY);
                ((PAGE_TABLE, index), entry)
            }
            Rewrite::Size { large: true } => {
                ((DIRECTORY, SMALL_PAGES), Gfn::new(IN_SMALL.0).base().as_u64() | ENTRY | LARGE)
            }
            Rewrite::Size { large: false } => {
                ((DIRECTORY, SMALL_PAGES), Gfn::new(PAGE_TABLE).base().as_u64() | ENTRY)
            }
        };
        let stored = self.guest_store_linear(id, cpu, at, entry)?;
        let tables = self.spaces[id].as_mut().and_then(|living| living.tables.as_mut());
        let (Verdict::Done, Some(maps)) = (stored, tables) else { return Ok(stored) };
        let flushed = match what {
            Rewrite::Page { index, to, alone } => {
                let was_mapped = maps.entry(index).is_some();
                maps.pages.insert(index, to);
                was_mapped.then_some(alone.then_some(IN_SMALL.0 + u64::from(index)))
            }
            Rewrite::Size { large } => {
                maps.large = large;
                Some(None)
            }
        };
        if let Some(page) = flushed {
            maps.owing.extend(self.machine.cpus().map(|cpu| cpu.0).filter(|&other| other != cpu.0));
            self.guest_flush(id, cpu, page);
        }
        self.judged(|| format!("{what:?} in {id}"), &[Verdict::Done], Verdict::Done)
    }

    /// A CPU that is about to use a guest's tables flushes what it owes.
    pub(super) fn flush_owed(&mut self, id: usize, cpu: CpuIndex) {
        let tables = self.spaces[id].as_mut().and_then(|living| living.tables.as_mut());
        if tables.is_some_and(|maps| maps.owing.remove(&cpu.0)) && self.enter_guest(id, cpu, GuestMode::Long)
        {
            self.guest_flush(id, cpu, None);
        }
    }
}
