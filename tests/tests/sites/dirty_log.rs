//! The dirty log of a slot: what the guest reads otherwise than at the last harvest was harvested, whoever has changed it and
//! in which way; and what nobody has changed was not.

use crate::Outcome;
use crate::bench::{Bench, LARGE, Plan, SMALL, SpaceId, answer, bytes};
use addr::{Gfn, GfnRange, PAGE_SIZE, PageSize};
use mm::notifier::MmuNotifier;
use mm::{Advice, Change, MapError, Protection, Remap, VmaKind};
use mmu::{DeviceTlb, DirtyPages, LogBy, LogError};
use std::sync::Arc;
use tests::lab::{page, pages};
use tests::machine::Paging;

/// Each test is made with each. Only an EPT has a processor's log.
fn ways() -> impl Iterator<Item = LogBy> {
    let by_processor = (Paging::chosen() == Paging::Ept).then_some(LogBy::Processor);
    [LogBy::WriteFault].into_iter().chain(by_processor)
}

impl Bench {
    /// Begins the log of a guest's only slot.
    fn begin_log(&self, id: SpaceId, by: LogBy) -> Outcome {
        assert_eq!(self.space(id).mmu.begin_log(Gfn::ZERO, by), Ok(()));
        self.check()
    }

    /// What CPUs have logged comes first.
    fn harvest(&self, id: SpaceId, range: GfnRange) -> DirtyPages {
        let space = self.space(id);
        space.mmu.note_logged(self.machine.take_logged(space.root));
        space.mmu.harvest(range)
    }

    /// A harvest finds these pages.
    fn harvests(&self, id: SpaceId, expected: &[u64]) -> Outcome {
        let dirty = self.harvest(id, GfnRange::new(Gfn::ZERO, Gfn::new(1 << 20)));
        let found: Vec<_> = dirty.iter().map(Gfn::as_u64).collect();
        assert_eq!(found.len() as u64, dirty.count());
        if found != expected {
            return Err(answer("the harvest", format!("{expected:?}"), format!("{found:?}")));
        }
        self.check()
    }

    /// The work changes these pages, and no others; the log says so once.
    fn logs(&self, expected: &[u64], work: impl FnOnce(&Self) -> Outcome) -> Outcome {
        work(self)?;
        self.harvests(0, expected)?;
        self.harvests(0, &[])
    }
}

/// Eight pages that Herald and the guest have written, and CPUs have cached, under a log.
fn logged(by: LogBy) -> Result<Bench, tests::Violation> {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 8)?;
    b.fill(0, 0..8, 10)?;
    b.begin_log(0, by)?;
    b.harvests(0, &[])?;
    Ok(b)
}

#[test]
fn what_the_guest_writes_is_in_the_next_harvest_and_in_no_other() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        b.logs(&[1, 5], |b| {
            b.guest_writes(0, 5, 50)?;
            b.guest_writes(0, 1, 51)?;
            b.guest_writes(0, 5, 52)
        })?;
        // Through whatever the CPU has cached since.
        b.logs(&[5], |b| b.guest_writes(0, 5, 53))?;
        b.logs(&[], |b| b.guest_reads(0, 2, 12))?;
        b.logs(&[2, 12], |b| {
            b.guest_writes(0, 2, 54)?;
            b.map_pages(0, 12, 1)?;
            b.guest_writes(0, 12, 55)
        })?;
        b.finish()?;
    }
    Ok(())
}

/// More than a word of the log has bits for, all written, time and again.
#[test]
fn where_all_was_written_all_is_harvested() -> Outcome {
    const PAGES: u64 = 70;
    let all: Vec<_> = (0..PAGES).collect();
    for by in ways() {
        let b = Bench::new(Plan { ram: PAGES, ..SMALL });
        b.map_pages(0, 0, PAGES)?;
        b.fill(0, 0..PAGES, 10)?;
        b.begin_log(0, by)?;
        for round in 0..2 {
            b.logs(&all, |b| {
                all.iter().try_for_each(|&index| b.guest_writes(0, index, 100 * round + index))
            })?;
        }
        b.finish()?;
    }
    Ok(())
}

#[test]
fn what_was_mapped_around_under_a_log_is_logged_when_it_is_written() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        // Its entries go, its pages stay.
        for rights in [Protection::Read, Protection::ReadWrite] {
            b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(8), rights))?;
        }
        b.harvests(0, &[])?;
        b.logs(&[], |b| b.guest_reads(0, 3, 13))?;
        b.logs(&[2, 4], |b| {
            b.guest_writes(0, 4, 40)?;
            b.guest_writes(0, 2, 20)
        })?;
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_harvest_of_some_frames_leaves_the_others() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        b.fill(0, 0..8, 20)?;
        let dirty = b.harvest(0, GfnRange::new(Gfn::new(2), Gfn::new(5)));
        assert_eq!(dirty.iter().map(Gfn::as_u64).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(dirty.contains(Gfn::new(4)) && !dirty.contains(Gfn::new(5)));
        b.guest_writes(0, 3, 30)?;
        b.logs(&[0, 1, 3, 5, 6, 7], |_| Ok(()))?;
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_harvest_costs_one_flush() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        b.fill(0, 0..8, 20)?;
        let before = b.machine.flushes();
        b.harvests(0, &[0, 1, 2, 3, 4, 5, 6, 7])?;
        // One more, in which CPUs bring what they have logged.
        let brings = u64::from(by == LogBy::Processor);
        assert_eq!(b.machine.flushes(), before + 1 + brings);
        b.harvests(0, &[])?;
        assert_eq!(b.machine.flushes(), before + 1 + 2 * brings, "nothing to take back, nothing to flush");
        b.finish()?;
    }
    Ok(())
}

#[test]
fn what_was_written_stays_in_the_log_when_its_entry_goes() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        b.logs(&[0, 1, 2], |b| {
            b.guest_writes(0, 0, 20)?;
            b.page_out(0, 0)?;
            b.guest_writes(0, 1, 21)?;
            b.does(0, "migration", |space| space.migrate_page(page(1)))?;
            b.guest_writes(0, 2, 22)?;
            b.does(0, "mprotect", |space| space.mprotect(page(2), bytes(1), Protection::Read))
        })?;
        b.logs(&[], |b| {
            b.guest_reads(0, 0, 20)?;
            b.guest_reads(0, 1, 21)?;
            b.page_out(0, 3)?;
            b.guest_reads(0, 3, 13)
        })?;
        b.finish()?;
    }
    Ok(())
}

#[test]
fn what_goes_unwritten_is_in_the_log() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        b.logs(&[0], |b| b.does(0, "discard", |space| space.discard(page(0), bytes(1))))?;
        b.logs(&[1], |b| b.does(0, "munmap", |space| space.munmap(page(1), bytes(1))))?;
        b.logs(&[1], |b| b.map_pages(0, 1, 1))?;
        b.logs(&[2, 12], |b| {
            b.does(0, "mremap", |space| space.mremap(page(2), bytes(1), bytes(1), Remap::Fixed(page(12))))
        })?;
        b.logs(&[3], |b| {
            b.does(0, "apply", |space| {
                space.apply_to_page_range(page(3), bytes(1), |_, _| Ok::<_, MapError>(Change::Unmap))
            })
        })?;
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_page_that_madv_free_lets_go_is_in_the_log_when_it_goes() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        b.logs(&[], |b| b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(2), Advice::Free)))?;
        b.logs(&[1], |b| {
            b.guest_writes(0, 1, 21)?;
            b.page_out(0, 1)
        })?;
        b.logs(&[0], |b| b.page_out(0, 0))?;
        b.guest_reads(0, 0, 0)?;
        b.finish()?;
    }
    Ok(())
}

#[test]
fn pages_of_a_file_that_change_places_or_go_are_in_the_log() -> Outcome {
    for by in ways() {
        let b = Bench::new(SMALL);
        let (file, _) = b.disk_file(6);
        b.map(0, pages(0, 6), VmaKind::Shared(Arc::clone(&file), 0))?;
        b.fill(0, 0..6, 30)?;
        b.begin_log(0, by)?;
        b.logs(&[], |b| {
            b.mm.write_back(&file).expect("a disk that works");
            b.check()
        })?;
        b.logs(&[0, 1], |b| {
            b.does(0, "remap_file_pages", |space| space.remap_file_pages(page(0), bytes(2), 3))
        })?;
        // A non-linear area is looked through as a whole.
        b.logs(&[0, 1, 2, 3, 4, 5], |b| {
            b.mm.truncate(&file, 5);
            b.check()
        })?;
        drop(file);
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_fork_changes_nothing_and_what_is_written_after_it_is_logged() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        b.guest_writes(0, 0, 20)?;
        let child = b.fork(0)?;
        b.harvests(0, &[0])?;
        b.logs(&[0, 2], |b| {
            b.guest_writes(0, 2, 22)?;
            b.guest_writes(0, 0, 23)
        })?;
        // The guest has an entry for the page that it shares, and may read only.
        b.logs(&[3], |b| {
            b.guest_reads(0, 3, 13)?;
            b.guest_writes(0, 3, 33)?;
            b.herald_reads(child, 3, 13)
        })?;
        b.logs(&[], |b| b.herald_writes(child, 1, 31))?;
        b.guest_reads(0, 1, 11)?;
        b.finish()?;
    }
    Ok(())
}

#[test]
fn equal_pages_that_merge_are_not_logged_until_they_part() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        b.fill(0, 0..1, 70)?;
        b.fill(0, 1..2, 69)?;
        b.harvests(0, &[0, 1])?;
        b.logs(&[], |b| {
            b.does(0, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(2), Advice::Mergeable))?;
            (0..4).for_each(|_| _ = b.mm.merge(u64::MAX));
            assert_eq!(b.frame(0, 0), b.frame(0, 1), "they are equal");
            b.check()
        })?;
        b.logs(&[1], |b| b.guest_writes(0, 1, 71))?;
        b.finish()?;
    }
    Ok(())
}

#[test]
fn what_a_device_and_herald_write_is_logged() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        let space = Arc::clone(&b.space(0).space);
        let device = Arc::new(DeviceTlb::new(Arc::clone(&space)));
        b.machine.watch_device(&device);
        let subscriber = Arc::clone(&device) as Arc<dyn MmuNotifier>;
        space.register(Arc::clone(&subscriber));
        for value in [90, 91] {
            b.logs(&[3, 4], |b| {
                device.write(page(3).add(PAGE_SIZE - 4), &[value; 8]).expect("is mapped");
                b.check()
            })?;
        }
        let mut bytes = [0; 8];
        b.logs(&[], |b| {
            device.read(page(3), &mut bytes).expect("is mapped");
            b.check()
        })?;
        assert!(space.unregister(&subscriber));
        drop((subscriber, device, space));
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_huge_page_is_logged_by_base_pages() -> Outcome {
    for by in ways() {
        let b = Bench::new(LARGE);
        b.map_pages(0, 0, 1024)?;
        b.does(0, "MADV_HUGEPAGE", |space| space.madvise(page(0), bytes(1024), Advice::HugePage))?;
        b.fill(0, 3..5, 10)?;
        let size = || b.space(0).space.lookup(page(0)).map(|mapping| mapping.size);
        assert_eq!(size(), Some(PageSize::Size2M));
        b.begin_log(0, by)?;
        b.logs(&[], |b| b.guest_reads(0, 3, 13))?;
        b.logs(&[3, 500], |b| {
            b.guest_writes(0, 3, 20)?;
            b.guest_writes(0, 500, 21)
        })?;
        b.logs(&[3, 600], |b| {
            b.guest_writes(0, 600, 22)?;
            b.guest_writes(0, 3, 23)
        })?;
        assert_eq!(size(), Some(PageSize::Size2M), "the host's page is what it was");
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_log_is_begun_once_and_ends() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        let mmu = Arc::clone(&b.space(0).mmu);
        assert_eq!(mmu.begin_log(Gfn::ZERO, by), Err(LogError::Logged(Gfn::ZERO)));
        assert_eq!(mmu.begin_log(Gfn::new(1), by), Err(LogError::NoSlot(Gfn::new(1))));
        assert_eq!(mmu.logged(), mmu.slots());
        b.guest_writes(0, 0, 20)?;
        assert!(mmu.end_log(Gfn::ZERO) && !mmu.end_log(Gfn::ZERO));
        b.harvests(0, &[])?;
        b.guest_writes(0, 1, 21)?;
        b.begin_log(0, by)?;
        b.logs(&[1], |b| b.guest_writes(0, 1, 22))?;
        let slot = mmu.remove_slot(Gfn::ZERO).expect("a slot");
        assert_eq!(mmu.logged(), []);
        mmu.add_slot(slot).expect("it was there before");
        b.harvests(0, &[])?;
        drop(mmu);
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_guest_whose_space_is_gone_is_not_logged() -> Outcome {
    for by in ways() {
        let b = logged(by)?;
        let mmu = Arc::clone(&b.space(0).mmu);
        assert!(mmu.end_log(Gfn::ZERO));
        b.space(0).space.exit();
        assert_eq!(mmu.begin_log(Gfn::ZERO, by), Err(LogError::Released));
        drop(mmu);
        b.finish()?;
    }
    Ok(())
}
