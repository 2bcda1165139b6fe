//! What happens in the middle of an operation: another CPU's operation, at a seam that the first one passes.

use crate::Outcome;
use crate::bench::{Bench, LARGE, Plan, SMALL, bytes};
use crate::devices::DISK;
use addr::{HvaRange, PageSize};
use mm::notifier::MmuNotifier;
use mm::{Access, AddressSpace, Advice, Change, CpuIndex, Host, MapError, Protection, Spared, VmaKind};
use mmu::FaultOutcome;
use paging::FlushScope;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tests::lab::{Verdict, gpage, page, pages};
use tests::machine::{Event, Machine};

/// Has another thread do something, once, the first time that a seam is passed that `when` knows.
pub(crate) fn meanwhile(
    b: &Arc<Bench>,
    when: impl Fn(Event) -> bool + Send + 'static,
    work: impl Fn(&Bench) + Send + Sync + 'static,
) {
    let (bench, work) = (Arc::downgrade(b), Arc::new(work));
    let mut waits = true;
    b.machine.set_hook(move |event| {
        if waits && when(event) {
            waits = false;
            let (bench, work) = (bench.upgrade().expect("the bench lives"), Arc::clone(&work));
            std::thread::spawn(move || work(&bench)).join().expect("the other thread's work");
        }
    });
}

pub(crate) fn finish(b: Arc<Bench>) -> Outcome {
    b.machine.clear_hook();
    Arc::into_inner(b).expect("the other threads have ended").finish()
}

/// Write-back has made the entry of space 0 clean and read-only, but not yet the frame: mprotect must not take the
/// frame's word that a write is on account already.
#[test]
fn memory_made_writable_during_a_write_back_does_not_lose_what_is_written() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, platter) = b.disk_file(2);
    b.add_space();
    for space in [0, 1] {
        b.map(space, pages(0, 2), VmaKind::Shared(Arc::clone(&file), 0))?;
        b.guest_writes(space, 0, 10)?;
    }
    b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(2), Protection::Read))?;
    let other = b.space(1).space.root();
    let of_other =
        move |event| matches!(event, Event::Request(FlushScope::Primary { root, .. }) if root == other);
    meanwhile(&b, of_other, |b| {
        b.space(0).space.mprotect(page(0), bytes(2), Protection::ReadWrite).expect("a change of rights");
    });
    b.mm.write_back(&file).expect("a disk that works");
    b.check()?;
    b.guest_writes(0, 0, 20)?;
    b.page_out(1, 0)?;
    b.same("the disk", Verdict::Value(20), Verdict::Value(platter.word(0)))?;
    b.both_read(1, 0, 20)?;
    drop(file);
    finish(b)
}

/// The copy is made, and before it is mapped the page is cut off.
#[test]
fn a_private_copy_does_not_outlive_a_truncation_that_it_did_not_see() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, _) = b.disk_file(4);
    b.map(0, pages(0, 4), VmaKind::Private(Arc::clone(&file), 0))?;
    b.add_space();
    b.map(1, pages(0, 4), VmaKind::Shared(Arc::clone(&file), 0))?;
    b.both_read(1, 3, DISK + 3)?;
    let cut = Arc::clone(&file);
    meanwhile(&b, |event| event == Event::Copy, move |b| b.mm.truncate(&cut, 2));
    b.same("a guest's store", Verdict::BeyondEnd, b.guest_store(0, 3, 5))?;
    b.same("a guest's load", Verdict::BeyondEnd, b.guest_load(0, 3))?;
    b.both_read(0, 1, DISK + 1)?;
    b.machine.clear_hook();
    drop(file);
    finish(b)
}

/// A guest's fault copies a page. Meanwhile the slot goes: that the fault's own call has raised the sequence, too, hides nothing.
#[test]
fn a_slot_that_goes_while_a_page_is_copied_gets_no_entry() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    let child = b.fork(0)?;
    b.guest_writes(0, 1, 21)?;
    let stats = || b.space(0).mmu.stats().snapshot();
    assert_eq!(stats().retries, 0, "what the fault itself has called is no reason to look again");
    meanwhile(
        &b,
        |event| event == Event::Copy,
        |b| {
            b.space(0).mmu.remove_slot(gpage(0).gfn()).expect("a slot");
        },
    );
    let outcome = b.space(0).mmu.fault(gpage(0), Access::Write);
    assert_eq!(outcome, Ok(FaultOutcome::NotRam));
    assert_eq!(b.space(0).mmu.lookup(gpage(0).gfn()), None);
    b.machine.clear_hook();
    b.herald_reads(child, 0, 10)?;
    finish(b)
}

/// CVE-2020-29374, by the way of swap: who holds on to the frame does not see what its last space writes later.
#[test]
fn a_page_that_comes_back_from_swap_is_not_written_under_somebody_who_holds_it() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..1, 10)?;
    let child = b.fork(0)?;
    b.both_read(child, 0, 10)?;
    b.holding(child, 0, |frame| {
        let meta = b.machine.frames().meta(frame);
        meta.get();
        assert_eq!(b.mm.page_out(frame), Err(Spared::Busy));
        assert!(!meta.put());
        b.space(child).space.discard(page(0), bytes(1)).expect("a discard");
        assert_eq!(b.guest_store(0, 0, 20), Verdict::Done);
        assert_eq!(b.machine.peek(frame, 0), 10, "the holder sees a later write");
    })?;
    b.both_read(0, 0, 20)?;
    b.finish()
}

/// A store's fault has no page yet. Before it has, another processor is faster: the page is his, and what he has stored stays.
#[test]
fn a_page_that_somebody_else_has_brought_meanwhile_is_his() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    b.map_pages(0, 0, 2)?;
    // The page table is there.
    b.guest_writes(0, 1, 10)?;
    let first = |event| matches!(event, Event::AllocateFrame(PageSize::Size4K));
    meanwhile(&b, first, |b| assert_eq!(b.store(0, 0, 20), Verdict::Done));
    assert_eq!(b.space(0).space.fault_in(page(0), Access::Write).map(|mapping| mapping.writable), Ok(true));
    assert_eq!(b.space(0).space.resident_frames(), 2);
    b.both_read(0, 0, 20)?;
    finish(b)
}

/// A page was read from its slot. Before it is cached the slot is freed, and given to another page.
#[test]
fn a_slot_that_changes_hands_while_it_is_read_gives_nobody_the_wrong_page() -> Outcome {
    let b = Arc::new(Bench::new(Plan { swap: 1, ..SMALL }));
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    b.page_out(0, 0)?;
    let other = Arc::clone(&b);
    b.swap.after_next_read(move || {
        other.space(0).space.discard(page(0), bytes(1)).expect("a discard");
        other.space(0).space.madvise(page(1), bytes(1), Advice::PageOut).expect("advice");
        assert_eq!(other.frame(0, 1), None);
    });
    b.guest_reads(0, 0, 0)?;
    b.both_read(0, 1, 11)?;
    finish(b)
}

/// A page was read from its slot. Before it is cached another processor was faster: the page has come back, was written, and has
/// gone again, to the same slot, since a copy may stay.
#[test]
fn a_page_that_came_back_and_went_again_while_it_was_read_is_read_again() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    b.swap.keeps.store(true, Ordering::Relaxed);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    b.page_out(0, 0)?;
    let other = Arc::clone(&b);
    b.swap.after_next_read(move || {
        assert_eq!(other.load(0, 0), Verdict::Value(10));
        assert_eq!(other.store(0, 0, 20), Verdict::Done);
        other.space(0).space.madvise(page(0), bytes(1), Advice::PageOut).expect("advice");
        assert_eq!(other.frame(0, 0), None);
    });
    b.both_read(0, 0, 20)?;
    finish(b)
}

/// A page was read from the disk. Before it is cached another space writes it, and it is written back and evicted.
#[test]
fn a_page_of_a_file_that_was_read_too_early_is_read_again() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, platter) = b.disk_file(2);
    b.add_space();
    for space in [0, 1] {
        b.map(space, pages(0, 2), VmaKind::Shared(Arc::clone(&file), 0))?;
    }
    let other = Arc::clone(&b);
    platter.after_next_read(move || {
        assert_eq!(other.guest_store(1, 0, 20), Verdict::Done);
        other.space(1).space.madvise(page(0), bytes(1), Advice::PageOut).expect("advice");
        assert_eq!(other.frame(1, 0), None);
    });
    b.guest_reads(0, 0, 20)?;
    b.both_read(1, 0, 20)?;
    drop(file);
    finish(b)
}

/// The disk has the page. What the guest writes now is not on it, and must not be forgotten.
#[test]
fn what_is_written_while_a_page_is_on_its_way_to_the_disk_is_not_lost() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, platter) = b.disk_file(2);
    b.map(0, pages(0, 2), VmaKind::Shared(Arc::clone(&file), 0))?;
    b.guest_writes(0, 0, 10)?;
    let (other, written) = (Arc::clone(&b), Arc::new(AtomicU64::new(10)));
    let late = Arc::clone(&written);
    platter.after_next_write(move || {
        // Without the handler, which would wait for the page.
        if other.machine.guest_store(other.space(0).guest_cpu, gpage(0), 20).is_ok() {
            late.store(20, Ordering::Relaxed);
        }
    });
    b.mm.write_back(&file).expect("a disk that works");
    b.page_out(0, 0)?;
    b.both_read(0, 0, written.load(Ordering::Relaxed))?;
    b.guest_writes(0, 0, 30)?;
    b.page_out(0, 0)?;
    b.same("the disk", Verdict::Value(30), Verdict::Value(platter.word(0)))?;
    drop(file);
    finish(b)
}

/// Between the look at the entry and its clearing the CPU sets D, the only sign of a write after `MADV_FREE`.
#[test]
fn what_is_written_when_a_page_is_about_to_move_is_kept() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    b.map_pages(0, 0, 1)?;
    b.herald_writes(0, 0, 10)?;
    b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(1), Advice::Free))?;
    meanwhile(
        &b,
        |event| matches!(event, Event::Change(_)),
        |b| {
            b.machine.store_linear(b.space(0).herald_cpu, page(0), 20).expect("is mapped");
        },
    );
    b.does(0, "migration", |space| space.migrate_page(page(0)))?;
    b.machine.clear_hook();
    b.page_out(0, 0)?;
    b.both_read(0, 0, 20)?;
    finish(b)
}

/// The page was found in the cache. Before it is mapped it is cut off.
#[test]
fn a_page_of_a_file_that_is_cut_off_while_it_is_mapped_is_refused() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, _) = b.disk_file(4);
    let far = 1 << 27;
    b.map(0, pages(0, 4), VmaKind::Shared(Arc::clone(&file), 0))?;
    b.map(0, pages(far, 4), VmaKind::Shared(Arc::clone(&file), 0))?;
    b.both_read(0, 3, DISK + 3)?;
    let cut = Arc::clone(&file);
    meanwhile(&b, |event| event == Event::AllocateTable, move |b| b.mm.truncate(&cut, 2));
    b.same("Herald's load", Verdict::BeyondEnd, b.load(0, far + 3))?;
    b.herald_reads(0, far + 1, DISK + 1)?;
    b.machine.clear_hook();
    drop(file);
    finish(b)
}

/// When the second page is copied, the first has been: nobody may write to it any more where it was.
#[test]
fn nothing_is_written_to_base_pages_that_have_been_copied_to_a_huge_one() -> Outcome {
    let b = Arc::new(Bench::new(LARGE));
    b.map_pages(0, 0, 512)?;
    for index in 0..512 {
        assert_eq!(b.store(0, index, index), Verdict::Done);
    }
    let written = Arc::new(AtomicU64::new(0));
    let (copies, result) = (AtomicU64::new(0), Arc::clone(&written));
    let second = move |event| event == Event::Copy && copies.fetch_add(1, Ordering::Relaxed) == 1;
    meanwhile(&b, second, move |b| {
        let store = b.machine.store_linear(CpuIndex(1), page(0), 77);
        result.store(if store.is_ok() { 77 } else { 0 }, Ordering::Relaxed);
    });
    assert_eq!(b.space(0).space.collapse(page(0)), Ok(true));
    b.machine.clear_hook();
    b.both_read(0, 0, written.load(Ordering::Relaxed))?;
    finish(b)
}

/// While the pages are copied a CPU walks the table that is about to go, and remembers the way to it.
#[test]
fn the_table_of_pages_that_are_collapsed_is_not_freed_under_a_cpu_that_has_cached_the_way() -> Outcome {
    let b = Arc::new(Bench::new(LARGE));
    b.map_pages(0, 0, 512)?;
    (0..512).for_each(|index| assert_eq!(b.store(0, index, index), Verdict::Done));
    meanwhile(&b, |event| event == Event::Copy, |b| b.machine.speculate(CpuIndex(1), page(7).as_u64()));
    assert_eq!(b.space(0).space.collapse(page(0)), Ok(true));
    b.machine.clear_hook();
    b.both_read(0, 7, 7)?;
    finish(b)
}

type Operation = fn(&AddressSpace<Machine>) -> Result<(), MapError>;

/// Has another thread write page 20 of space 0 when a range begins, once.
struct Neighbour {
    bench: Weak<Bench>,
    waits: AtomicBool,
}

impl MmuNotifier for Neighbour {
    fn invalidate_range_begin(&self, _: HvaRange) {
        if self.waits.swap(false, Ordering::Relaxed) {
            let bench = self.bench.upgrade().expect("the bench lives");
            let thread = std::thread::spawn(move || assert_eq!(bench.store(0, 20, 77), Verdict::Done));
            thread.join().expect("the other thread's work");
        }
    }
}

/// Nothing is mapped when an operation on page 5 begins. A fault on page 20 must not put a huge page over both, which
/// the operation would take for its own.
#[test]
fn a_page_beside_one_that_is_given_up_meanwhile_keeps_what_is_written() -> Outcome {
    let operations: [Operation; 3] = [
        |space| space.discard(page(5), bytes(1)),
        |space| space.madvise(page(5), bytes(1), Advice::Free),
        |space| space.apply_to_page_range(page(5), bytes(1), |_, _| Ok(Change::Unmap)),
    ];
    for operation in operations {
        let b = Arc::new(Bench::new(LARGE));
        b.map_pages(0, 0, 1024)?;
        b.does(0, "MADV_HUGEPAGE", |space| space.madvise(page(0), bytes(1024), Advice::HugePage))?;
        let neighbour = Neighbour { bench: Arc::downgrade(&b), waits: AtomicBool::new(true) };
        b.space(0).space.register(Arc::new(neighbour));
        operation(&b.space(0).space).expect("is mapped");
        b.both_read(0, 20, 77)?;
        b.guest_reads(0, 5, 0)?;
        b.page_out(0, 20)?;
        b.both_read(0, 20, 77)?;
        finish(b)?;
    }
    Ok(())
}
