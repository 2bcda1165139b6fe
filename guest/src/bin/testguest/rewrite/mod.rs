//! All processors rewrite their own tables, at random and at all levels, and read and write through their own and each other's: what they find
//! is what the tables say. Flushes and messages come where the architecture requires them, and only there (SDM vol. 3A 4.10.4, 4.10.5).
//! Arguments: `ops=N` (20000), of all processors; `seed=N`; `busy=N` (0): pages beside, of which one is used at each step, so
//! that the host runs short of memory.
//!
//! | what changes | what follows |
//! |---|---|
//! | absent to present; A and D; an entry that nothing leads to | nothing |
//! | more rights | nothing; a store may fault, once |
//! | any other | INVLPG or MOV to CR3 before the owner's next access there; a message to the others before they may rely on it |
//!
//! ```text
//!   step ─┬─ an entry changes, by its physical address or by a page that maps its table ─► a few of these ─► messages: settled
//!         ├─ an access to a page of one's own ─► pages that are pending are dropped first ─► the walk by hand says what is found there
//!         └─ an access to another's ─► settled before and after: as the walk says; else: any page's contents, or a fault
//! ```

mod access;
mod shoot;
mod tree;
mod worker;

use crate::Guest;
use crate::cpus;
use crate::once::Once;
use crate::report::Failure;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use guest::memory::Pages;
use guest::{cpu, println, trap};
use shoot::MOST;
use tree::{ROOTS, TREE};

/// Data pages of 4 KiB, and large ones.
const SMALL: u64 = 48;
const LARGE: u64 = 2;
const FRAMES_OF_LARGE: u64 = 512;

/// What all processors work on.
struct Field {
    count: u64,
    operations: u64,
    seed: u64,
    roots: Pages,
    tables: Pages,
    small: Pages,
    large: Pages,
    busy: Pages,
}

static FIELD: Once<Field> = Once::new();
static STOP: AtomicBool = AtomicBool::new(false);
static FINISHED: AtomicU64 = AtomicU64::new(0);
/// The first mismatch: processor, linear address, what was expected, what was found.
static WRONG: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Its [`Check`].
static WHAT: AtomicU64 = AtomicU64::new(0);
/// Changes of entries, accesses that were compared, messages, faults that are forgiven, accesses while tables changed.
static COUNTS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// A check that fails.
#[derive(Clone, Copy)]
enum Check {
    Contents = 1,
    Fault = 2,
    NoFault = 3,
    Stored = 4,
    Mirror = 5,
    Foreign = 6,
    Busy = 7,
}

impl Check {
    const fn name(number: u64) -> &'static str {
        match number {
            1 => "contents of a page",
            2 => "a fault that the tables do not say",
            3 => "no fault where the tables say one",
            4 => "what a store has left in its page",
            5 => "an entry through a page that maps its table",
            6 => "contents that no page has",
            _ => "a busy page",
        }
    }
}

impl Field {
    fn new(guest: &mut Guest) -> Result<Self, Failure> {
        let count = crate::fwcfg::cpus().min(MOST as u64);
        let field = Self {
            count,
            operations: guest.argument("ops").unwrap_or(20_000),
            seed: guest.argument("seed").unwrap_or(1),
            roots: guest.memory.take(ROOTS)?,
            tables: guest.memory.take(count * TREE)?,
            small: guest.memory.take(SMALL)?,
            large: guest.memory.take_aligned(LARGE * FRAMES_OF_LARGE)?,
            busy: guest.memory.take(guest.argument("busy").unwrap_or(0))?,
        };
        // SAFETY: the boot code's root, one to one, which nobody writes any more.
        let first = unsafe { core::ptr::with_exposed_provenance::<u64>(cpu::cr3() as usize).read_volatile() };
        (0..ROOTS).for_each(|root| field.roots.fill(root, |word| if word == 0 { first } else { 0 }));
        (0..count * TREE).for_each(|table| field.tables.fill(table, |_| 0));
        (0..field.busy.count()).for_each(|page| field.busy.fill(page, |_| page));
        for pages in [&field.small, &field.large] {
            (0..pages.count()).for_each(|page| pages.write(page, 0, tag(pages.page(page).as_u64())));
        }
        Ok(field)
    }

    /// The page of data at an address.
    fn page(&self, frame: u64) -> Option<(&Pages, u64)> {
        [&self.small, &self.large].into_iter().find_map(|pages| {
            let page = frame.checked_sub(pages.page(0).as_u64())? >> 12;
            (page < pages.count() && frame.is_multiple_of(4096)).then_some((pages, page))
        })
    }
}

/// The first word of a page of data.
fn tag(frame: u64) -> u64 {
    frame ^ 0x5a5a_0000_0000_0000
}

fn wrong(check: Check, (me, linear): (u64, u64), expected: u64, found: u64) {
    if WHAT.compare_exchange(0, check as u64, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        let values = [me, linear, expected, found];
        WRONG.iter().zip(values).for_each(|(place, value)| place.store(value, Ordering::SeqCst));
        STOP.store(true, Ordering::SeqCst);
    }
}

fn count(what: usize, how_many: u64) {
    COUNTS[what].fetch_add(how_many, Ordering::Relaxed);
}

fn work(number: u64) {
    let Some(field) = FIELD.get() else { return };
    // SAFETY: the boot code's entry is in each root.
    unsafe {
        cpu::set_cr3(field.roots.page(0).as_u64());
        cpu::set_cr0(cpu::cr0() | 1 << 16);
    }
    if number < field.count {
        worker::Worker::new(field, number).run();
        FINISHED.fetch_add(1, Ordering::SeqCst);
    }
    // Others wait for this one's answers, if it had a part in it.
    while FINISHED.load(Ordering::SeqCst) < field.count && !STOP.load(Ordering::SeqCst) {
        if number < field.count {
            shoot::serve(number, |_| shoot::Means::All);
        }
        core::hint::spin_loop();
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let field = Field::new(guest)?;
    trap::set_exception_hook(access::fault);
    // SAFETY: no other CPU runs, and `set` is called here alone.
    unsafe { FIELD.set(field) };
    let count = cpus::start_all(&mut guest.memory, work)?;
    work(0);
    cpus::join(count)?;
    let [changes, compared, messages, forgiven, meanwhile] =
        [0, 1, 2, 3, 4].map(|what| COUNTS[what].load(Ordering::SeqCst));
    println!(
        "rewrite: {count} CPUs, {changes} entries changed, {compared} accesses compared, {messages} messages, \
         {forgiven} faults forgiven, {meanwhile} accesses meanwhile"
    );
    let [me, linear, expected, found] = [0, 1, 2, 3].map(|place| WRONG[place].load(Ordering::SeqCst));
    match WHAT.load(Ordering::SeqCst) {
        0 => Ok(()),
        check => {
            println!("rewrite: CPU {me} at {linear:#x}");
            Err(Failure::Value { what: Check::name(check), index: linear >> 12, expected, found })
        }
    }
}
