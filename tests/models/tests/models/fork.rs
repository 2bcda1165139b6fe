//! fork, and a fault: the child gets the page as it was at one moment, and nothing that is stored later.

use crate::{Bench, NEW, OLD, TWO, WORD, busy_lab, lab};
use mm::AddressSpace;
use models::{Found, Model, Program, Touch, by_device, ends_well, everybody_reads, in_memory};
use std::sync::{Arc, Mutex};
use tests::lab::Lab;
use tests::machine::Machine;

struct Family {
    lab: Lab,
    child: Mutex<Option<Arc<AddressSpace<Machine>>>>,
}

/// Two stores, one after the other, in one page; meanwhile the space forks.
fn fork_against(name: &'static str, setup: fn() -> Lab, store: fn(&Lab, Touch, Touch) -> [Found; 2]) {
    Model::new(move || Bench::new(Family { lab: setup(), child: Mutex::default() }))
        .thread(name, move |b: &Bench<Family>| {
            let late = b.is_finished();
            let stored = store(&b.bed.lab, Touch::Store(NEW), Touch::Store(NEW + 1));
            assert_eq!(stored, [Ok(NEW), Ok(NEW + 1)]);
            b.tell(u64::from(late));
        })
        .thread("host", |b| {
            let child = b.bed.lab.space.fork().expect("frames for tables");
            b.finish();
            *b.bed.child.lock().expect("no panic") = Some(child);
        })
        .end(move |b| {
            let late = b.told() == 1;
            let Family { lab, child } = b.bed;
            let child = child.into_inner().expect("no panic").expect("has forked");
            let found = [WORD, WORD.next()].map(|word| in_memory(&child, word).expect("is resident"));
            let before = [[OLD, 0], [NEW, 0], [NEW, NEW + 1]];
            assert!(before.contains(&found), "the child has {found:?}");
            assert!(!late || found == [OLD, 0], "the child has {found:?}, stored after the fork");
            assert_eq!(store(&lab, Touch::Store(NEW), Touch::Store(77)), [Ok(NEW), Ok(77)]);
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            assert_eq!(everybody_reads(&lab, WORD.next()), Ok(77));
            let later = [WORD, WORD.next()].map(|word| in_memory(&child, word).expect("is resident"));
            assert_eq!(later, found, "what the parent stores later");
            drop(child);
            ends_well(lab);
        })
        .holds(TWO.with_passes(4));
}

fn by_guest(lab: &Lab, one: Touch, other: Touch) -> [Found; 2] {
    let guest = Program::guest(lab, 0);
    [guest.touch(WORD, one), guest.touch(WORD.next(), other)]
}

#[test]
fn fork_against_a_guests_fault() {
    fork_against("guest", lab, by_guest);
}

#[test]
fn fork_against_a_running_guest() {
    fork_against("guest", busy_lab, by_guest);
}

#[test]
fn fork_against_a_device() {
    fork_against("device", lab, |lab, one, other| {
        [by_device(lab, WORD, one), by_device(lab, WORD.next(), other)]
    });
}

#[test]
fn fork_against_herald() {
    fork_against("herald", lab, |lab, one, other| {
        let herald = Program::herald(lab, 1);
        [herald.touch(WORD, one), herald.touch(WORD.next(), other)]
    });
}
