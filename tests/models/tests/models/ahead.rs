//! A first touch that brings the pages behind it, and what happens to one of these meanwhile.

use crate::{Bench, MACHINE, NEW, PAGE};
use mm::{Access, AddressSpace};
use mmu::FaultOutcome;
use models::{Bounds, GUEST, Model, Program, Word, ends_well, everybody_reads, in_memory, map};
use std::sync::{Arc, Mutex};
use tests::lab::{Lab, Verdict, gpage, page};
use tests::machine::Machine;

type Family = (Lab, Mutex<Option<Arc<AddressSpace<Machine>>>>);

/// Pages that a stream has touched, and one that came with the last of them.
const TOUCHED: u64 = 4;
/// The page that faults, and one that comes with it.
const FAULTS: Word = Word::of(TOUCHED + 1);
const AHEAD: Word = Word::of(TOUCHED + 2);

/// A stream that brings three pages with the next fault: 5, and 6 to 8.
fn bed() -> Lab {
    let lab = Lab::with_ram(MACHINE, 9);
    map(&lab.space, 0, 9);
    for index in 0..TOUCHED {
        assert_eq!(lab.guest(GUEST).mmu.fault(gpage(index), Access::Write), Ok(FaultOutcome::Mapped));
    }
    assert_eq!(lab.space.resident_frames(), TOUCHED + 1);
    lab
}

fn guest_faults(lab: &Lab) {
    let guest = Program::guest(lab, 0);
    guest.store(FAULTS, NEW).expect("memory");
    assert_eq!(guest.load(FAULTS), Ok(NEW));
}

fn against(work: impl Fn(&Lab) + Send + Sync + 'static, left: Result<u64, Verdict>) {
    Model::new(bed)
        .thread("guest", guest_faults)
        .thread("other", work)
        .end(move |lab| {
            assert_eq!(everybody_reads(&lab, FAULTS), Ok(NEW));
            assert_eq!(everybody_reads(&lab, AHEAD), left);
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1));
}

/// What is stored to a page ahead is stored once and for all, whoever brings that page.
#[test]
fn fault_ahead_against_a_fault_of_a_page_ahead() {
    against(|lab| _ = Program::guest(lab, 1).store(AHEAD, NEW).expect("memory"), Ok(NEW));
}

#[test]
fn fault_ahead_against_a_store_of_heralds() {
    against(|lab| _ = Program::herald(lab, 1).store(AHEAD, NEW).expect("memory"), Ok(NEW));
}

#[test]
fn fault_ahead_against_discard_of_a_page_ahead() {
    against(
        |lab| {
            lab.space.discard(page(AHEAD.page), PAGE).expect("is mapped");
            assert_eq!(Program::guest(lab, 1).load(AHEAD), Ok(0));
        },
        Ok(0),
    );
}

#[test]
fn fault_ahead_against_munmap_of_a_page_ahead() {
    against(
        |lab| {
            lab.space.munmap(page(AHEAD.page), PAGE).expect("is mapped");
            assert!(Program::guest(lab, 1).load(AHEAD).is_err());
        },
        Err(Verdict::Unmapped),
    );
}

/// The child has what was stored before the fork, and nothing that was stored later.
#[test]
fn fault_ahead_against_fork() {
    Model::new(|| Bench::new((bed(), Mutex::default())))
        .thread("guest", |b: &Bench<Family>| {
            let late = b.is_finished();
            Program::guest(&b.bed.0, 0).store(FAULTS, NEW).expect("memory");
            Program::guest(&b.bed.0, 0).store(AHEAD, NEW).expect("memory");
            b.tell(u64::from(late));
        })
        .thread("host", |b| {
            let child = b.bed.0.space.fork().expect("frames for tables");
            b.finish();
            *b.bed.1.lock().expect("no panic") = Some(child);
        })
        .end(|b| {
            let late = b.told() == 1;
            let (lab, child) = b.bed;
            let child = child.into_inner().expect("no panic").expect("has forked");
            let found = [FAULTS, AHEAD].map(|word| in_memory(&child, word).unwrap_or(0));
            assert!([[0, 0], [NEW, 0], [NEW, NEW]].contains(&found), "the child has {found:?}");
            assert!(!late || found == [0, 0], "the child has {found:?}, stored after the fork");
            Program::guest(&lab, 0).store(AHEAD, NEW + 1).expect("memory");
            assert_eq!(everybody_reads(&lab, AHEAD), Ok(NEW + 1));
            assert_eq!(in_memory(&child, AHEAD).unwrap_or(0), found[1], "what the parent stores later");
            drop(child);
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1).with_passes(4));
}

/// The page ahead goes to a frame of its own.
#[test]
fn fault_ahead_against_migration_of_a_page_ahead() {
    against(
        |lab| {
            let _ = lab.space.migrate_page(page(AHEAD.page));
            Program::guest(lab, 1).store(AHEAD, NEW).expect("memory");
        },
        Ok(NEW),
    );
}
