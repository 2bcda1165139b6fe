//! Who notices that a page was written (I7), and who must not think so: what was written is kept, what was only read may
//! go, and a page that counts as written already costs its guest one fault, not two.

use crate::Outcome;
use crate::bench::{Bench, LARGE, SMALL, SpaceId, bytes};
use mm::notifier::MmuNotifier;
use mm::{Advice, Remap, VmaKind};
use mmu::DeviceTlb;
use std::sync::Arc;
use tests::lab::{Verdict, page, pages};
use tests::machine::Machine;

/// A device of space 0, while `work` uses it.
fn with_device(b: &Bench, work: impl FnOnce(&DeviceTlb<Machine>)) -> Outcome {
    let space = Arc::clone(&b.space(0).space);
    let device = Arc::new(DeviceTlb::new(Arc::clone(&space)));
    b.machine.watch_device(&device);
    let subscriber = Arc::clone(&device) as Arc<dyn MmuNotifier>;
    space.register(Arc::clone(&subscriber));
    work(&device);
    b.check()?;
    assert!(space.unregister(&subscriber));
    Ok(())
}

/// Two pages that Herald and the guest have written, and whose contents do not matter any more.
fn freed(b: &Bench) -> Outcome {
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(2), Advice::Free))
}

#[test]
fn what_a_device_writes_after_madv_free_is_kept() -> Outcome {
    let b = Bench::new(SMALL);
    freed(&b)?;
    with_device(&b, |device| device.write(page(0), &20u64.to_le_bytes()).expect("is mapped"))?;
    b.page_out(0, 0)?;
    b.both_read(0, 0, 20)?;
    b.finish()
}

#[test]
fn what_is_only_read_after_madv_free_may_go() -> Outcome {
    let b = Bench::new(SMALL);
    freed(&b)?;
    b.guest_reads(0, 0, 10)?;
    let mut word = [0; 8];
    with_device(&b, |device| device.read(page(1), &mut word).expect("is mapped"))?;
    assert_eq!(u64::from_le_bytes(word), 11);
    b.page_out(0, 0)?;
    b.page_out(0, 1)?;
    assert_eq!(b.mm.swap_used(), 0, "somebody took a read for a write");
    b.both_read(0, 0, 0)?;
    b.both_read(0, 1, 0)?;
    b.finish()
}

#[test]
fn what_a_guest_writes_to_a_page_that_was_mapped_around_after_madv_free_is_kept() -> Outcome {
    let b = Bench::new(SMALL);
    freed(&b)?;
    b.guest_reads(0, 1, 11)?;
    b.guest_writes(0, 0, 20)?;
    b.page_out(0, 0)?;
    b.both_read(0, 0, 20)?;
    b.page_out(0, 1)?;
    assert_eq!(b.mm.swap_used(), 0, "a page that was only read was written out");
    b.finish()
}

#[test]
fn what_herald_writes_after_madv_free_is_kept_where_mremap_takes_it() -> Outcome {
    let b = Bench::new(SMALL);
    freed(&b)?;
    b.herald_writes(0, 0, 20)?;
    b.does(0, "mremap", |space| space.mremap(page(0), bytes(1), bytes(1), Remap::Fixed(page(4))))?;
    b.page_out(0, 4)?;
    b.both_read(0, 4, 20)?;
    b.finish()
}

/// The guest reads the page, then writes it: how many faults were resolved.
fn faults(b: &Bench, id: SpaceId, index: u64) -> u64 {
    let installed = || b.space(id).mmu.stats().snapshot().installed;
    let before = installed();
    assert!(matches!(b.guest_load(id, index), Verdict::Value(_)));
    assert_eq!(b.guest_store(id, index, 77), Verdict::Done);
    installed() - before
}

#[test]
fn a_page_that_herald_has_written_costs_its_guest_one_fault() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    for index in 0..4 {
        b.herald_writes(0, index, index)?;
    }
    assert_eq!(faults(&b, 0, 0), 1, "of a fresh page");
    b.does(0, "migration", |space| space.migrate_page(page(1)))?;
    assert_eq!(faults(&b, 0, 1), 1, "of a page that has moved");
    b.page_out(0, 2)?;
    b.herald_reads(0, 2, 2)?;
    assert_eq!(faults(&b, 0, 2), 1, "of a page that was in swap");
    b.finish()
}

#[test]
fn a_page_that_was_reused_for_a_write_costs_its_guest_one_fault() -> Outcome {
    let b = Bench::new(SMALL);
    freed(&b)?;
    let child = b.fork(0)?;
    // Makes it copy the table that the two share.
    b.herald_writes(child, 1, 30)?;
    b.end_space(child)?;
    b.herald_writes(0, 0, 20)?;
    assert_eq!(faults(&b, 0, 0), 1);
    b.finish()
}

#[test]
fn a_huge_page_that_herald_has_written_costs_its_guest_one_fault() -> Outcome {
    let b = Bench::new(LARGE);
    b.map_pages(0, 0, 1024)?;
    b.does(0, "MADV_HUGEPAGE", |space| space.madvise(page(0), bytes(512), Advice::HugePage))?;
    b.herald_writes(0, 3, 3)?;
    assert_eq!(faults(&b, 0, 5), 1, "of a huge page");
    (512..1024).for_each(|index| assert_eq!(b.store(0, index, index), Verdict::Done));
    assert_eq!(b.space(0).space.collapse(page(512)), Ok(true));
    assert_eq!(faults(&b, 0, 600), 1, "of a page that was collapsed");
    b.finish()
}

/// A CPU may have cached the way to a page table that holds notes only, which nobody flushes one by one.
#[test]
fn the_table_of_pages_in_swap_is_not_freed_under_a_cpu_that_has_cached_the_way() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    b.page_out(0, 0)?;
    b.page_out(0, 1)?;
    let far = 1 << 27;
    b.machine.speculate(b.space(0).herald_cpu, page(0).as_u64());
    b.does(0, "mremap", |space| space.mremap(page(0), bytes(2), bytes(2), Remap::Fixed(page(far))))?;
    b.herald_reads(0, far + 1, 11)?;
    assert!(b.space(0).space.lookup(pages(0, 1).start()).is_none());
    b.finish()
}

#[test]
fn pages_of_a_file_that_are_locked_in_memory_are_not_written_back_for_it() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, platter) = b.disk_file(2);
    b.map(0, pages(0, 2), VmaKind::Shared(Arc::clone(&file), 0))?;
    b.does(0, "mlock", |space| space.mlock(page(0), bytes(2)))?;
    assert!(b.frame(0, 0).is_some() && b.frame(0, 1).is_some());
    b.mm.write_back(&file).expect("a disk that works");
    assert_eq!(platter.writes(), 0);
    drop(file);
    b.finish()
}
