//! The areas of an address space, by address. Areas never overlap, never touch page fractions, and two
//! neighbours of equal attributes and consecutive indices are one area.
//!
//! Faults come to the same area again and again: the place of the one that was found last is remembered (Linux had its `vmacache`). It is
//! a place and not an area, and is asked whether it holds the address, under the mmap lock, each time: nothing has to drop it when areas change.
//!
//! Each area here has a link in its file's reverse map and in that of its anonymous pages. A change adds
//! the links of what is new before it removes those of what is old (`rmap.rs`).

use super::{Protection, Vma, VmaFlags, VmaKind};
use crate::host::Host;
use crate::rmap::{Link, Rmap, Rmaps};
use crate::space::AddressSpace;
use addr::{Hva, HvaRange, PageSize};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use mutants::{Mutant, intact};
use sync::Rank;

/// A reverse map of a parent's, and that of its child.
type ParentsAndChilds<'a, H> = (&'a Arc<Rmap<H>>, Arc<Rmap<H>>);

/// The areas of one address space.
pub(crate) struct Vmas<H: Host> {
    space: Weak<AddressSpace<H>>,
    sorted: Vec<Vma<H>>,
    /// Place of the area that was found last. Relaxed: it orders nothing, and any number will do.
    last: AtomicUsize,
}

impl<H: Host> Vmas<H> {
    /// No area yet.
    pub(crate) const fn new(space: Weak<AddressSpace<H>>) -> Self {
        Self { space, sorted: Vec::new(), last: AtomicUsize::new(0) }
    }

    /// The same areas in another address space, sharing the reverse maps that pages may have. Locks are not inherited.
    pub(crate) fn fork(&self, space: Weak<AddressSpace<H>>, rmaps: &Arc<Rmaps<H>>) -> Self {
        let mut child = Self::new(space);
        // The last map that no page has, and the child's own in its place: a page of either would count as the other's.
        let mut unused: Option<ParentsAndChilds<'_, H>> = None;
        for vma in &self.sorted {
            let own = unused.take().filter(|(map, _)| Arc::ptr_eq(map, &vma.anon));
            if vma.is_cow() && vma.chain().is_none() && intact(Mutant::ForkSharesUnused) {
                unused = own.or_else(|| Some((&vma.anon, rmaps.create(Rank::Rmap))));
            }
            let anon = Arc::clone(unused.as_ref().map_or(&vma.anon, |(_, own)| own));
            // Areas that only differed in this are one.
            child.insert(Vma { flags: vma.flags - VmaFlags::LOCKED, anon, ..vma.clone() });
        }
        child
    }

    /// The area that holds the address.
    #[inline]
    pub(crate) fn find(&self, address: Hva) -> Option<&Vma<H>> {
        let last = self.sorted.get(self.last.load(Ordering::Relaxed));
        let holds = |vma: &&Vma<H>| vma.range.contains(address) || !intact(Mutant::LastAreaUnasked);
        last.filter(holds).or_else(|| self.search(address))
    }

    /// Apart, so that who finds the area that was found last does not pay for it.
    #[inline(never)]
    fn search(&self, address: Hva) -> Option<&Vma<H>> {
        let place = self.behind(address).checked_sub(1)?;
        let vma = self.sorted.get(place).filter(|vma| vma.range.contains(address))?;
        self.last.store(place, Ordering::Relaxed);
        Some(vma)
    }

    /// The place of the first area that starts behind the address.
    fn behind(&self, address: Hva) -> usize {
        self.sorted.partition_point(|vma| vma.range.start() <= address)
    }

    /// The place of the area that starts at an address.
    fn place_of(&self, start: Hva) -> Option<usize> {
        self.sorted.binary_search_by_key(&start, |vma| vma.range.start()).ok()
    }

    /// The area that starts at an address, and the one before it.
    fn meeting_at(&self, boundary: Hva) -> (Option<&Vma<H>>, Option<&Vma<H>>) {
        let before = self.sorted.partition_point(|vma| vma.range.start() < boundary);
        let after = self.sorted.get(before).filter(|vma| vma.range.start() == boundary);
        (before.checked_sub(1).and_then(|place| self.sorted.get(place)), after)
    }

    /// Takes an area out.
    fn take(&mut self, start: Hva) -> Option<Vma<H>> {
        self.place_of(start).map(|place| self.sorted.remove(place))
    }

    /// Puts an area where none is.
    fn put(&mut self, vma: Vma<H>) {
        self.sorted.insert(self.behind(vma.range.start()), vma);
    }

    /// How many areas there are.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// All areas, by address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Vma<H>> + '_ {
        self.sorted.iter()
    }

    /// The areas that overlap `range`, and which part of it each holds, by address.
    pub(crate) fn overlapping(&self, range: HvaRange) -> impl Iterator<Item = (HvaRange, &Vma<H>)> + '_ {
        let first = self.sorted.partition_point(|vma| vma.range.end() <= range.start());
        let overlapping = self.sorted[first..].iter().take_while(move |vma| vma.range.start() < range.end());
        overlapping.filter_map(move |vma| vma.range.intersection(&range).map(|part| (part, vma)))
    }

    /// Where the first hole in `range` starts; the end of the range, if there is none.
    pub(crate) fn covered_to(&self, range: HvaRange) -> Hva {
        let mut covered = range.start();
        for (part, _) in self.overlapping(range) {
            if part.start() != covered {
                break;
            }
            covered = part.end();
        }
        covered
    }

    /// The gap around `range`, which holds no area: the end of the area below and the start of the area above.
    pub(crate) fn gap_around(&self, range: HvaRange) -> (Option<Hva>, Option<Hva>) {
        let (below, _) = self.meeting_at(range.start());
        let above = self.sorted.get(self.sorted.partition_point(|vma| vma.range.start() < range.end()));
        (below.map(|vma| vma.range.end()), above.map(|vma| vma.range.start()))
    }

    /// The lowest gap of `len` bytes in `within`, aligned to `size`.
    pub(crate) fn gap(&self, within: HvaRange, len: u64, size: PageSize) -> Option<HvaRange> {
        let mut candidate = within.start().align_up(size)?;
        for (part, _) in self.overlapping(within) {
            let fits = candidate.checked_add(len).is_some_and(|end| end <= part.start());
            if fits {
                break;
            }
            candidate = part.end().align_up(size)?;
        }
        let range = HvaRange::sized(candidate, len)?;
        within.contains_span(&range).then_some(range)
    }

    /// Adds an area where none is, and joins it with equal neighbours.
    pub(crate) fn insert(&mut self, vma: Vma<H>) {
        debug_assert!(self.overlapping(vma.range).next().is_none(), "areas overlap");
        let range = vma.range;
        self.link(&vma);
        self.put(vma);
        self.join(range.start());
        self.join(range.end());
    }

    /// Removes everything in `range`. Nothing is mapped there any more.
    pub(crate) fn remove(&mut self, range: HvaRange) {
        self.cut(range.start());
        self.cut(range.end());
        // From the last one on: each that goes moves those behind it.
        for start in self.starts(range).into_iter().rev() {
            if let Some(vma) = self.take(start) {
                self.unlink(&vma);
            }
        }
    }

    /// Gives all areas in `range` another protection.
    pub(crate) fn protect(&mut self, range: HvaRange, protection: Protection) {
        self.change(range, |vma| vma.protection = protection);
    }

    /// Sets and clears flags of all areas in `range`, as far as they can have them.
    pub(crate) fn flag(&mut self, range: HvaRange, set: VmaFlags, clear: VmaFlags) {
        self.change(range, |vma| vma.flags = (vma.flags - clear) | (set & vma.possible_flags()));
    }

    fn change(&mut self, range: HvaRange, change: impl Fn(&mut Vma<H>)) {
        self.cut(range.start());
        self.cut(range.end());
        for start in self.starts(range) {
            let Some(vma) = self.place_of(start).map(|place| &mut self.sorted[place]) else { continue };
            let was = vma.flags;
            change(vma);
            // The link says whether the area is linear, and locked.
            if (was ^ vma.flags).intersects(VmaFlags::NONLINEAR | VmaFlags::LOCKED) {
                let vma = vma.clone();
                self.link(&vma);
                self.unlink(&vma);
            }
        }
        for start in self.starts(range) {
            self.join(start);
        }
        self.join(range.end());
    }

    fn starts(&self, range: HvaRange) -> Vec<Hva> {
        let first = self.sorted.partition_point(|vma| vma.range.start() < range.start());
        let starts = self.sorted[first..].iter().map(|vma| vma.range.start());
        starts.take_while(|&start| start < range.end()).collect()
    }

    /// Joins the areas that meet at `boundary`, if they are one.
    fn join(&mut self, boundary: Hva) {
        let (Some(left), Some(right)) = self.meeting_at(boundary) else { return };
        if left.range.end() != boundary || !left.goes_on_in(right) {
            return;
        }
        // One that may have pages, if there is any.
        let chain = left.chain().or(right.chain()).filter(|_| intact(Mutant::JoinTakesUnused));
        let anon = Arc::clone(chain.unwrap_or(&left.anon));
        let whole = Vma { range: left.range.hull(&right.range), anon, ..left.clone() };
        self.replace(&[left.range.start(), boundary], [whole]);
    }

    /// Cuts the area that straddles `boundary` in two.
    fn cut(&mut self, boundary: Hva) {
        let Some(vma) = self.find(boundary).filter(|vma| vma.range.start() < boundary) else { return };
        let left = vma.part(HvaRange::new(vma.range.start(), boundary));
        let right = vma.part(HvaRange::new(boundary, vma.range.end()));
        self.replace(&[vma.range.start()], [left, right]);
    }

    /// Puts `new` areas in place of `old` ones, which are named by their starts.
    fn replace<const N: usize>(&mut self, old: &[Hva], new: [Vma<H>; N]) {
        new.iter().for_each(|vma| self.link(vma));
        for &start in old {
            if let Some(vma) = self.take(start) {
                self.unlink(&vma);
            }
        }
        new.into_iter().for_each(|vma| self.put(vma));
    }

    /// Adds an area in which nothing was ever mapped, where none is. Its reverse map is made now, and not by the first fault that
    /// needs one (Linux: `anon_vma_prepare`).
    pub(crate) fn add(
        &mut self,
        (range, protection, kind): (HvaRange, Protection, VmaKind<H>),
        rmaps: &Arc<Rmaps<H>>,
    ) {
        let mut vma = Vma::new(range, protection, kind, rmaps.create(Rank::Rmap));
        if let Some(chain) = self.neighbours_chain(&vma) {
            vma.anon = chain;
        }
        self.insert(vma);
    }

    /// The reverse map of a neighbour that differs only in what mprotect and madvise can undo: sharing it keeps
    /// the two joinable (Linux: `find_mergeable_anon_vma`).
    fn neighbours_chain(&self, vma: &Vma<H>) -> Option<Arc<Rmap<H>>> {
        let (start, end) = (vma.range.start(), vma.range.end());
        let (before, _) = self.meeting_at(start);
        let before = before.filter(|before| {
            before.range.end() == start
                && before.kind.same(&vma.kind)
                && before.index_of(before.range.end()) == vma.first
        });
        let (_, after) = self.meeting_at(end);
        let after =
            after.filter(|after| after.kind.same(&vma.kind) && vma.index_of(vma.range.end()) == after.first);
        let used = before.and_then(Vma::chain).or(after.and_then(Vma::chain));
        used.or(before.or(after).map(|vma| &vma.anon)).map(Arc::clone)
    }

    fn link_of(&self, vma: &Vma<H>) -> Link<H> {
        let space = Weak::clone(&self.space);
        let nonlinear = vma.flags.contains(VmaFlags::NONLINEAR);
        let locked = vma.flags.contains(VmaFlags::LOCKED);
        Link { space, range: vma.range, first: vma.first, nonlinear, locked }
    }

    fn link(&self, vma: &Vma<H>) {
        if let Some(file) = vma.kind.file() {
            file.rmap().link(self.link_of(vma));
        }
        if vma.is_cow() {
            // Anonymous pages of a non-linear private area lie where their index says.
            vma.anon.link(Link { nonlinear: false, ..self.link_of(vma) });
        }
    }

    fn unlink(&self, vma: &Vma<H>) {
        if let Some(file) = vma.kind.file() {
            file.rmap().unlink(&self.space, vma.range.start());
        }
        if vma.is_cow() {
            vma.anon.unlink(&self.space, vma.range.start());
        }
    }
}
