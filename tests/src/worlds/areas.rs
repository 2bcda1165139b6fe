//! The areas of a space as the model knows them: runs of pages with equal attributes, in a sorted list.

use addr::PageSize;
use mm::{Protection, VmaFlags};

/// Pages of 4 KiB in a huge one.
pub(super) const HUGE_PAGES: u64 = 512;

/// What is behind an area. Page `p` of the space is page `p + shift` of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backing {
    Anonymous(PageSize),
    Private { file: usize, shift: i64 },
    Shared { file: usize, shift: i64 },
}

/// Attributes of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Area {
    pub(super) protection: Protection,
    pub(super) backing: Backing,
    pub(super) flags: VmaFlags,
}

impl Area {
    pub(super) fn is_hugetlb(&self) -> bool {
        matches!(self.backing, Backing::Anonymous(size) if size != PageSize::Size4K)
    }

    /// Whether pages that are present may go without anybody's asking: a hole that is filled by another page of the
    /// range unmaps the zero page here.
    pub(super) fn is_in_place(&self) -> bool {
        matches!(self.backing, Backing::Private { file, .. } | Backing::Shared { file, .. } if file == super::IN_PLACE)
    }

    /// Whether equal pages of it may be merged.
    pub(super) fn is_mergeable(&self) -> bool {
        !self.is_hugetlb() && !matches!(self.backing, Backing::Shared { .. })
    }

    /// The same area, `by` pages further up, with the same pages of its file.
    pub(super) fn moved(self, by: i64) -> Self {
        let backing = match self.backing {
            Backing::Anonymous(size) => Backing::Anonymous(size),
            Backing::Private { file, shift } => Backing::Private { file, shift: shift - by },
            Backing::Shared { file, shift } => Backing::Shared { file, shift: shift - by },
        };
        Self { backing, ..self }
    }
}

/// A run of pages: first, and first behind.
pub(super) type Run = (u64, u64);

/// Runs that do not overlap, by address. Neighbours may be equal.
#[derive(Clone, Default, Debug)]
pub(super) struct Areas(Vec<(Run, Area)>);

impl Areas {
    pub(super) fn find(&self, page: u64) -> Option<Area> {
        let place = self.0.partition_point(|((_, end), _)| *end <= page);
        self.0.get(place).filter(|((first, _), _)| *first <= page).map(|(_, area)| *area)
    }

    /// The parts of areas that lie in a run.
    pub(super) fn parts(&self, (first, end): Run) -> impl Iterator<Item = (Run, Area)> + '_ {
        let overlap = move |&((from, to), area): &(Run, Area)| {
            let part = (from.max(first), to.min(end));
            (part.0 < part.1).then_some((part, area))
        };
        self.0.iter().filter_map(overlap)
    }

    /// Whether each page of a run has an area.
    pub(super) fn covers(&self, run: Run) -> bool {
        self.covered_to(run) == run.1
    }

    pub(super) fn covered_to(&self, run: Run) -> u64 {
        let mut covered = run.0;
        for ((first, end), _) in self.parts(run) {
            if first != covered {
                break;
            }
            covered = end;
        }
        covered
    }

    /// Whether a bound of the run lies inside a hugetlb page.
    pub(super) fn cuts(&self, (first, end): Run) -> bool {
        self.parts((first, end)).any(|((from, to), area)| {
            area.is_hugetlb() && !(from.is_multiple_of(HUGE_PAGES) && to.is_multiple_of(HUGE_PAGES))
        })
    }

    fn cut(&mut self, page: u64) {
        let place = self.0.partition_point(|((_, end), _)| *end <= page);
        if let Some(((first, end), area)) = self.0.get(place).copied().filter(|((first, _), _)| *first < page)
        {
            self.0[place] = ((first, page), area);
            self.0.insert(place + 1, ((page, end), area));
        }
    }

    pub(super) fn remove(&mut self, (first, end): Run) {
        self.cut(first);
        self.cut(end);
        self.0.retain(|((from, to), _)| *to <= first || end <= *from);
    }

    /// Puts an area where none is.
    pub(super) fn insert(&mut self, run: Run, area: Area) {
        let place = self.0.partition_point(|((first, _), _)| *first < run.0);
        self.0.insert(place, (run, area));
    }

    pub(super) fn change(&mut self, (first, end): Run, change: impl Fn(&mut Area)) {
        self.cut(first);
        self.cut(end);
        let inside = self.0.iter_mut().filter(|((from, to), _)| first <= *from && *to <= end);
        inside.for_each(|(_, area)| change(area));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Run, Area)> + '_ {
        self.0.iter().copied()
    }

    /// Where the lowest gap of `count` pages from page `base` on starts.
    pub(super) fn gap(&self, base: u64, count: u64) -> u64 {
        let mut candidate = base;
        for ((first, end), _) in self.iter().filter(|((_, end), _)| *end > base) {
            if candidate + count <= first {
                break;
            }
            candidate = end.max(candidate);
        }
        candidate
    }
}
