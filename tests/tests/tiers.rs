//! Swap in tiers: what was written comes back, wherever it has gone meanwhile.

use addr::{PAGE_SIZE, PageSize, Pfn};
use mm::{FrameMemory, Host, SlotError, SwapDevice, Unwritten};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, proptest};
use proptest::prop_oneof;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sync::{Held, Rank};
use tests::machine::{Machine, Options};
use tiers::{BlockDevice, BlockError, Memory, Tiers};

type Page = [u8; PAGE_SIZE as usize];
type Hook = Box<dyn FnOnce() + Send>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk whose blocks may be bad.
#[derive(Default)]
struct Platter {
    blocks: BTreeMap<u64, Page>,
    bad: Vec<u64>,
    fails_writes: bool,
    requests: Vec<(u64, usize)>,
    in_next_request: Option<Hook>,
}

struct Disk(Arc<Machine>, Arc<Mutex<Platter>>, u64);

impl Disk {
    /// Counts a request, and lets others do what they do meanwhile.
    fn begin(&self, first: u64, frames: &[Pfn]) {
        drop(Held::acquire(Rank::Board));
        assert!(!frames.is_empty() && frames.len() <= tiers::MOST_PAGES);
        let mut platter = lock(&self.1);
        platter.requests.push((first, frames.len()));
        let hook = platter.in_next_request.take();
        drop(platter);
        hook.into_iter().for_each(|hook| hook());
    }
}

impl BlockDevice for Disk {
    fn blocks(&self) -> u64 {
        self.2
    }

    fn read(&self, first: u64, frames: &[Pfn]) -> Result<(), BlockError> {
        self.begin(first, frames);
        let platter = lock(&self.1);
        for (block, &frame) in (first..).zip(frames) {
            if platter.bad.contains(&block) {
                return Err(BlockError { block });
            }
            let page = platter.blocks.get(&block).expect("only what was written is read");
            self.0.write_bytes(frame, 0, page);
        }
        Ok(())
    }

    fn write(&self, first: u64, frames: &[Pfn]) -> Result<(), BlockError> {
        let pages: Vec<Page> = frames.iter().map(|&frame| contents(&self.0, frame)).collect();
        self.begin(first, frames);
        let mut platter = lock(&self.1);
        if platter.fails_writes {
            return Err(BlockError { block: first });
        }
        platter.blocks.extend((first..).zip(pages));
        Ok(())
    }

    fn wait(&self) {}
}

fn contents(machine: &Machine, frame: Pfn) -> Page {
    let mut page = [0; PAGE_SIZE as usize];
    machine.read_bytes(frame, 0, &mut page);
    page
}

/// A page of its own for each number: of one word, one that compresses, or one that does not.
fn page(number: u64) -> Page {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut page = [0; PAGE_SIZE as usize];
    for (index, word) in page.chunks_exact_mut(8).enumerate() {
        if number % 3 == 2 || (number % 3 == 1 && index % 16 == 0) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        word.copy_from_slice(&state.to_le_bytes());
    }
    page
}

/// Refused is not full: only for what they hold are pages passed over later.
#[test]
fn what_does_not_compress_is_refused_and_what_finds_no_room_is_not() {
    let bench = Bench::new((Memory::Compressed, 4), 0);
    let write = |slot, page: Page| {
        bench.machine.write_bytes(bench.frame, 0, &page);
        bench.tiers.write(slot, bench.frame)
    };
    assert_eq!(write(0, page(RANDOM)), Err(Unwritten::Refused));
    assert_eq!(write(1, page(PACKED)), Ok(()));
    // Of another size: it needs a span of its own, and there is but one.
    let mut half = page(RANDOM);
    half[PAGE_SIZE as usize / 2..].fill(0);
    assert_eq!(write(2, half), Err(Unwritten::Failed(SlotError { slot: 2 })));
}

/// One, as many as are kept as words, and one more, which LZ4 gets: all take the smallest object, and come back.
#[test]
fn pages_of_few_words_are_kept_as_these_words_and_come_back() {
    let bench = Bench::new((Memory::Compressed, 64), 64);
    let sparse = |count: usize| {
        let mut page = [0; PAGE_SIZE as usize];
        let places = page.chunks_exact_mut(8).step_by(20).take(count);
        places.for_each(|word| word.copy_from_slice(&[count as u8; 8]));
        page[PAGE_SIZE as usize - 1] = 1;
        page
    };
    let pages = [0, 1, 24, 25].map(sparse);
    for (slot, page) in (0..).zip(&pages) {
        bench.machine.write_bytes(bench.frame, 0, page);
        assert_eq!(bench.tiers.write(slot, bench.frame), Ok(()));
    }
    let counts = bench.tiers.counts();
    assert_eq!((counts.pages, counts.filled, counts.frames), (4, 0, 4));
    assert!((0..).zip(&pages).all(|(slot, page)| bench.read(slot) == Some(*page)));
    while bench.tiers.make_room() {}
    assert_eq!(bench.tiers.counts().on_disk, 4);
    assert!((0..).zip(&pages).all(|(slot, page)| bench.read(slot) == Some(*page)));
}

const RANDOM: u64 = 2;
const PACKED: u64 = 1;

struct Bench {
    machine: Arc<Machine>,
    platter: Arc<Mutex<Platter>>,
    tiers: Arc<Tiers<Machine>>,
    frame: Pfn,
}

impl Bench {
    fn new(memory: (Memory, u64), blocks: u64) -> Self {
        let machine = Arc::new(Machine::new(Options { frames: 2048, quarantine: 0, ..Options::default() }));
        let platter = Arc::default();
        let disk = Disk(Arc::clone(&machine), Arc::clone(&platter), blocks);
        let disk = (blocks > 0).then(|| Box::new(disk) as Box<dyn BlockDevice>);
        let tiers = Arc::new(Tiers::new(Arc::clone(&machine), memory, disk).expect("memory"));
        let frame = machine.allocate_zeroed(PageSize::Size4K).expect("a frame");
        Self { machine, platter, tiers, frame }
    }

    fn write(&self, slot: u64, number: u64) -> bool {
        self.machine.write_bytes(self.frame, 0, &page(number));
        self.tiers.write(slot, self.frame).is_ok()
    }

    fn read(&self, slot: u64) -> Option<Page> {
        self.machine.write_bytes(self.frame, 0, &[0xa5; PAGE_SIZE as usize]);
        self.tiers.read(slot, self.frame).ok().map(|()| contents(&self.machine, self.frame))
    }

    fn has(&self, slot: u64, number: u64) -> bool {
        self.read(slot) == Some(page(number))
    }

    fn in_next_request(&self, hook: impl FnOnce(&Tiers<Machine>) + Send + 'static) {
        let tiers = Arc::clone(&self.tiers);
        lock(&self.platter).in_next_request = Some(Box::new(move || hook(&tiers)));
    }
}

#[test]
fn all_kinds_come_back_from_memory_and_from_disk() {
    let bench = Bench::new((Memory::Compressed, 64), 64);
    for slot in 0..12 {
        assert!(bench.write(slot, slot));
    }
    assert!((0..12).all(|slot| bench.has(slot, slot)));
    while bench.tiers.make_room() {}
    let counts = bench.tiers.counts();
    assert_eq!((counts.on_disk, counts.pages, counts.filled, counts.frames), (8, 4, 4, 0));
    assert!((0..12).all(|slot| bench.has(slot, slot)));
}

#[test]
fn without_a_disk_what_does_not_compress_is_refused() {
    let bench = Bench::new((Memory::Compressed, 64), 0);
    assert!(bench.write(0, PACKED) && !bench.write(1, RANDOM));
    assert_eq!((bench.tiers.counts().refused, bench.read(1)), (1, None));
}

#[test]
fn on_the_way_to_disk_alone_nothing_is_compressed() {
    let bench = Bench::new((Memory::Passed, 32), 64);
    assert!((0..16).all(|slot| bench.write(slot, 3 * slot + PACKED)));
    assert_eq!((bench.tiers.counts().frames, bench.tiers.is_crowded()), (16, true));
    assert!(bench.tiers.move_down());
    assert!(!bench.tiers.is_crowded() && (0..16).all(|slot| bench.has(slot, 3 * slot + PACKED)));
    assert_eq!(lock(&bench.platter).requests[0], (0, 16), "they go together");
}

#[test]
fn a_full_disk_takes_no_more_than_it_has_room_for() {
    let bench = Bench::new((Memory::Passed, 32), 4);
    assert_eq!((0..8).filter(|&slot| bench.write(slot % 4, 3 * slot + RANDOM)).count(), 4);
}

#[test]
fn a_page_given_up_on_its_way_leaves_no_trace() {
    let bench = Bench::new((Memory::Passed, 32), 16);
    assert!(bench.write(0, RANDOM) && bench.write(1, RANDOM + 3));
    bench.in_next_request(|tiers| tiers.discard(0));
    assert!(bench.tiers.make_room());
    assert_eq!((bench.tiers.counts().on_disk, bench.tiers.counts().pages), (1, 0));
    assert!(bench.has(1, RANDOM + 3) && bench.read(0).is_none());
}

#[test]
fn a_page_written_anew_on_its_way_is_the_new_one() {
    let bench = Bench::new((Memory::Compressed, 32), 16);
    assert!(bench.write(0, PACKED));
    let machine = Arc::clone(&bench.machine);
    let frame = machine.allocate_zeroed(PageSize::Size4K).expect("a frame");
    machine.write_bytes(frame, 0, &page(PACKED + 3));
    bench.in_next_request(move |tiers| assert!(tiers.write(0, frame).is_ok()));
    assert!(bench.tiers.make_room());
    assert!(bench.has(0, PACKED + 3));
    assert_eq!(bench.tiers.counts().on_disk, 0);
}

#[test]
fn a_page_is_read_on_its_way() {
    let bench = Bench::new((Memory::Passed, 32), 16);
    assert!(bench.write(0, RANDOM));
    let frame = bench.machine.allocate_zeroed(PageSize::Size4K).expect("a frame");
    bench.in_next_request(move |tiers| assert!(tiers.read(0, frame).is_ok()));
    assert!(bench.tiers.make_room());
    assert_eq!(contents(&bench.machine, frame), page(RANDOM));
}

#[test]
fn what_cannot_be_written_stays_and_the_blocks_are_not_tried_again() {
    let bench = Bench::new((Memory::Compressed, 64), 64);
    assert!((0..8).all(|slot| bench.write(slot, 3 * slot + PACKED)));
    lock(&bench.platter).fails_writes = true;
    assert!(!bench.tiers.make_room());
    assert!((0..8).all(|slot| bench.has(slot, 3 * slot + PACKED)));
    lock(&bench.platter).fails_writes = false;
    assert!(bench.tiers.make_room());
    assert!((0..8).all(|slot| bench.has(slot, 3 * slot + PACKED)));
    let written = lock(&bench.platter).requests[..5].to_vec();
    assert_eq!(written, [(0, 8), (8, 8), (16, 8), (24, 8), (32, 8)], "four that failed, each elsewhere");
}

#[test]
fn a_disk_that_always_fails_is_given_up() {
    let bench = Bench::new((Memory::Compressed, 64), 1024);
    lock(&bench.platter).fails_writes = true;
    assert!(bench.write(0, RANDOM), "it may go down");
    (0..100).for_each(|_| assert!(!bench.tiers.make_room()));
    assert_eq!(lock(&bench.platter).requests.len(), 16);
    assert!(!bench.write(1, RANDOM) && bench.write(2, PACKED) && bench.has(0, RANDOM));
}

#[test]
fn a_bad_block_loses_its_page_and_no_other() {
    let bench = Bench::new((Memory::Passed, 32), 64);
    assert!((0..16).all(|slot| bench.write(slot, 3 * slot + RANDOM)));
    while bench.tiers.make_room() {}
    lock(&bench.platter).bad = vec![5];
    for slot in 0..16 {
        assert_eq!(bench.has(slot, 3 * slot + RANDOM), slot != 5, "slot {slot}");
    }
}

#[test]
fn pages_read_in_a_row_take_few_requests() {
    let bench = Bench::new((Memory::Passed, 128), 128);
    assert!((0..96).all(|slot| bench.write(slot, 3 * slot + RANDOM)));
    while bench.tiers.make_room() {}
    lock(&bench.platter).requests.clear();
    assert!((0..96).all(|slot| bench.has(slot, 3 * slot + RANDOM)));
    let requests = lock(&bench.platter).requests.len();
    assert!(requests <= 18, "{requests} requests for 96 pages");
}

#[test]
fn pages_read_at_random_are_read_alone() {
    let bench = Bench::new((Memory::Passed, 128), 128);
    assert!((0..96).all(|slot| bench.write(slot, 3 * slot + RANDOM)));
    while bench.tiers.make_room() {}
    lock(&bench.platter).requests.clear();
    assert!((0..96).all(|step| bench.has(step * 37 % 96, 3 * (step * 37 % 96) + RANDOM)));
    let pages: usize = lock(&bench.platter).requests.iter().map(|&(_, pages)| pages).sum();
    assert_eq!(pages, 96);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64),
    Read(u64),
    Discard(u64),
    MoveDown,
    /// What another thread does while pages are written, or read.
    Meanwhile(u64),
    FailWrites(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..24_u64;
    prop_oneof![
        4 => (slot.clone(), any::<u64>()).prop_map(|(slot, number)| Step::Write(slot, number)),
        4 => slot.clone().prop_map(Step::Read),
        1 => slot.clone().prop_map(Step::Discard),
        2 => Just(Step::MoveDown),
        1 => slot.prop_map(Step::Meanwhile),
        1 => prop::bool::weighted(0.2).prop_map(Step::FailWrites),
    ]
}

proptest! {
    /// From about as many words as are kept as such, to more; from memory, and from the disk.
    #[test]
    fn any_page_of_few_words_comes_back(words in prop::collection::btree_map(0..512_usize, any::<u64>(), 0..32)) {
        let bench = Bench::new((Memory::Compressed, 4), 4);
        let mut page = [0; PAGE_SIZE as usize];
        for (index, word) in words {
            page[index * 8..index * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        bench.machine.write_bytes(bench.frame, 0, &page);
        prop_assert!(bench.tiers.write(0, bench.frame).is_ok());
        prop_assert!(bench.read(0) == Some(page), "from memory");
        while bench.tiers.make_room() {}
        prop_assert!(bench.read(0) == Some(page), "from the disk");
    }

    #[test]
    fn any_sequence_keeps_every_page(steps in prop::collection::vec(step(), 1..200)) {
        let bench = Bench::new((Memory::Compressed, 24), 32);
        let model = Arc::new(Mutex::new(BTreeMap::new()));
        for step in steps {
            match step {
                Step::Write(slot, number) => {
                    if bench.write(slot, number) {
                        lock(&model).insert(slot, number);
                    }
                }
                Step::Read(slot) => {
                    let wanted = lock(&model).get(&slot).copied();
                    let read = bench.read(slot);
                    // Who discards while somebody reads has no claim on what is read.
                    if lock(&model).get(&slot).copied() == wanted {
                        prop_assert!(read == wanted.map(page), "slot {}", slot);
                    }
                }
                Step::Discard(slot) => {
                    bench.tiers.discard(slot);
                    lock(&model).remove(&slot);
                }
                Step::MoveDown => {
                    bench.tiers.make_room();
                }
                Step::Meanwhile(slot) => {
                    let model = Arc::clone(&model);
                    bench.in_next_request(move |tiers| {
                        tiers.discard(slot);
                        lock(&model).remove(&slot);
                    });
                }
                Step::FailWrites(fail) => lock(&bench.platter).fails_writes = fail,
            }
        }
        lock(&bench.platter).in_next_request = None;
        for (slot, number) in lock(&model).clone() {
            prop_assert!(bench.has(slot, number), "slot {}", slot);
        }
    }
}
