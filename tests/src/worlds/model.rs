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
use super::paging;
use crate::lab::Verdict;
use mm::{Access, VmaFlags};
use std::collections::BTreeMap;

/// What a page holds: its words that are not zero, by place.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Words(BTreeMap<u16, u64>);

impl Words {
    pub(super) fn new(words: impl IntoIterator<Item = (u16, u64)>) -> Self {
        Self(words.into_iter().filter(|(_, word)| *word != 0).collect())
    }

    pub(super) fn get(&self, place: u16) -> u64 {
        self.0.get(&place).copied().unwrap_or(0)
    }

    fn set(&mut self, place: u16, word: u64) {
        match word {
            0 => self.0.remove(&place),
            _ => self.0.insert(place, word),
        };
    }

    /// The first place where two pages differ.
    pub(super) fn differ(&self, other: &Self) -> Option<u16> {
        let places = self.0.keys().chain(other.0.keys());
        places.copied().filter(|&place| self.get(place) != other.get(place)).min()
    }
}

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
    fn copied(of: &[Words]) -> Self {
        Self { candidates: of.to_vec(), droppable: false, or_the_files: false }
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
        self.pages.get(&index).cloned().unwrap_or_default()
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
    /// What pages held before stores that were made in the middle of this operation: a copy may hold that.
    earlier: Earlier,
}

/// Former contents of pages: of files, and of spaces.
#[derive(Default, Debug)]
struct Earlier {
    files: BTreeMap<(usize, u64), Vec<Words>>,
    own: BTreeMap<(usize, u64), Vec<Words>>,
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
}

fn take<T>(pages: &mut BTreeMap<u64, T>, (first, end): Run) -> BTreeMap<u64, T> {
    let mut taken = pages.split_off(&first);
    let mut rest = taken.split_off(&end);
    pages.append(&mut rest);
    taken
}

impl Model {
    /// No space, and files of so many pages.
    pub(super) fn new(spaces: usize, files: &[u64]) -> Self {
        let files = files.iter().map(|&len| FileModel { len, ..FileModel::default() }).collect();
        Self { spaces: vec![None; spaces], files, earlier: Earlier::default() }
    }

    /// A store was made while an operation was under way. What the operation copies may lack it.
    pub(super) fn late_store(&mut self, id: usize, page: u64, word: u16, value: u64) {
        let file = self.file_page(id, page);
        match (self.area(id, page), file) {
            (Some(Area { backing: Backing::Shared { .. }, .. }), Some((file, index))) => {
                let words = self.files[file].words(index);
                self.earlier.files.entry((file, index)).or_default().push(words);
            }
            _ => {
                let own = self.space(id).own.get(&page);
                let words = own.map_or_else(|| vec![Words::default()], |own| own.candidates.clone());
                self.earlier.own.entry((id, page)).or_default().extend(words);
            }
        }
        self.store(id, page, word, value);
    }

    /// The operation has ended.
    pub(super) fn settle(&mut self) {
        self.earlier = Earlier::default();
    }

    /// What a copy of a file's page may hold that is made in this operation; zeros where there is no file.
    fn file_words(&self, file: Option<(usize, u64)>) -> Vec<Words> {
        let Some((file, index)) = file else { return vec![Words::default()] };
        let mut all = vec![self.files[file].words(index)];
        all.extend(self.earlier.files.get(&(file, index)).into_iter().flatten().cloned());
        all
    }

    /// The space that fork has made of another.
    pub(super) fn forked(&self, id: usize) -> Option<Space> {
        let mut child = self.spaces[id].clone()?;
        child.areas.change((0, u64::MAX), |area| area.flags.remove(VmaFlags::LOCKED));
        for ((_, page), earlier) in self.earlier.own.range((id, 0)..(id + 1, 0)) {
            if let Some(own) = child.own.get_mut(page) {
                earlier.iter().for_each(|words| own.add(words.clone()));
            }
        }
        Some(child)
    }

    /// The space of that number, which is alive.
    pub(super) fn space(&mut self, id: usize) -> &mut Space {
        self.spaces[id].as_mut().expect("a living space")
    }

    pub(super) fn area(&self, id: usize, page: u64) -> Option<Area> {
        self.spaces[id].as_ref()?.areas.find(page)
    }

    /// The file of an area's page, and the page's place in it.
    /// Whether nobody but the space itself changes what the page holds.
    pub(super) fn is_anonymous(&self, id: usize, page: u64) -> bool {
        self.area(id, page).is_some_and(|area| matches!(area.backing, Backing::Anonymous(_)))
    }

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
    pub(super) fn load(&mut self, id: usize, page: u64, word: u16, found: u64) -> Result<(), u64> {
        let found = paging::seen(page, found);
        self.learn(id, page, |words| words.get(word) == found).map_err(|words| words.get(word))
    }

    /// Checks what is found in a page, and learns from it. The error is what should have been found.
    pub(super) fn learn(&mut self, id: usize, page: u64, fits: impl Fn(&Words) -> bool) -> Result<(), Words> {
        let file = self.file_page(id, page);
        let files = file.map_or(Words::default(), |(file, index)| self.files[file].words(index));
        let shared = matches!(self.area(id, page), Some(Area { backing: Backing::Shared { .. }, .. }));
        let Some(own) = self.space(id).own.get_mut(&page).filter(|_| !shared) else {
            return if fits(&files) { Ok(()) } else { Err(files) };
        };
        let most_likely = own.candidates[0].clone();
        own.candidates.retain(&fits);
        own.or_the_files &= fits(&files);
        match (own.candidates.is_empty(), own.or_the_files) {
            (true, false) => return Err(most_likely),
            (true, true) => self.space(id).forget_page(page),
            (false, _) if own.droppable => own.add(Words::default()),
            (false, _) => {}
        }
        Ok(())
    }

    /// A store was made.
    pub(super) fn store(&mut self, id: usize, page: u64, word: u16, value: u64) {
        let Some(area) = self.area(id, page) else { return };
        let value = paging::seen(page, value);
        let file = self.file_page(id, page);
        if let (Backing::Shared { .. }, Some((file, index))) = (area.backing, file) {
            self.files[file].pages.entry(index).or_default().set(word, value);
            return;
        }
        let files = self.file_words(file);
        let own = self.space(id).own.entry(page).or_insert_with(|| Own::copied(&files));
        if own.or_the_files {
            files.into_iter().for_each(|words| own.add(words));
        }
        (own.droppable, own.or_the_files) = (false, false);
        let mut known: Vec<Words> = Vec::new();
        for mut words in std::mem::take(&mut own.candidates) {
            words.set(word, value);
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
        let files = self.file_words(Some((file, index)));
        let own = self
            .space(id)
            .own
            .entry(page)
            .or_insert_with(|| Own { or_the_files: certain == Certainty::Maybe, ..Own::copied(&files) });
        if own.or_the_files {
            files.into_iter().for_each(|words| own.add(words));
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
    pub(super) fn locking(area: Area) -> Access {
        let copies = !matches!(area.backing, Backing::Shared { .. }) && area.protection.allows(Access::Write);
        if copies { Access::Write } else { Access::Read }
    }
}

/// Whether something has happened for sure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Certainty {
    Sure,
    Maybe,
}
