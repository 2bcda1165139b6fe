//! One table of a shadow, what it stands for, and what belongs to its entries.

use super::origin::Origin;
use super::rmap::{Link, Place};
use addr::{Gfn, Pfn};
use alloc::boxed::Box;
use alloc::vec::Vec;
use mm::Host;
use paging::OutOfTables;

pub(super) const ENTRIES: usize = 512;

/// Bytes of the heap that shadows do not grow into: who needs those cannot do with less.
const LEFT_TO_OTHERS: usize = 1 << 20;

/// Whether the guest's table is known to say what the shadow's was derived from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sync {
    /// It is: no leaf lets a processor write it.
    Kept,
    /// It may have been written, and has a place in the list of those. The next flush looks at it.
    Lost,
}

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) frame: Pfn,
    /// `None`: it is unused.
    pub(super) origin: Option<Origin>,
    /// The first entry that names it.
    pub(super) parents: Option<Place>,
    /// The number of tables that were taken until it was.
    pub(super) born: u64,
    /// It has been a root, and stays without a parent.
    pub(super) is_root: bool,
    pub(super) sync: Sync,
    /// A fault has gone through it since it was last looked at.
    pub(super) used: bool,
    /// How often in a row it was written, and not used.
    pub(super) floods: u8,
    /// The last stay of a PCID in which an entry was derived.
    pub(super) since: u64,
    /// The next table in its bucket of the index.
    pub(super) next: Option<u16>,
    /// Entries that are not empty.
    present: [u64; ENTRIES / 64],
    links: Box<[Link; ENTRIES]>,
}

impl Table {
    /// An unused one.
    pub(super) fn new(Unused { frame, links }: Unused) -> Self {
        Self {
            frame,
            origin: None,
            parents: None,
            born: 0,
            is_root: false,
            sync: Sync::Kept,
            used: false,
            floods: 0,
            since: 0,
            next: None,
            present: [0; ENTRIES / 64],
            links,
        }
    }

    pub(super) const fn link(&self, index: u16) -> Link {
        self.links[index as usize]
    }

    pub(super) const fn link_mut(&mut self, index: u16) -> &mut Link {
        &mut self.links[index as usize]
    }

    pub(super) const fn note_present(&mut self, index: u16) {
        self.present[index as usize / 64] |= 1 << (index % 64);
    }

    pub(super) const fn note_empty(&mut self, index: u16) {
        self.present[index as usize / 64] &= !(1 << (index % 64));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present == [0; ENTRIES / 64]
    }

    /// The entries that are not empty by now.
    pub(super) fn present(&self) -> impl Iterator<Item = u16> + use<> {
        let words = self.present;
        words.into_iter().zip((0..).step_by(64)).flat_map(|(word, first)| {
            let rest = |bits: &u64| Some(bits & (bits - 1)).filter(|&bits| bits != 0);
            core::iter::successors(Some(word).filter(|&bits| bits != 0), rest)
                .map(move |bits| first + bits.trailing_zeros() as u16)
        })
    }

    /// The guest's table that it stands for, if it stands for one.
    pub(super) fn guest_table(&self) -> Option<Gfn> {
        self.origin.filter(Origin::is_table).map(|origin| origin.gfn)
    }
}

/// A table that is in no shadow.
#[derive(Debug)]
pub(crate) struct Unused {
    pub(super) frame: Pfn,
    links: Box<[Link; ENTRIES]>,
}

impl Unused {
    /// # Errors
    /// [`OutOfTables`].
    pub(crate) fn new<H: Host>(host: &H) -> Result<Self, OutOfTables> {
        let mut links = Vec::new();
        links.try_reserve_exact(ENTRIES).map_err(|_| OutOfTables)?;
        links.resize(ENTRIES, Link::default());
        let links = links.into_boxed_slice().try_into().map_err(|_| OutOfTables)?;
        Ok(Self { frame: host.allocate_table()?, links })
    }

    /// One more, of what is left where others have enough of the heap: a guest says how many tables its shadow wants.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(crate) fn of_plenty<H: Host>(host: &H) -> Result<Self, OutOfTables> {
        let mut left = Vec::<u8>::new();
        left.try_reserve_exact(LEFT_TO_OTHERS).map_err(|_| OutOfTables)?;
        // Nobody looks at it, and it has to be there all the same.
        core::hint::black_box(&mut left);
        drop(left);
        Self::new(host)
    }
}
