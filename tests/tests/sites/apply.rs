//! Patch site `apply_to_page_range`.

use crate::Outcome;
use crate::bench::{Bench, SMALL, answer, bytes};
use crate::scenario::Scenario;
use mm::{Change, Host, MapError, VmaKind};
use tests::lab::{Notice, Verdict, page, pages};

type Changes = fn(u64) -> Result<Change, MapError>;

impl Bench {
    /// Asks `changes` for each page by number; the answer of the whole.
    fn apply(&self, count: u64, changes: Changes) -> Result<(), MapError> {
        self.space(0).space.apply_to_page_range(page(0), bytes(count), |address, _| {
            changes((address.as_u64() - page(0).as_u64()) / bytes(1))
        })
    }
}

fn four_pages(b: &Bench) -> Outcome {
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..4, 10)
}

pub(crate) const APPLY: Scenario = Scenario {
    name: "apply_to_page_range: pages that a guest uses are write-protected and unmapped",
    plan: SMALL,
    prepare: four_pages,
    act: |b| {
        let changes: Changes = |index| match index {
            0 => Ok(Change::Keep),
            1 => Ok(Change::WriteProtect),
            _ => Ok(Change::Unmap),
        };
        b.apply(3, changes).map_err(|error| answer("apply", "done", error.to_string()))?;
        b.check()?;
        b.guest_reads(0, 2, 0)?;
        b.guest_writes(0, 0, 20)?;
        b.guest_writes(0, 1, 21)?;
        b.both_read(0, 1, 21)?;
        b.both_read(0, 3, 13)
    },
};

/// The callback fails at the third page: what it changed before stays so, and the guest goes on.
pub(crate) const FAIL: Scenario = Scenario {
    name: "apply_to_page_range: the callback fails",
    plan: SMALL,
    prepare: four_pages,
    act: |b| {
        let changes: Changes = |index| match index {
            2 => Err(MapError::NoRoom { len: 0 }),
            _ => Ok(Change::Unmap),
        };
        let failed = b.apply(4, changes).err();
        assert_eq!(failed, Some(MapError::NoRoom { len: 0 }));
        b.check()?;
        b.guest_reads(0, 0, 0)?;
        b.herald_reads(0, 1, 0)?;
        b.guest_writes(0, 2, 22)?;
        b.guest_writes(0, 3, 23)?;
        b.both_read(0, 2, 22)
    },
};

#[test]
fn a_guest_sees_what_a_callback_did_to_its_pages() -> Outcome {
    APPLY.run()
}

#[test]
fn a_guest_goes_on_where_a_callback_has_failed() -> Outcome {
    FAIL.run()
}

#[test]
fn the_whole_range_is_announced_once_whatever_the_callback_says() -> Outcome {
    let b = Bench::new(SMALL);
    four_pages(&b)?;
    let fails: Changes = |_| Err(MapError::NoRoom { len: 0 });
    for (changes, ok) in [(fails, false), (|_| Ok(Change::Keep), true)] {
        let (begins, ends) =
            (b.space(0).log.count(Notice::RangeBegin), b.space(0).log.count(Notice::RangeEnd));
        assert_eq!(b.apply(4, changes).is_ok(), ok);
        b.check()?;
        assert_eq!(b.space(0).log.count(Notice::RangeBegin), begins + 1);
        assert_eq!(b.space(0).log.count(Notice::RangeEnd), ends + 1);
    }
    b.finish()
}

#[test]
fn a_dirty_page_of_a_file_that_is_unmapped_stays_dirty() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, platter) = b.disk_file(2);
    b.map(0, pages(0, 2), VmaKind::Shared(file, 0))?;
    b.herald_writes(0, 0, 5)?;
    let frame = b.frame(0, 0).expect("a page");
    b.apply(2, |_| Ok(Change::Unmap)).map_err(|error| answer("apply", "done", error.to_string()))?;
    assert!(b.machine.frames().meta(frame).is_dirty());
    b.does(0, "msync", |space| space.msync(page(0), bytes(2)))?;
    b.same("the disk", Verdict::Value(5), Verdict::Value(platter.word(0)))?;
    b.both_read(0, 0, 5)?;
    b.finish()
}
