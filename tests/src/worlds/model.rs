//! The reference: what every page of every space and file may hold, word by word, with Linux's semantics.
//!
//! ```text
//!   space, page ─► area ─┬─ anonymous ──► the space's own page, else zeros
//!                        ├─ private ────► the space's own page, else the file's
//!                        └─ shared ─────► the file's page, told by the address or by remap_file_pages
//! ```
//!
//! Where the manager may choose, the model keeps all choices and drops those that a load refutes: a page given up by
//! MADV_FREE, and a private page whose copying failed half-way.

use super::areas::{Area, Areas, Backing, Run};
use crate::lab::Verdict;
use mm::{Access, Protection, VmaFlags};
use std::collections::BTreeMap;

/// Words of a page that tests look at.
pub(super) const WORDS: usize = 2;
pub(super) type Words = [u64; WORDS];

/// A page that belongs to one space alone.
#[derive(Clone, Debug)]
struct Own {
    /// What it may hold.
    candidates: Vec<Words>,
    /// MADV_FREE: zeros may take its place at any time.
    droppable: bool,
    /// It may also be the file's page still.
    or_the_files: bool,
}

impl Own {
    fn holding(words: Words) -> Self {
        Self { candidates: vec![words], droppable: false, or_the_files: false }
    }

    fn add(&mut self, words: Words) {
        if !self.candidates.contains(&words) {
            self.candidates.push(words);
        }
    }
}

/// A file's pages; those never written are zeros.
#[derive(Clone, Default, Debug)]
pub(super) struct FileModel {
    pub(super) len: u64,
    pub(super) pages: BTreeMap<u64, Words>,
}

impl FileModel {
    fn words(&self, index: u64) -> Words {
        self.pages.get(&index).copied().unwrap_or_default()
    }
}

/// A space.
#[derive(Clone, Default, Debug)]
pub(super) struct Space {
    pub(super) areas: Areas,
    own: BTreeMap<u64, Own>,
    /// Pages of files where remap_file_pages has put them.
    places: BTreeMap<u64, u64>,
}

/// Everything.
#[derive(Default, Debug)]
pub(super) struct Model {
    pub(super) spaces: Vec<Option<Space>>,
    pub(super) files: Vec<FileModel>,
}

impl Space {
    /// Which page of which file belongs at a page.
    fn file_page(&self, page: u64, area: &Area) -> Option<(usize, u64)> {
        let index = |shift: i64| page.wrapping_add_signed(shift);
        match area.backing {
            Backing::Anonymous(_) => None,
            Backing::Private { file, shift } => Some((file, index(shift))),
            Backing::Shared { file, shift } => {
                Some((file, self.places.get(&page).copied().unwrap_or(index(shift))))
            }
        }
    }

    pub(super) fn unmap(&mut self, run: Run) {
        self.areas.remove(run);
        self.forget(run);
        take(&mut self.places, run);
    }

    /// Own pages in a run go.
    pub(super) fn forget(&mut self, run: Run) {
        take(&mut self.own, run);
    }

    /// One page of one's own goes.
    pub(super) fn forget_page(&mut self, page: u64) {
        self.own.remove(&page);
    }

    /// What is in `from` is at page `to` from now on. Nothing else is there.
    pub(super) fn relocate(&mut self, from: Run, to: u64) {
        let by = to.wrapping_sub(from.0) as i64;
        let parts: Vec<_> = self.areas.parts(from).collect();
        let own = take(&mut self.own, from);
        let places = take(&mut self.places, from);
        self.areas.remove(from);
        let shift = |page: u64| page.wrapping_add_signed(by);
        for ((first, end), area) in parts {
            self.areas.insert((shift(first), shift(end)), area.moved(by));
        }
        self.own.extend(own.into_iter().map(|(page, own)| (shift(page), own)));
        self.places.extend(places.into_iter().map(|(page, index)| (shift(page), index)));
    }

    /// remap_file_pages.
    pub(super) fn rearrange(&mut self, (first, end): Run, index: u64) {
        self.places.extend((first..end).map(|page| (page, index + page - first)));
    }

    /// MADV_FREE.
    pub(super) fn free_lazily(&mut self, (first, end): Run) {
        for (_, own) in self.own.range_mut(first..end) {
            own.add(Words::default());
            own.droppable = true;
        }
    }

    /// The space that fork makes.
    pub(super) fn forked(&self) -> Self {
        let mut child = self.clone();
        child.areas.change((0, u64::MAX), |area| area.flags.remove(VmaFlags::LOCKED));
        child
    }
}

fn take<T>(pages: &mut BTreeMap<u64, T>, (first, end): Run) -> BTreeMap<u64, T> {
    let mut taken = pages.split_off(&first);
    let mut rest = taken.split_off(&end);
    pages.append(&mut rest);
    taken
}

impl Model {
    /// The space of that number, which is alive.
    pub(super) fn space(&mut self, id: usize) -> &mut Space {
        self.spaces[id].as_mut().expect("a living space")
    }

    pub(super) fn area(&self, id: usize, page: u64) -> Option<Area> {
        self.spaces[id].as_ref()?.areas.find(page)
    }

    /// The file of an area's page, and the page's place in it.
    pub(super) fn file_page(&self, id: usize, page: u64) -> Option<(usize, u64)> {
        let space = self.spaces[id].as_ref()?;
        space.file_page(page, &space.areas.find(page)?)
    }

    /// What an access must answer; a load's value is checked by [`Self::load`].
    pub(super) fn access(&self, id: usize, page: u64, access: Access) -> Verdict {
        let Some(area) = self.area(id, page) else { return Verdict::Unmapped };
        if !area.protection.allows(access) {
            return Verdict::Denied;
        }
        match self.file_page(id, page) {
            Some((file, index)) if index >= self.files[file].len => Verdict::BeyondEnd,
            _ => Verdict::Done,
        }
    }

    /// Checks what a load has found, and learns from it. The error is what it should have found.
    pub(super) fn load(&mut self, id: usize, page: u64, word: usize, found: u64) -> Result<(), u64> {
        let file = self.file_page(id, page);
        let files = file.map_or(Words::default(), |(file, index)| self.files[file].words(index));
        let shared = matches!(self.area(id, page), Some(Area { backing: Backing::Shared { .. }, .. }));
        let Some(own) = self.space(id).own.get_mut(&page).filter(|_| !shared) else {
            return if files[word] == found { Ok(()) } else { Err(files[word]) };
        };
        let most_likely = own.candidates[0][word];
        own.candidates.retain(|words| words[word] == found);
        own.or_the_files &= files[word] == found;
        match (own.candidates.is_empty(), own.or_the_files) {
            (true, false) => return Err(most_likely),
            (true, true) => self.space(id).forget_page(page),
            (false, _) if own.droppable => own.add(Words::default()),
            (false, _) => {}
        }
        Ok(())
    }

    /// A store was made.
    pub(super) fn store(&mut self, id: usize, page: u64, word: usize, value: u64) {
        let Some(area) = self.area(id, page) else { return };
        let file = self.file_page(id, page);
        let files = file.map_or(Words::default(), |(file, index)| self.files[file].words(index));
        if let (Backing::Shared { .. }, Some((file, index))) = (area.backing, file) {
            self.files[file].pages.entry(index).or_default()[word] = value;
            return;
        }
        let own = self.space(id).own.entry(page).or_insert_with(|| Own::holding(files));
        if own.or_the_files {
            own.add(files);
        }
        (own.droppable, own.or_the_files) = (false, false);
        let mut known: Vec<Words> = Vec::new();
        for mut words in std::mem::take(&mut own.candidates) {
            words[word] = value;
            if !known.contains(&words) {
                known.push(words);
            }
        }
        own.candidates = known;
    }

    /// A private page of a file was written, or may have been: what the space has from now on is its own.
    pub(super) fn take_own(&mut self, id: usize, page: u64, certain: Certainty) {
        let Some(Area { backing: Backing::Private { .. }, .. }) = self.area(id, page) else { return };
        let Some((file, index)) =
            self.file_page(id, page).filter(|&(file, index)| index < self.files[file].len)
        else {
            return;
        };
        let words = self.files[file].words(index);
        let own = self
            .space(id)
            .own
            .entry(page)
            .or_insert_with(|| Own { or_the_files: certain == Certainty::Maybe, ..Own::holding(words) });
        if own.or_the_files {
            own.add(words);
            own.or_the_files = certain == Certainty::Maybe;
        }
    }

    /// A file has another length.
    pub(super) fn truncate(&mut self, file: usize, len: u64) {
        self.files[file].len = len;
        self.files[file].pages.retain(|&index, _| index < len);
        for space in self.spaces.iter_mut().flatten() {
            let behind = |&page: &u64| {
                let area = space.areas.find(page);
                let place = area.and_then(|area| space.file_page(page, &area));
                place.is_some_and(|(of, index)| of == file && index >= len)
            };
            let gone: Vec<_> = space.own.keys().copied().filter(behind).collect();
            gone.iter().for_each(|&page| space.forget_page(page));
        }
    }

    /// Pages that hold something the spaces wrote.
    pub(super) fn written(&self, id: usize) -> Vec<u64> {
        self.spaces[id].as_ref().map_or_else(Vec::new, |space| space.own.keys().copied().collect())
    }

    /// The access that mlock makes.
    pub(super) fn locking(protection: Protection) -> Access {
        if protection.allows(Access::Write) { Access::Write } else { Access::Read }
    }
}

/// Whether something has happened for sure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Certainty {
    Sure,
    Maybe,
}
