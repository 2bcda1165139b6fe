//! The reference: what each operation must answer and each word must read, page by page, with no table, no cache
//! and no clever data structure.

use super::verdict::Verdict;
use addr::{Hva, HvaRange, PAGE_SIZE, PageSize};
use mm::{Access, Protection};
use std::collections::{BTreeMap, BTreeSet};

/// One base page of an area.
#[derive(Clone, Copy, Debug)]
struct Page {
    protection: Protection,
    size: PageSize,
}

/// Who makes an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Herald,
    Guest,
    /// Its entry may have gone since to make room for another, and with it the flag.
    Device,
}

/// What is mapped at a page.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Backing {
    /// One of the two.
    #[default]
    Unknown,
    /// The zero page: it was only read since it was mapped.
    Zero,
    /// A frame of its own.
    Own,
}

/// Who has used a page since it was last asked.
#[derive(Clone, Copy, Default, Debug)]
struct Use {
    /// Herald, through the hva.
    host: bool,
    /// A guest, through an entry that is still there: where it has been zapped since, its A bit may be forgotten.
    guest: bool,
    /// Anybody, including hardware that speculates.
    maybe: bool,
    backing: Backing,
    /// An access failed half-way: whether the page has a frame is not known.
    unsure: bool,
}

/// An address space as its user knows it.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// By first address.
    pages: BTreeMap<Hva, Page>,
    /// Words that are not zero.
    words: BTreeMap<Hva, u64>,
    /// Pages that have a frame, by first address of the page of its own size.
    resident: BTreeMap<Hva, Use>,
}

impl Model {
    fn page(&self, address: Hva) -> Option<Page> {
        self.pages.get(&address.align_down(PageSize::Size4K)).copied()
    }

    /// The first address of the page that maps an address.
    fn head(&self, address: Hva) -> Option<Hva> {
        self.page(address).map(|page| address.align_down(page.size))
    }

    /// Whether a bound of the range lies inside a huge page.
    fn cuts(&self, range: HvaRange) -> bool {
        [range.start(), range.end()]
            .into_iter()
            .any(|bound| self.page(bound).is_some_and(|page| !bound.is_aligned(page.size)))
    }

    fn has_hole(&self, range: HvaRange) -> bool {
        self.pages.range(range.start()..range.end()).count() as u64 != range.len() / PAGE_SIZE
    }

    pub(super) fn mmap(&mut self, range: HvaRange, protection: Protection, size: PageSize) -> Verdict {
        if range.is_empty() || !range.is_aligned(size) || self.cuts(range) {
            return Verdict::BadRange;
        }
        self.munmap(range);
        self.pages.extend(range.pages().map(|page| (page, Page { protection, size })));
        Verdict::Done
    }

    pub(super) fn munmap(&mut self, range: HvaRange) -> Verdict {
        if range.is_empty() || self.cuts(range) {
            return Verdict::BadRange;
        }
        self.drop_contents(range);
        range.pages().for_each(|page| {
            self.pages.remove(&page);
        });
        Verdict::Done
    }

    pub(super) fn mprotect(&mut self, range: HvaRange, protection: Protection) -> Verdict {
        if range.is_empty() || self.cuts(range) {
            return Verdict::BadRange;
        }
        for address in range.pages() {
            let Some(page) = self.pages.get_mut(&address) else { return Verdict::Hole };
            page.protection = protection;
            self.zapped(address);
        }
        Verdict::Done
    }

    pub(super) fn discard(&mut self, range: HvaRange) -> Verdict {
        if range.is_empty() || self.cuts(range) {
            return Verdict::BadRange;
        }
        self.drop_contents(range);
        if self.has_hole(range) { Verdict::Hole } else { Verdict::Done }
    }

    pub(super) fn migrate(&mut self, address: Hva) -> Vec<Verdict> {
        let head = self.head(address);
        let Some(used) = head.and_then(|head| self.resident.get_mut(&head)) else {
            return vec![Verdict::NotResident];
        };
        used.guest = false;
        let (unsure, backing) = (used.unsure, used.backing);
        let huge = self.page(address).is_some_and(|page| page.size != PageSize::Size4K);
        let mut verdicts = match (huge, backing) {
            (true, _) => vec![Verdict::Huge],
            (false, Backing::Zero) => vec![Verdict::Shared],
            (false, Backing::Own) => vec![Verdict::Done],
            (false, Backing::Unknown) => vec![Verdict::Done, Verdict::Shared],
        };
        if unsure {
            verdicts.push(Verdict::NotResident);
        }
        verdicts
    }

    /// What an access by hva must find; a load of a word never written finds zero.
    pub(super) fn access(&self, address: Hva, access: Access) -> Verdict {
        match self.page(address) {
            None => Verdict::Unmapped,
            Some(page) if !page.protection.allows(access) => Verdict::Denied,
            Some(_) if access == Access::Write => Verdict::Done,
            Some(_) => Verdict::Value(self.words.get(&address).copied().unwrap_or(0)),
        }
    }

    pub(super) fn store(&mut self, address: Hva, value: u64) {
        self.words.insert(address, value);
    }

    /// An access by a guest or by Herald was made: the page is resident and young.
    pub(super) fn touched(&mut self, address: Hva, who: Who, access: Access) {
        let Some(head) = self.head(address) else { return };
        let small = self.page(address).is_some_and(|page| page.size == PageSize::Size4K);
        let first = if small { Backing::Zero } else { Backing::Own };
        let used = self.resident.entry(head).or_insert(Use { backing: first, ..Use::default() });
        if access == Access::Write {
            // A copy takes the place of the zero page, and its entry knows nothing of who has read that.
            used.host &= used.backing == Backing::Own;
            used.backing = Backing::Own;
        }
        match who {
            Who::Herald => used.host = true,
            Who::Guest => used.guest = true,
            Who::Device => {}
        }
        used.maybe = true;
        used.unsure = false;
    }

    /// A page is there after a store to one before it. If it was not, nobody has asked for it, nor used it: it is fresh, and old.
    pub(super) fn came(&mut self, address: Hva) {
        if self.page(address).is_some_and(|page| page.size == PageSize::Size4K) {
            self.resident.entry(address).or_insert(Use { backing: Backing::Own, ..Use::default() });
        }
    }

    /// An access ran out of memory: its page may be resident, and young.
    pub(super) fn half_touched(&mut self, address: Hva) {
        let Some(head) = self.head(address) else { return };
        let used = self.resident.entry(head).or_insert(Use { unsure: true, ..Use::default() });
        used.maybe = true;
        if used.backing == Backing::Zero {
            used.backing = Backing::Unknown;
        }
    }

    /// The page may have been used: by speculation.
    pub(super) fn maybe_touched(&mut self, address: Hva) {
        let head = self.head(address);
        if let Some(used) = head.and_then(|head| self.resident.get_mut(&head)) {
            used.maybe = true;
        }
    }

    /// What aging may answer; forgets the use.
    pub(super) fn age(&mut self, address: Hva) -> Vec<Verdict> {
        let Some(used) = self.head(address).and_then(|head| self.resident.get_mut(&head)) else {
            return vec![Verdict::NotResident];
        };
        let Use { host, guest, maybe, backing, unsure } = *used;
        *used = Use { backing, unsure, ..Use::default() };
        if unsure {
            return vec![Verdict::NotResident, Verdict::Young(true), Verdict::Young(false)];
        }
        match (host || guest, maybe) {
            (true, _) => vec![Verdict::Young(true)],
            (false, true) => vec![Verdict::Young(true), Verdict::Young(false)],
            (false, false) => vec![Verdict::Young(false)],
        }
    }

    /// Secondary entries for the page went, and with them what they knew of its use.
    fn zapped(&mut self, address: Hva) {
        let head = self.head(address);
        if let Some(used) = head.and_then(|head| self.resident.get_mut(&head)) {
            used.guest = false;
        }
    }

    /// All secondary entries went.
    pub(super) fn all_zapped(&mut self) {
        self.resident.values_mut().for_each(|used| used.guest = false);
    }

    fn drop_contents(&mut self, range: HvaRange) {
        let words: Vec<_> = self.words.range(range.start()..range.end()).map(|(&word, _)| word).collect();
        words.iter().for_each(|word| {
            self.words.remove(word);
        });
        let gone: BTreeSet<_> =
            self.resident.range(range.start()..range.end()).map(|(&head, _)| head).collect();
        self.resident.retain(|head, _| !gone.contains(head));
    }

    /// Every word ever written and not dropped since.
    pub(super) fn written(&self) -> impl Iterator<Item = Hva> + '_ {
        self.words.keys().copied()
    }
}
