//! Subscribing and unsubscribing, against everything that calls subscribers: no end is heard without its begin, nothing
//! is heard after the unsubscription has returned, and an entry made after the subscription hears of every change.

use crate::{Bench, NEW, OLD, PAGE, TWO, WORD, file_world, lab, private_world, world_ends_well};
use addr::{Gfn, GfnRange, Hva, HvaRange};
use mm::notifier::MmuNotifier;
use mm::{Access, AddressSpace};
use mmu::{AccessedDirty, DeviceTlb, SecondaryMmu, Slot};
use models::{Bounds, Model, Program, ends_well, everybody_reads, frame_of};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tests::lab::{Lab, page};
use tests::machine::Machine;
use tests::worlds::{STORED, World};

/// A subscriber that counts, and knows when it may not be called.
#[derive(Default)]
struct Strict {
    active: AtomicU64,
    gone: AtomicBool,
}

impl Strict {
    fn called(&self) {
        assert!(!self.gone.load(Ordering::SeqCst), "called after the unsubscription had returned");
    }
}

impl MmuNotifier for Strict {
    fn release(&self) {
        self.called();
    }

    fn clear_flush_young(&self, _: HvaRange) -> bool {
        self.called();
        false
    }

    fn invalidate_page(&self, _: Hva) {
        self.called();
    }

    fn invalidate_range_begin(&self, _: HvaRange) {
        self.called();
        // Other threads run while a begin is worked on.
        sync::switch_point();
        self.active.fetch_add(1, Ordering::SeqCst);
    }

    fn invalidate_range_end(&self, _: HvaRange) {
        self.called();
        sync::switch_point();
        assert!(self.active.fetch_sub(1, Ordering::SeqCst) > 0, "an end without its begin");
    }
}

/// Subscribes for a while.
fn come_and_go(space: &AddressSpace<Machine>) {
    let strict = Arc::new(Strict::default());
    let subscriber = Arc::clone(&strict) as Arc<dyn MmuNotifier>;
    space.register(Arc::clone(&subscriber));
    space.unregister(&subscriber);
    strict.gone.store(true, Ordering::SeqCst);
    assert_eq!(strict.active.load(Ordering::SeqCst), 0, "a begin without its end");
}

fn discard(lab: &Lab) {
    lab.space.discard(page(0), PAGE).expect("is mapped");
}

fn migrate(lab: &Lab) {
    lab.space.migrate_page(page(0)).expect("nobody else has the page");
}

fn lab_against(operation: fn(&Lab), expected: u64) {
    Model::new(lab)
        .thread("subscriber", |lab: &Lab| come_and_go(&lab.space))
        .thread("host", operation)
        .end(move |lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(expected));
            ends_well(lab);
        })
        .holds(TWO);
}

#[test]
fn registration_against_a_range() {
    lab_against(discard, 0);
}

#[test]
fn registration_against_invalidate_page() {
    lab_against(migrate, OLD);
}

#[test]
fn registration_against_a_fault() {
    lab_against(|lab| assert_eq!(Program::guest(lab, 0).store(WORD, NEW), Ok(NEW)), NEW);
}

#[test]
fn registration_against_release() {
    Model::new(lab)
        .thread("subscriber", |lab: &Lab| come_and_go(&lab.space))
        .thread("host", |lab| lab.space.exit())
        .end(ends_well)
        .holds(TWO.with_passes(3));
}

fn world_against(setup: fn() -> World, operation: fn(&World), expected: models::Found) {
    Model::new(setup)
        .thread("subscriber", |world: &World| come_and_go(&world.space(0)))
        .thread("host", operation)
        .end(move |mut world| {
            assert_eq!(crate::guests_read(&world), expected);
            if expected.is_err() {
                world.truncate(STORED, 0).expect("a second truncation");
            }
            world_ends_well(world);
        })
        .holds(TWO.with_passes(3));
}

fn page_out(world: &World) {
    let space = world.space(0);
    let held = frame_of(&space, 0);
    assert_eq!(world.mm.page_out(held.frame), Ok(()));
}

#[test]
fn registration_against_reclaim_by_reverse_map() {
    world_against(private_world, page_out, Ok(OLD));
}

/// A range that comes by a reverse map and holds no mmap lock.
#[test]
fn registration_against_truncation() {
    let truncate = |world: &World| world.mm.truncate(world.file(STORED), 0);
    world_against(file_world, truncate, Err(tests::lab::Verdict::BeyondEnd));
}

/// A second EPT, and a second device, subscribe in the middle of an operation and fault at once.
struct Newcomers {
    lab: Lab,
    mmu: Mutex<Option<Arc<SecondaryMmu<Machine>>>>,
    tlb: Mutex<Option<Arc<DeviceTlb<Machine>>>>,
}

fn newcomers() -> Bench<Newcomers> {
    Bench::new(Newcomers { lab: lab(), mmu: Mutex::default(), tlb: Mutex::default() })
}

fn new_mmu(b: &Bench<Newcomers>) {
    let Newcomers { lab, mmu, .. } = &b.bed;
    let new = SecondaryMmu::new(Arc::clone(&lab.space), AccessedDirty::Hardware).expect("a root");
    let new = Arc::new(new);
    let gfns = GfnRange::sized(Gfn::ZERO, 1).expect("a guest frame");
    new.add_slot(Slot::try_new(gfns, page(0)).expect("aligned")).expect("no overlap");
    lab.space.register(Arc::clone(&new) as Arc<dyn MmuNotifier>);
    new.fault(Gfn::ZERO.base(), Access::Write).expect("memory");
    *mmu.lock().expect("no panic") = Some(new);
}

fn new_tlb(b: &Bench<Newcomers>) {
    let Newcomers { lab, tlb, .. } = &b.bed;
    let new = Arc::new(DeviceTlb::new(Arc::clone(&lab.space)));
    lab.space.register(Arc::clone(&new) as Arc<dyn MmuNotifier>);
    new.read(page(0), &mut [0; 8]).expect("memory");
    *tlb.lock().expect("no panic") = Some(new);
}

fn newcomer_against(newcomer: fn(&Bench<Newcomers>), operation: fn(&Lab)) {
    Model::new(newcomers)
        .thread("newcomer", newcomer)
        .thread("host", move |b| operation(&b.bed.lab))
        .end(|b| {
            let Newcomers { lab, mmu, tlb } = b.bed;
            if let Some(mmu) = mmu.into_inner().expect("no panic") {
                mmu.check_coherence().unwrap_or_else(|found| panic!("{found:?}"));
                assert!(lab.space.unregister(&(mmu as Arc<dyn MmuNotifier>)), "was subscribed");
            }
            if let Some(tlb) = tlb.into_inner().expect("no panic") {
                tlb.check_coherence().unwrap_or_else(|found| panic!("{found:?}"));
                assert!(lab.space.unregister(&(tlb as Arc<dyn MmuNotifier>)), "was subscribed");
            }
            ends_well(lab);
        })
        .holds(Bounds::preemptions(2));
}

#[test]
fn a_new_guest_against_a_range() {
    newcomer_against(new_mmu, discard);
}

#[test]
fn a_new_guest_against_invalidate_page() {
    newcomer_against(new_mmu, |lab| {
        let _ = lab.space.migrate_page(page(0));
    });
}

#[test]
fn a_new_device_against_a_range() {
    newcomer_against(new_tlb, discard);
}
