//! A fault under a shadow, which sets A and D in the guest's tables, and what happens to the page meanwhile that such a table lies in
//! (CVE-2022-1158: KVM went by the host's address of before, and wrote to a frame that somebody else had by then). And the flush that has a table
//! kept from then on, against a store to it by another processor.

use crate::{MACHINE, PAGE, TWO};
use mm::{Advice, CpuIndex};
use mmu::{AccessedDirty, GuestPaging, LinearAccess, LinearFault, PageFault, Processor};
use models::{GUEST, Model, Program, Word, ends_well, in_memory, map};
use tests::lab::{Lab, page};
use tests::machine::{Options, Paging};

/// Entries of 32 bits: the root is page 1, page 2 is its table, which maps page 3.
const PAGING: GuestPaging = GuestPaging {
    cr0: 1 << 31 | 1 << 16 | 1,
    cr3: 0x1000,
    cr4: 0,
    efer: 0,
    pdptes: [0; 4],
    physical_bits: 40,
    gigantic_pages: false,
};
/// Sixteenth entries, at word 8 of either.
const LINEAR: u64 = 16 << 22 | 16 << 12;
const ROOT: Word = Word::of(1);
const TABLE: Word = Word::of(2);
const PRESENT_WRITABLE: u64 = 0b11;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const WRITE: LinearAccess = LinearAccess { write: true, fetch: false, user: false, passes_smap: false };

/// A guest whose tables its processor has not used yet.
fn bed() -> Lab {
    let options = Options { accessed_dirty: AccessedDirty::Absent, paging: Paging::Shadow, ..MACHINE };
    let lab = Lab::with_ram(options, 4);
    map(&lab.space, 0, 4);
    for (word, entry) in [(ROOT, 0x2000), (TABLE, 0x3000)] {
        Program::herald(&lab, 1).store(word, entry | PRESENT_WRITABLE).expect("memory");
    }
    tests::paging::load_root(&lab.machine, &lab.guest(GUEST).mmu, CpuIndex(0), &PAGING);
    lab
}

/// The same, and another processor, without paging, has written the tables: it may go on, by base leaves or by a large one. The first has used two
/// entries of the table.
fn written_bed(pages: u64) -> Lab {
    let options =
        Options { frames: 1200, accessed_dirty: AccessedDirty::Absent, paging: Paging::Shadow, ..MACHINE };
    let lab = Lab::with_ram(options, pages);
    map(&lab.space, 0, pages);
    lab.space.madvise(page(0), pages * PAGE, Advice::HugePage).expect("is mapped");
    for (word, entry) in [(ROOT, 0x2000), (TABLE, 0x3000 << 32 | PRESENT_WRITABLE << 32 | 0x3000)] {
        Program::guest(&lab, 1).store(word, entry | PRESENT_WRITABLE).expect("memory");
    }
    tests::paging::load_root(&lab.machine, &lab.guest(GUEST).mmu, CpuIndex(0), &PAGING);
    for linear in [LINEAR, LINEAR + PAGE] {
        assert_eq!(fault_at(&lab, linear), LinearFault::Mapped);
    }
    lab
}

fn fault(lab: &Lab) -> LinearFault {
    fault_at(lab, LINEAR)
}

fn fault_at(lab: &Lab, linear: u64) -> LinearFault {
    lab.guest(GUEST).mmu.fault_linear(Processor(0), &PAGING, linear, WRITE).expect("memory")
}

/// Whatever comes first: the flush sees the store, or the store loses the table.
fn store_against_flush(bed: fn() -> Lab) {
    Model::new(bed)
        .thread("flush", |lab| {
            lab.guest(GUEST).mmu.load_root(Processor(0), &PAGING).expect("a shadow");
        })
        .thread("store", |lab| {
            Program::guest(lab, 1).store(TABLE, PRESENT_WRITABLE).expect("memory");
        })
        .end(|lab| {
            lab.guest(GUEST).mmu.check_coherence().expect("what is kept says what the table says");
            lab.guest(GUEST).mmu.load_root(Processor(0), &PAGING).expect("a shadow");
            let not_there = LinearFault::Guest(PageFault { code: PageFault::WRITE });
            assert_eq!((fault(&lab), fault_at(&lab, LINEAR + PAGE)), (LinearFault::Mapped, not_there));
            ends_well(lab);
        })
        .holds(TWO.with_passes(2));
}

#[test]
fn a_store_to_a_table_by_a_base_leaf_against_the_flush_that_keeps_it() {
    store_against_flush(|| written_bed(4));
}

#[test]
fn a_store_to_a_table_by_a_large_leaf_against_the_flush_that_keeps_it() {
    store_against_flush(|| {
        let lab = written_bed(512);
        assert_eq!(lab.guest(GUEST).mmu.stats().snapshot().derived_large, 1);
        lab
    });
}

#[test]
fn bits_of_a_table_against_migration_of_its_page() {
    Model::new(bed)
        .thread("guest", |lab| assert_eq!(fault(lab), LinearFault::Mapped))
        .thread("host", |lab| {
            let _ = lab.space.migrate_page(page(2));
        })
        .end(|lab| {
            let entry = 0x3000 | PRESENT_WRITABLE | ACCESSED | DIRTY;
            assert_eq!(in_memory(&lab.space, TABLE), Some(entry));
            ends_well(lab);
        })
        .holds(TWO.with_passes(2));
}

#[test]
fn bits_of_a_table_against_discard_of_its_page() {
    Model::new(bed)
        .thread("guest", |lab| {
            let not_there = LinearFault::Guest(PageFault { code: PageFault::WRITE });
            let found = fault(lab);
            assert!(found == LinearFault::Mapped || found == not_there, "{found:?}");
        })
        .thread("host", |lab| lab.space.discard(page(2), PAGE).expect("is mapped"))
        .end(|lab| {
            assert_eq!(in_memory(&lab.space, TABLE).unwrap_or(0), 0, "what was discarded is written");
            ends_well(lab);
        })
        .holds(TWO.with_passes(2));
}
