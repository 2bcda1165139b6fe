//! The machine's memory through the direct map: the real implementation of `mm`'s seams.

use crate::cpu;
use crate::layout;
use addr::{Hva, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::frames::Frames;
use mm::{CpuIndex, FrameMemory, Host, OutOfFrames};
use paging::{EntryRef, FlushScope, FlushToken, OutOfTables, Shootdown, TableMemory};
use spin::Once;

/// Contents of a freed frame in debug builds.
const POISON: u64 = 0xdbdb_dbdb_dbdb_dbdb;
/// An odd number without a pattern (rustc's `FxHasher`).
const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
/// Bytes of a page between two multiplications.
const PIECE: u64 = 256;
/// First entry of a root that belongs to Herald.
const UPPER_HALF: u16 = 256;

/// All of the machine's memory.
pub(crate) struct PhysicalMemory {
    frames: Frames,
    root: Pfn,
    tables: AtomicU64,
    /// Whom to tell that frames which were zeroed ahead are few.
    few_zeroed: Once<fn()>,
}

impl PhysicalMemory {
    /// Memory with these frames, seen through tables below `root` that hold the direct map. There is one for
    /// the machine.
    #[must_use]
    pub(crate) const fn new(frames: Frames, root: Pfn) -> Self {
        Self { frames, root, tables: AtomicU64::new(0), few_zeroed: Once::new() }
    }

    /// Has somebody told that frames which were zeroed ahead are few, under locks.
    pub(crate) fn tell_of_few_zeroed(&self, tell: fn()) {
        self.few_zeroed.call_once(|| tell);
    }

    /// The root of Herald's own tables, whose upper half is that of every address space.
    pub(crate) fn root(&self) -> Pfn {
        self.root
    }

    /// A zeroed frame for Herald's own use, of the reserve if need be: there are few of these, and what needs them cannot wait
    /// for reclaim.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub(crate) fn allocate_own(&self) -> Result<Pfn, OutOfFrames> {
        let frame = self.frames.allocate_reserved(self.current_cpu(), PageSize::Size4K)?;
        self.zero(frame, PageSize::Size4K);
        Ok(frame)
    }

    /// Gives back a frame of a caller that holds the only reference.
    pub(crate) fn free(&self, frame: Pfn) {
        if self.frames.meta(frame).put() {
            self.retire(frame, PageSize::Size4K);
        }
    }

    /// Frames that hold page tables, primary and secondary.
    pub(crate) fn table_frames(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }
}

/// Of a frame behind the direct map's end an address that nobody can use.
fn pointer<T>(frame: Pfn) -> *mut T {
    layout::DIRECT_MAP.as_u64().wrapping_add(frame.as_u64() << PAGE_SHIFT) as *mut T
}

/// A place in a frame with room for `len` bytes behind it.
fn bytes_at(frame: Pfn, offset: usize, len: usize) -> *mut u8 {
    assert!(offset + len <= PAGE_SIZE as usize, "{len} bytes at {offset:#x} of a frame");
    pointer::<u8>(frame).wrapping_add(offset)
}

/// Copies whole words, then what is left. Not a Rust copy: a guest may use the frame at the same time, and what
/// it sees then is what it would see of any other processor.
///
/// # Safety
/// `len` bytes are valid at both places, for as long as the copy takes.
unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    if len == 2 {
        // An index of a ring, which somebody else may read or write at the same time: whole, if it is aligned.
        // SAFETY: the caller's promise.
        unsafe {
            asm!("mov {word:x}, [{from}]", "mov [{to}], {word:x}", word = out(reg) _, from = in(reg) from,
                 to = in(reg) to, options(nostack, preserves_flags));
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep movsq", "mov rcx, {rest}", "rep movsb", rest = in(reg) len % 8,
             inout("rsi") from => _, inout("rdi") to => _, inout("rcx") len / 8 => _, options(nostack));
    }
}

fn entries(table: Pfn) -> &'static [AtomicU64; 512] {
    // SAFETY: tables are frames of the direct map, which is mapped for ever. Entries are only ever accessed as atomics, by
    // Herald and by the processor (I5).
    unsafe { &*pointer::<[AtomicU64; 512]>(table) }
}

fn entry(at: EntryRef) -> &'static AtomicU64 {
    &entries(at.table())[usize::from(at.index()) % 512]
}

/// Fills a frame with one word: `rep stosq`, which processors do by whole cache lines.
fn fill(frame: Pfn, size: PageSize, word: u64) {
    // SAFETY: a whole frame of the direct map, which the caller owns.
    unsafe {
        asm!("rep stosq", inout("rdi") pointer::<u64>(frame) => _, inout("rcx") size.bytes() / 8 => _,
             in("rax") word, options(nostack));
    }
}

impl TableMemory for PhysicalMemory {
    type Entries<'m> = &'static [AtomicU64; 512];

    fn entries(&self, table: Pfn) -> Self::Entries<'_> {
        entries(table)
    }

    fn load(&self, at: EntryRef) -> u64 {
        entry(at).load(Ordering::Acquire)
    }

    fn store(&self, at: EntryRef, value: u64) {
        entry(at).store(value, Ordering::Release);
    }

    fn compare_exchange(&self, at: EntryRef, old: u64, new: u64) -> Result<(), u64> {
        entry(at).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    fn allocate_table(&self) -> Result<Pfn, OutOfTables> {
        let table = self.allocate_zeroed(PageSize::Size4K).map_err(|_| OutOfTables)?;
        self.tables.fetch_add(1, Ordering::Relaxed);
        Ok(table)
    }

    fn free_table(&self, table: Pfn) {
        self.tables.fetch_sub(1, Ordering::Relaxed);
        self.free(table);
    }
}

impl FrameMemory for PhysicalMemory {
    fn zero(&self, frame: Pfn, size: PageSize) {
        fill(frame, size, 0);
    }

    fn copy(&self, from: Pfn, to: Pfn) {
        // SAFETY: two different frames of the direct map; the caller owns `to`, and nobody writes `from`.
        unsafe {
            asm!("rep movsq", inout("rsi") pointer::<u64>(from) => _, inout("rdi") pointer::<u64>(to) => _,
                 inout("rcx") PAGE_SIZE / 8 => _, options(nostack));
        }
    }

    fn poison(&self, frame: Pfn, size: PageSize) {
        if cfg!(debug_assertions) {
            fill(frame, size, POISON);
        }
    }

    fn read_bytes(&self, frame: Pfn, offset: usize, bytes: &mut [u8]) {
        let from = bytes_at(frame, offset, bytes.len());
        // SAFETY: inside one frame of the direct map, which nobody frees meanwhile (I6); `bytes` is the caller's.
        unsafe { copy_bytes(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    fn write_bytes(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        let to = bytes_at(frame, offset, bytes.len());
        // SAFETY: inside one frame of the direct map, which nobody frees meanwhile (I6).
        unsafe { copy_bytes(bytes.as_ptr(), to, bytes.len()) };
    }

    fn load_word(&self, frame: Pfn, word: u16) -> u64 {
        entry(EntryRef::new(frame, word)).load(Ordering::Acquire)
    }

    fn store_word(&self, frame: Pfn, word: u16, value: u64) {
        entry(EntryRef::new(frame, word)).store(value, Ordering::Release);
    }

    fn exchange_word(&self, frame: Pfn, word: u16, old: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange(EntryRef::new(frame, word), old, new)
    }

    /// Eight words at a time: most of them are zeros where it is worth going on.
    fn nonzero_words(&self, frame: Pfn, found: &mut dyn FnMut(u16, u64) -> bool) -> bool {
        entries(frame).chunks_exact(8).zip(0_u16..).all(|(eight, group)| {
            let any = eight.iter().fold(0, |any, word| any | word.load(Ordering::Relaxed));
            let mut words =
                (group * 8..).zip(eight).map(|(place, word)| (place, word.load(Ordering::Relaxed)));
            any == 0 || words.all(|(place, word)| word == 0 || found(place, word))
        })
    }

    fn equal(&self, a: Pfn, b: Pfn) -> bool {
        let equal: u8;
        // SAFETY: reads two frames of the direct map, which nobody frees meanwhile (I6).
        unsafe {
            asm!("repe cmpsq", "sete {equal}", equal = out(reg_byte) equal,
                 inout("rsi") pointer::<u64>(a) => _, inout("rdi") pointer::<u64>(b) => _,
                 inout("rcx") PAGE_SIZE / 8 => _, options(nostack, readonly));
        }
        equal != 0
    }

    fn checksum(&self, frame: Pfn) -> u32 {
        let sums = sums_of_sample(frame);
        let is_zero = sums.iter().fold(0, |any, sum| any | sum) == 0;
        let sums = if is_zero { sums_of_all(frame) } else { sums };
        (sums.iter().fold(0_u64, |sum, part| (sum.rotate_left(5) ^ part).wrapping_mul(FACTOR)) >> 32) as u32
    }
}

/// Bytes of a page between two multiplications, of a sample.
const SAMPLE_PIECE: u64 = 1024;

/// Where the word of a line of such a piece is that is in the sample.
const fn sampled(line: u16) -> u64 {
    mm::sampled_word(line) as u64 * 8
}

/// Four lanes side by side, of four words each between two multiplications.
fn sums_of_sample(frame: Pfn) -> [u64; 4] {
    let mut sums = [0_u64; 4];
    let [a, b, c, d] = &mut sums;
    // SAFETY: reads a frame of the direct map, which nobody frees meanwhile (I6).
    unsafe {
        asm!("2:",
             "add {a}, [{at} + {p0}]", "add {b}, [{at} + {p1}]", "add {c}, [{at} + {p2}]", "add {d}, [{at} + {p3}]",
             "xor {a}, [{at} + {p4}]", "xor {b}, [{at} + {p5}]", "xor {c}, [{at} + {p6}]", "xor {d}, [{at} + {p7}]",
             "sub {a}, [{at} + {p8}]", "sub {b}, [{at} + {p9}]", "sub {c}, [{at} + {p10}]", "sub {d}, [{at} + {p11}]",
             "xor {a}, [{at} + {p12}]", "xor {b}, [{at} + {p13}]", "xor {c}, [{at} + {p14}]", "xor {d}, [{at} + {p15}]",
             "imul {a}, {factor}", "imul {b}, {factor}", "imul {c}, {factor}", "imul {d}, {factor}",
             "add {at}, {SAMPLE_PIECE}", "dec {left:e}", "jnz 2b",
             a = inout(reg) *a, b = inout(reg) *b, c = inout(reg) *c, d = inout(reg) *d,
             p0 = const sampled(0), p1 = const sampled(1), p2 = const sampled(2), p3 = const sampled(3),
             p4 = const sampled(4), p5 = const sampled(5), p6 = const sampled(6), p7 = const sampled(7),
             p8 = const sampled(8), p9 = const sampled(9), p10 = const sampled(10), p11 = const sampled(11),
             p12 = const sampled(12), p13 = const sampled(13), p14 = const sampled(14), p15 = const sampled(15),
             at = inout(reg) pointer::<u64>(frame) => _, left = inout(reg) PAGE_SIZE / SAMPLE_PIECE => _,
             factor = in(reg) FACTOR, SAMPLE_PIECE = const SAMPLE_PIECE, options(nostack, readonly));
    }
    sums
}

/// The same over all words, eight between two multiplications: those take their time.
fn sums_of_all(frame: Pfn) -> [u64; 4] {
    let mut sums = [0_u64; 4];
    let [a, b, c, d] = &mut sums;
    // SAFETY: reads a frame of the direct map, which nobody frees meanwhile (I6).
    unsafe {
        asm!("2:",
                 "add {a}, [{at}]", "add {b}, [{at} + 8]", "add {c}, [{at} + 16]", "add {d}, [{at} + 24]",
                 "xor {a}, [{at} + 32]", "xor {b}, [{at} + 40]", "xor {c}, [{at} + 48]", "xor {d}, [{at} + 56]",
                 "sub {a}, [{at} + 64]", "sub {b}, [{at} + 72]", "sub {c}, [{at} + 80]", "sub {d}, [{at} + 88]",
                 "xor {a}, [{at} + 96]", "xor {b}, [{at} + 104]", "xor {c}, [{at} + 112]", "xor {d}, [{at} + 120]",
                 "add {a}, [{at} + 128]", "add {b}, [{at} + 136]", "add {c}, [{at} + 144]", "add {d}, [{at} + 152]",
                 "xor {a}, [{at} + 160]", "xor {b}, [{at} + 168]", "xor {c}, [{at} + 176]", "xor {d}, [{at} + 184]",
                 "sub {a}, [{at} + 192]", "sub {b}, [{at} + 200]", "sub {c}, [{at} + 208]", "sub {d}, [{at} + 216]",
                 "xor {a}, [{at} + 224]", "xor {b}, [{at} + 232]", "xor {c}, [{at} + 240]", "xor {d}, [{at} + 248]",
                 "imul {a}, {factor}", "imul {b}, {factor}", "imul {c}, {factor}", "imul {d}, {factor}",
                 "add {at}, {PIECE}", "dec {left:e}", "jnz 2b",
                 a = inout(reg) *a, b = inout(reg) *b, c = inout(reg) *c, d = inout(reg) *d,
                 at = inout(reg) pointer::<u64>(frame) => _, left = inout(reg) PAGE_SIZE / PIECE => _,
                 factor = in(reg) FACTOR, PIECE = const PIECE, options(nostack, readonly));
    }
    sums
}

impl Shootdown for PhysicalMemory {
    fn request(&self, scope: FlushScope) -> FlushToken {
        cpu::flush::request(scope)
    }

    fn wait(&self, token: FlushToken) {
        cpu::flush::wait(token);
    }
}

impl Host for PhysicalMemory {
    fn frames(&self) -> &Frames {
        &self.frames
    }

    fn zeroed_run_low(&self) {
        if let Some(tell) = self.few_zeroed.get() {
            tell();
        }
    }

    fn current_cpu(&self) -> CpuIndex {
        CpuIndex(cpu::index())
    }

    /// The upper half of every root is Herald's own.
    fn allocate_root(&self) -> Result<Pfn, OutOfTables> {
        let root = self.allocate_table()?;
        for index in UPPER_HALF..512 {
            self.store(EntryRef::new(root, index), self.load(EntryRef::new(self.root, index)));
        }
        Ok(root)
    }
}

/// The direct map's bytes of memory that never changes: the boot package, firmware's tables.
///
/// # Safety
/// The range is mapped in the direct map, and nothing writes to it any more.
#[must_use]
pub(crate) unsafe fn fixed_bytes(start: addr::Hpa, len: u64) -> &'static [u8] {
    let first: Hva = layout::direct(start);
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(first.as_u64() as *const u8, len as usize) }
}
