//! Operations on a sparse terabyte cost by what is mapped, not by its size. Costs are accesses to tables: counts, no
//! time.

use addr::{Hva, HvaRange, PageSize};
use mm::{Access, AddressSpace, Advice, MapRequest, Mm, Placement, Protection, Remap, VmaKind};
use std::sync::Arc;
use tests::machine::{Machine, Options};

const START: Hva = Hva::new(0x100_0000_0000);
const TERABYTE: u64 = 1 << 40;
/// Where mremap moves it.
const TARGET: Hva = Hva::new(0x300_0000_0000);
/// What one page may cost: its three tables are searched for the next page four times (mremap: to split, to prepare, to
/// move, to remove), and once looked at whether they are empty now; and the way to it.
const A_PAGE: u64 = 5 * 3 * 512 + 100;
/// What an operation may cost that meets nothing: the root's entries, and a little.
const NOTHING: u64 = 2000;

struct Sparse {
    machine: Arc<Machine>,
    mm: Arc<Mm<Machine>>,
    space: Arc<AddressSpace<Machine>>,
}

impl Sparse {
    /// A terabyte in which `pages` pages are mapped, evenly spread, so that no two share a page table.
    fn new(pages: u64) -> Self {
        let machine = Arc::new(Machine::new(Options { frames: 4096, ..Options::default() }));
        let mm = Mm::new(Arc::clone(&machine), None).expect("a zero page");
        let space = AddressSpace::new(&mm).expect("a root");
        let kind = VmaKind::Anonymous(PageSize::Size4K);
        let placement = Placement::Fixed(START);
        let request = MapRequest { placement, len: TERABYTE, protection: Protection::ReadWrite, kind };
        space.mmap(request).expect("room for a terabyte");
        for page in 0..pages {
            space.fault_in(START.add(page * (TERABYTE / 128)), Access::Write).expect("a frame");
        }
        Self { machine, mm, space }
    }

    /// What an operation costs, and its answer.
    fn cost<T>(&self, operation: impl FnOnce(&AddressSpace<Machine>) -> T) -> (u64, T) {
        let before = self.machine.table_accesses();
        let answer = operation(&self.space);
        (self.machine.table_accesses() - before, answer)
    }
}

/// What an operation costs with 100 pages is bounded by their number, and with none by nothing.
fn bounded<T, E: std::fmt::Debug>(what: &str, operation: impl Fn(&AddressSpace<Machine>) -> Result<T, E>) {
    for pages in [0, 1, 100] {
        let sparse = Sparse::new(pages);
        let (cost, answer) = sparse.cost(&operation);
        drop(answer.expect(what));
        let most = NOTHING + pages * A_PAGE;
        assert!(cost <= most, "{what} of {pages} pages: {cost} accesses to tables, at most {most}");
        assert!(sparse.mm.swap_used() == 0);
    }
}

#[test]
fn a_sparse_terabyte_is_unmapped_at_the_cost_of_its_pages() {
    bounded("munmap", |space| space.munmap(START, TERABYTE));
}

#[test]
fn a_sparse_terabyte_is_protected_and_discarded_at_the_cost_of_its_pages() {
    bounded("mprotect", |space| space.mprotect(START, TERABYTE, Protection::Read));
    bounded("discard", |space| space.discard(START, TERABYTE));
}

#[test]
fn a_sparse_terabyte_is_advised_at_the_cost_of_its_pages() {
    for advice in [Advice::Free, Advice::Cold, Advice::PageOut, Advice::HugePage] {
        bounded("madvise", |space| space.madvise(START, TERABYTE, advice));
    }
}

#[test]
fn a_sparse_terabyte_is_forked_and_torn_down_at_the_cost_of_its_pages() {
    bounded("fork", AddressSpace::fork);
    bounded("exit", |space| {
        space.exit();
        Ok::<_, ()>(())
    });
}

/// Fork, and the end of whoever shares tables, look at page directories only.
#[test]
fn a_dense_range_is_forked_and_torn_down_at_the_cost_of_its_directory() {
    const TABLES: u64 = 12;
    const SPAN: u64 = PageSize::Size2M.bytes();
    let sparse = Sparse::new(0);
    for page in HvaRange::new(START, START.add(TABLES / 2 * SPAN)).pages() {
        sparse.space.fault_in(page, Access::Write).expect("a frame");
    }
    for table in TABLES / 2..TABLES {
        sparse.space.fault_in(START.add(table * SPAN), Access::Write).expect("a frame");
    }
    let (cost, child) = sparse.cost(|space| space.fork().expect("a directory"));
    assert!(cost < 20 * TABLES + NOTHING, "fork: {cost} accesses to tables");
    assert_eq!(child.resident_frames(), 0);
    let (cost, ()) = sparse.cost(|_| drop(child));
    // The three upper tables are searched for what is left.
    assert!(cost < 20 * TABLES + 2 * 3 * 512 + NOTHING, "exit: {cost} accesses to tables");
    let (cost, _) = sparse.cost(|space| space.fault_in(START, Access::Write));
    assert!(cost < NOTHING, "one table is looked through: {cost} accesses to tables");
}

#[test]
fn a_sparse_terabyte_is_moved_at_the_cost_of_its_pages() {
    bounded("mremap", |space| space.mremap(START, TERABYTE, TERABYTE, Remap::Fixed(TARGET)));
    let sparse = Sparse::new(100);
    sparse.space.mremap(START, TERABYTE, TERABYTE, Remap::Fixed(TARGET)).expect("a move");
    assert!(sparse.space.lookup(TARGET).is_some() && sparse.space.lookup(START).is_none());
    assert_eq!(sparse.space.vmas()[0].range, HvaRange::new(TARGET, TARGET.add(TERABYTE)));
}
