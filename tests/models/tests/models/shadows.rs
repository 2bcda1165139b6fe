//! What a shadow has derived from a guest's tables, and whoever writes these, ages what they lead to, or takes it away. The guest's first
//! processor, on CPU 0, uses the tables; its second one, on CPU 1, has no paging and writes them.

use crate::guest_tables::{ACCESSED, DIRTY, LINEAR, PAGING, PRESENT_WRITABLE, ROOT, TABLE, WRITE, shadowed};
use crate::{Bench, NEW, OLD, PAGE, TWO};
use addr::Gpa;
use mm::CpuIndex;
use mm::notifier::{MmuNotifier, YoungPages};
use mmu::{Drops, LinearAccess, LinearFault, Processor};
use models::{GUEST, Model, Program, Word, ends_well, map};
use tests::lab::{Lab, page, pages};

const CPU: CpuIndex = CpuIndex(0);
/// Entries with A and D, as leaves beside a fault's want them.
const ENTRY: u64 = PRESENT_WRITABLE | ACCESSED | DIRTY;
/// Where the faulting entry leads, and the one beside it, in the table's next word; and where that may be put.
const HERE: Word = Word::of(3);
const THERE: Word = Word::of(4);
const ELSEWHERE: Word = Word::of(5);
/// The addresses of the two, at the word that programs touch.
const FAULTS: u64 = LINEAR + 64;
const BESIDE: u64 = FAULTS + 2 * PAGE;

/// The first processor loads, and takes its faults.
fn load(lab: &Lab, linear: u64) -> u64 {
    lab.run_guest(GUEST, CPU);
    loop {
        if let Ok(value) = lab.machine.guest_load(CPU, Gpa::new(linear)) {
            return value;
        }
        lab.machine.exit(CPU);
        let access = LinearAccess { write: false, ..WRITE };
        let outcome = lab.guest(GUEST).mmu.fault_linear(Processor(0), &PAGING, linear, access);
        assert_eq!(outcome, Ok(LinearFault::Mapped));
        lab.run_guest(GUEST, CPU);
    }
}

/// The first processor's MOV to CR3.
fn flush(lab: &Lab) {
    lab.machine.exit(CPU);
    tests::paging::load_root(&lab.machine, &lab.guest(GUEST).mmu, CPU, (&PAGING, Drops::Pcid));
}

fn write(lab: &Lab, word: Word, value: u64) {
    Program::guest(lab, 1).store(word, value).map(drop).expect("memory");
}

fn leads_to(word: Word) -> u64 {
    (word.page * PAGE) | ENTRY
}

/// Two entries; all pages are resident, and the guest has its ground of each.
fn bed() -> Lab {
    let lab = Lab::with_ram(shadowed(), 6);
    map(&lab.space, 0, 6);
    for (word, value) in [(HERE, OLD), (THERE, OLD), (ELSEWHERE, NEW)] {
        write(&lab, word, value);
    }
    for (word, value) in [(ROOT, leads_to(TABLE)), (TABLE, leads_to(HERE)), (TABLE.next(), leads_to(THERE))] {
        write(&lab, word, value);
    }
    flush(&lab);
    lab
}

/// The same where the first processor has used one entry, and the second one can write the table by what it has cached.
fn used() -> Lab {
    let lab = bed();
    assert_eq!(load(&lab, FAULTS), OLD);
    write(&lab, TABLE.next(), leads_to(THERE));
    lab
}

/// What was written before a flush holds after it, whoever has written it and however; so does what was written meanwhile, after the next.
#[test]
fn a_flush_against_another_processors_store_to_a_table() {
    Model::new(|| Bench::new(used()))
        .thread("flushes", |b: &Bench<Lab>| {
            let late = b.is_finished();
            flush(&b.bed);
            let found = load(&b.bed, FAULTS);
            assert!(found == NEW || found == OLD && !late, "{found}, after the store: {late}");
        })
        .thread("writes", |b| {
            write(&b.bed, TABLE, leads_to(ELSEWHERE));
            b.finish();
        })
        .end(|b| {
            flush(&b.bed);
            assert_eq!(load(&b.bed, FAULTS), NEW);
            ends_well(b.bed);
        })
        .holds(TWO.with_passes(2));
}

/// A fault derives what is beside it from an entry that changes meanwhile.
#[test]
fn what_is_derived_beside_a_fault_against_a_store_to_its_entry() {
    Model::new(kept)
        .thread("faults", |lab| assert_eq!(load(lab, FAULTS), OLD))
        .thread("writes", |lab| write(lab, TABLE.next(), leads_to(ELSEWHERE)))
        .end(|lab| {
            flush(&lab);
            assert_eq!(load(&lab, BESIDE), NEW);
            ends_well(lab);
        })
        .holds(TWO.with_passes(2));
}

/// A table that is kept, and the first entry's leaf has lost its ground.
fn kept() -> Lab {
    let lab = used();
    flush(&lab);
    lab.space.discard(page(HERE.page), PAGE).expect("is mapped");
    write(&lab, HERE, OLD);
    lab
}

/// ... from ground that goes meanwhile.
#[test]
fn what_is_derived_beside_a_fault_against_discard_of_its_page() {
    Model::new(|| Bench::new(kept()))
        .thread("faults", |b: &Bench<Lab>| {
            assert_eq!(load(&b.bed, FAULTS), OLD);
            let late = b.is_finished();
            let found = load(&b.bed, BESIDE);
            assert!(found == 0 || found == OLD && !late, "{found}, after the discard: {late}");
        })
        .thread("host", |b| {
            b.bed.space.discard(page(THERE.page), PAGE).expect("is mapped");
            b.finish();
        })
        .end(|b| {
            assert_eq!(load(&b.bed, BESIDE), 0);
            ends_well(b.bed);
        })
        .holds(TWO.with_passes(2));
}

/// Which of a guest's two pages were used, told past the model.
fn collect(b: &Bench<Lab>) {
    let mut young = YoungPages::none(pages(HERE.page, 2), 1);
    let mmu = &b.bed.guest(GUEST).mmu;
    mmu.collect_young(&mut young);
    mmu.flush_young();
    let found = (0..2).filter(|index| young.contains(page(HERE.page + index)));
    b.tell(b.told() | found.fold(0, |all, index| all | 1 << index));
}

/// A page that is used while young pages are collected is among them, or among the next.
fn use_against_collection(setup: fn() -> Lab, linear: u64, page: u64) {
    let old = move || {
        let bench = Bench::new(setup());
        (0..2).for_each(|_| collect(&bench));
        bench.tell(0);
        bench
    };
    Model::new(old)
        .thread("guest", move |b: &Bench<Lab>| assert_eq!(load(&b.bed, linear), OLD))
        .thread("aging", collect)
        .end(move |b| {
            collect(&b);
            assert_eq!(b.told() >> page & 1, 1, "the use of a page is lost");
            ends_well(b.bed);
        })
        .holds(TWO.with_passes(2));
}

/// The processor sets A in a leaf that was derived unused.
#[test]
fn use_without_a_fault_against_a_collection_of_young_pages() {
    use_against_collection(used, BESIDE, 1);
}

/// The fault notes the use in the ground, and derives a leaf with A.
#[test]
fn use_by_a_fault_against_a_collection_of_young_pages() {
    use_against_collection(kept, FAULTS, 0);
}
