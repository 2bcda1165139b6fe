//! Pages that might have equals, by their checksums. There is room for so many; where pages have more checksums than that, they
//! are in classes, of which each has its turn, a pass each: what is equal is of one class.
//!
//! ```text
//!   checksum   |  upper bits: a group of places  | ... |  lower bits: the class  |
//!
//!   pass n:    pages of class n mod 2^k are noted and looked for;   all that come are counted: k of the next pass
//! ```
//!
//! In a group that is full a later page takes the place of one that came before, in each turn another place.

use crate::host::Host;
use crate::space::AddressSpace;
use addr::Hva;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use mutants::{Mutant, intact};

/// Candidates that are kept: one for so many frames of the machine,
const FRAMES_EACH: u64 = 8;
/// but at most 2 to this power, 384 KiB of them.
const MOST_BITS: u32 = 14;
/// Places in a group.
const GROUP: usize = 4;
/// Most classes: a guest may see to it that all its pages are of one.
const MOST_CLASSES: u64 = 1 << 10;

/// A page that might have an equal.
pub(super) struct Candidate<H: Host> {
    space: Weak<AddressSpace<H>>,
    pub(super) address: Hva,
}

impl<H: Host> Candidate<H> {
    pub(super) fn new(space: &Arc<AddressSpace<H>>, address: Hva) -> Self {
        Self { space: Arc::downgrade(space), address }
    }

    /// The space, if it is still there.
    pub(super) fn space(&self) -> Option<Arc<AddressSpace<H>>> {
        self.space.upgrade()
    }
}

struct Noted<H: Host> {
    candidate: Candidate<H>,
    checksum: u32,
    /// Of an earlier pass it is none any more, and its place is free.
    pass: u32,
}

/// All candidates of a pass.
pub(super) struct Candidates<H: Host> {
    /// Empty until there is one.
    places: Vec<Option<Noted<H>>>,
    /// There is room for 2 to this power.
    bits: u32,
    pass: u32,
    /// A power of two.
    classes: u32,
    /// Pages that have come in this pass, of all classes.
    came: u64,
}

impl<H: Host> Candidates<H> {
    /// None, on a machine of so many frames.
    pub(super) fn new(frames: u64) -> Self {
        let bits = (frames / FRAMES_EACH).max(GROUP as u64).ilog2().min(MOST_BITS);
        Self { places: Vec::new(), bits, pass: 0, classes: 1, came: 0 }
    }

    const fn room(&self) -> usize {
        1 << self.bits
    }

    /// A page comes: whether it is the turn of its class.
    pub(super) fn is_turn_of(&mut self, checksum: u32) -> bool {
        self.came += 1;
        (checksum ^ self.pass) & (self.classes - 1) == 0 || !intact(Mutant::MergeHasOneClass)
    }

    /// Takes the next candidate with this checksum out of its group, from a place on, and says where it was.
    pub(super) fn take(&mut self, checksum: u32, from: usize) -> Option<(usize, Candidate<H>)> {
        let pass = self.pass;
        let is_it = |noted: &mut Noted<H>| noted.checksum == checksum && noted.pass == pass;
        let mut places = self.group(checksum).iter_mut().enumerate().skip(from);
        places.find_map(|(at, place)| Some((at, place.take_if(is_it)?.candidate)))
    }

    /// Puts it back.
    pub(super) fn put_back(&mut self, checksum: u32, place: usize, candidate: Candidate<H>) {
        let pass = self.pass;
        if let Some(place) = self.group(checksum).get_mut(place) {
            *place = Some(Noted { candidate, checksum, pass });
        }
    }

    /// One more candidate; others may have its checksum, and other contents.
    pub(super) fn add(&mut self, checksum: u32, candidate: Candidate<H>) {
        if self.places.is_empty() && self.places.try_reserve_exact(self.room()).is_ok() {
            self.places.resize_with(self.room(), || None);
        }
        let (pass, others) = (self.pass, (self.pass / self.classes) as usize % GROUP);
        let group = self.group(checksum);
        let is_taken = |noted: &Noted<H>| noted.pass == pass;
        let free = group.iter().position(|place| !place.as_ref().is_some_and(is_taken));
        if let Some(place) = group.get_mut(free.unwrap_or(others)) {
            *place = Some(Noted { candidate, checksum, pass });
        }
    }

    fn group(&mut self, checksum: u32) -> &mut [Option<Noted<H>>] {
        let first = (checksum >> (u32::BITS - self.bits)) as usize & !(GROUP - 1);
        self.places.get_mut(first..first + GROUP).unwrap_or_default()
    }

    /// All are forgotten.
    pub(super) fn end_pass(&mut self) {
        // With more than three in four places taken, many would find their groups full.
        let most = self.room() as u64 / 4 * 3;
        self.classes = self.came.div_ceil(most).next_power_of_two().min(MOST_CLASSES) as u32;
        self.pass = self.pass.wrapping_add(1);
        self.came = 0;
    }
}
