//! A fault that maps a whole huge page at once, and a range over one base page of it.

use crate::{Bench, NEW, OLD, PAGE, RW, machine};
use mm::{Advice, Protection};
use models::{Bounds, Model, Program, Word, ends_well, everybody_reads, map};
use tests::lab::{Lab, Verdict, page};
use tests::machine::Options;

/// The page of the range, and one beside it in the same huge page.
const INSIDE: Word = Word::of(5);
const BESIDE: Word = Word::of(6);
/// Loops over the 512 base pages are left in their first rounds only.
const BOUNDS: Bounds = Bounds { preemptions: 2, passes: 2, random: 200 };

/// One huge page, which Herald has touched and the guest has not.
fn bed() -> Bench<Lab> {
    let lab = Lab::with_ram(Options { frames: 1200, quarantine: 64, ..machine() }, 512);
    map(&lab.space, 0, 512);
    lab.space.madvise(page(0), 512 * PAGE, Advice::HugePage).expect("is mapped");
    for word in [INSIDE, BESIDE] {
        Program::herald(&lab, 1).store(word, OLD).expect("memory");
    }
    assert_eq!(lab.space.lookup(page(5)).map(|mapping| mapping.size), Some(addr::PageSize::Size2M));
    Bench::new(lab)
}

fn huge_fault_against(operation: fn(&Lab), after: fn(&Lab)) {
    Model::new(bed)
        .thread("guest", |b: &Bench<Lab>| {
            let guest = Program::guest(&b.bed, 0);
            guest.store(BESIDE, NEW).expect("memory");
            assert_eq!(guest.load(BESIDE), Ok(NEW));
        })
        .thread("host", move |b| operation(&b.bed))
        .end(move |b| {
            after(&b.bed);
            assert_eq!(everybody_reads(&b.bed, BESIDE), Ok(NEW));
            ends_well(b.bed);
        })
        .holds(BOUNDS);
}

#[test]
fn huge_fault_against_discard_of_a_part() {
    huge_fault_against(
        |lab| lab.space.discard(page(5), PAGE).expect("is mapped"),
        |lab| assert_eq!(everybody_reads(lab, INSIDE), Ok(0)),
    );
}

#[test]
fn huge_fault_against_mprotect_of_a_part() {
    huge_fault_against(
        |lab| lab.space.mprotect(page(5), PAGE, Protection::Read).expect("is mapped"),
        |lab| {
            assert_eq!(Program::guest(lab, 0).store(INSIDE, NEW), Err(Verdict::Denied));
            assert_eq!(everybody_reads(lab, INSIDE), Ok(OLD));
            lab.space.mprotect(page(5), PAGE, RW).expect("is mapped");
        },
    );
}

#[test]
fn huge_fault_against_munmap_of_a_part() {
    huge_fault_against(
        |lab| lab.space.munmap(page(5), PAGE).expect("whole pages"),
        |lab| assert_eq!(everybody_reads(lab, INSIDE), Err(Verdict::Unmapped)),
    );
}
