//! Starting the other processors (SDM vol. 3A 9.4): INIT, a pause, a start-up message, perhaps another.
//!
//! ```text
//!   boot CPU                                     the other
//!   two low pages: code and data, a root table   after reset, waits
//!   INIT, 10 ms, start-up, 200 µs ────────────►  real mode, at the page: GDT, CR3, long mode at once
//!                                                trampoline_entry: tables of its own, claims its start
//!   waits for "running" ◄──────────────────────  Herald's tables, features, local APIC: running
//! ```
//!
//! Each is started alone, since they all come by the same pages. Who has not claimed its start in time is given up: should
//! it come late, it halts.

use super::descriptors::Tables;
use super::local::{Local, MAX_CPUS};
use super::stacks::Stack;
use super::timer::{self, Message};
use super::{local, pages, space, traps, tsc};
use crate::layout;
use crate::physmem::PhysicalMemory;
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PAGE_SIZE, PageSize, Pfn};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};
use mm::{Host, OutOfFrames};
use paging::{EntryRef, OutOfTables, TableMemory};
use startup::acpi::Processor;

/// Real mode reaches this far, and start-up messages name pages below it.
const LOW_MEMORY: Hpa = Hpa::new(0xa_0000);
/// The first page holds the interrupt vectors of real mode, and firmware's data.
const FIRST_PAGE: Hpa = Hpa::new(PAGE_SIZE);

// Loaded at the start of a page below 1 MiB. The data behind the code are filled in there.
global_asm!(
    ".pushsection .rodata.trampoline, \"a\"",
    ".balign 16",
    ".code16",
    ".global trampoline, trampoline_data, trampoline_end",
    "trampoline:",
    "cli",
    "cld",
    "mov %cs, %ax",
    "mov %ax, %ds",
    "lgdtl trampoline_gdt - trampoline",
    "mov $0x20, %eax", // PAE
    "mov %eax, %cr4",
    "mov trampoline_data - trampoline, %eax",
    "mov %eax, %cr3",
    "mov $0xc0000080, %ecx", // EFER: LME, NXE
    "rdmsr",
    "or $0x900, %eax",
    "wrmsr",
    "mov $0x80010011, %eax", // CR0: PG, WP, ET, PE
    "mov %eax, %cr0",
    "ljmpl *(trampoline_far - trampoline)",
    ".code64",
    "trampoline_long:",
    "mov $0x10, %eax",
    "mov %eax, %ds",
    "mov %eax, %es",
    "mov %eax, %ss",
    "mov trampoline_data + 8(%rip), %rsp",
    "mov trampoline_data + 16(%rip), %rdi",
    "xor %ebp, %ebp",
    "mov trampoline_data + 24(%rip), %rax",
    "jmp *%rax",
    ".balign 8",
    "trampoline_table:",
    ".quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "trampoline_gdt:",
    ".word 23",
    ".global trampoline_gdt_base",
    "trampoline_gdt_base:",
    ".long trampoline_table - trampoline",
    ".balign 8",
    ".global trampoline_far",
    "trampoline_far:",
    ".long trampoline_long - trampoline",
    ".word 8",
    ".balign 8",
    "trampoline_data:",
    ".quad 0, 0, 0, 0",
    "trampoline_end:",
    ".popsection",
    options(att_syntax)
);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_gdt_base: u8;
    static trampoline_far: u8;
    static trampoline_data: u8;
    static trampoline_end: u8;
}

/// Why a processor is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StartError {
    /// There is no memory below 640 KiB to start it from.
    NoLowMemory,
    /// Not enough memory for what it needs.
    OutOfMemory,
    /// It does not answer.
    Silent(u32),
    /// It has said why in the log.
    Unfit(u32),
    /// Herald uses no more.
    TooMany(usize),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLowMemory => f.write_str("no free memory below 640 KiB to start other processors from"),
            Self::OutOfMemory => f.write_str("not enough memory for another processor"),
            Self::Silent(id) => write!(f, "the processor with APIC id {id} does not start"),
            Self::Unfit(id) => write!(f, "the processor with APIC id {id} is not used"),
            Self::TooMany(count) => write!(f, "{count} processors, of which {MAX_CPUS} are used"),
        }
    }
}

impl From<OutOfFrames> for StartError {
    fn from(_: OutOfFrames) -> Self {
        Self::OutOfMemory
    }
}

impl From<OutOfTables> for StartError {
    fn from(_: OutOfTables) -> Self {
        Self::OutOfMemory
    }
}

/// Nobody has come.
const EXPECTED: u8 = 0;
/// The processor runs Herald's code.
const CLAIMED: u8 = 1;
/// It is ready.
const RUNNING: u8 = 2;
/// It came too late.
const GIVEN_UP: u8 = 3;
/// It cannot be used.
const UNFIT: u8 = 4;

/// What one processor starts with.
struct Start {
    local: Local,
    root: Pfn,
    interrupt_stacks: [u64; 3],
    stage: AtomicU8,
    program: Program,
}

/// What other processors do once they have tables, stacks and a local APIC.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    /// While the boot CPU waits; `false`: the processor cannot be used.
    pub prepare: fn() -> bool,
    /// From then on.
    pub run: fn() -> !,
}

/// The pages that all come by.
struct Trampoline<'a> {
    memory: &'a PhysicalMemory,
    code: Hpa,
    root: Pfn,
    tsc_hz: u64,
}

/// Two pages of memory that nobody uses, from which processors can be started.
#[must_use]
pub(crate) fn low_pages(memory: &MemoryMap) -> Option<HpaRange> {
    let place = memory.highest_fit(2 * PAGE_SIZE, PageSize::Size4K, LOW_MEMORY);
    place.filter(|place| place.start() >= FIRST_PAGE)
}

/// Starts all other processors that can be used. Returns how many run, with this one.
pub(crate) fn start_others(
    memory: &PhysicalMemory,
    processors: &[Processor],
    low: Option<HpaRange>,
    tsc_hz: u64,
    program: Program,
) -> usize {
    let own = timer::id();
    let others = processors.iter().filter(|processor| processor.enabled && processor.apic_id != own);
    let ids: Vec<u32> = others.map(|processor| processor.apic_id).collect();
    if ids.is_empty() {
        return 1;
    }
    if ids.len() >= MAX_CPUS {
        log::warn!("{}", StartError::TooMany(ids.len() + 1));
    }
    let way = match Trampoline::new(memory, low, tsc_hz) {
        Ok(way) => way,
        Err(error) => {
            log::warn!("{error}: one processor is used");
            return 1;
        }
    };
    let mut count = 1;
    for &id in ids.iter().take(MAX_CPUS - 1) {
        match way.start(count, id, program) {
            Ok(()) => count += 1,
            Err(error) => log::warn!("{error}"),
        }
    }
    count
}

impl<'a> Trampoline<'a> {
    /// A root below 1 MiB, for a CR3 that is loaded with 32 bits: Herald's own tables, and the page of the code in
    /// its place.
    fn new(memory: &'a PhysicalMemory, low: Option<HpaRange>, tsc_hz: u64) -> Result<Self, StartError> {
        let code = low.ok_or(StartError::NoLowMemory)?.start();
        let root = code.add(PAGE_SIZE).pfn();
        let whole = memory.allocate_root()?;
        for index in 0..512 {
            memory.store(EntryRef::new(root, index), memory.load(EntryRef::new(whole, index)));
        }
        memory.free_table(whole);
        pages::map_identity(memory, root, code)?;
        Ok(Self { memory, code, root, tsc_hz })
    }

    /// Starts one processor, and waits until it runs.
    fn start(&self, index: usize, apic_id: u32, program: Program) -> Result<(), StartError> {
        let stack = Stack::forever()?;
        let start: &'static Start = Box::leak(Box::new(Start {
            local: Local::new(index),
            root: self.memory.root(),
            interrupt_stacks: [Stack::forever()?, Stack::forever()?, Stack::forever()?],
            stage: AtomicU8::new(EXPECTED),
            program,
        }));
        self.write(stack, start);
        timer::send(apic_id, Message::Init);
        self.pause(10_000);
        for _ in 0..2 {
            timer::send(apic_id, Message::StartUp((self.code.as_u64() >> 12) as u8));
            self.pause(200);
        }
        // A tenth of a second is long for a processor, and short for a person.
        let patience = tsc() + self.tsc_hz / 10;
        loop {
            match start.stage.load(Ordering::Acquire) {
                RUNNING => return Ok(()),
                UNFIT => return Err(StartError::Unfit(apic_id)),
                _ => core::hint::spin_loop(),
            }
            let late = tsc() > patience;
            if late
                && start
                    .stage
                    .compare_exchange(EXPECTED, GIVEN_UP, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            {
                return Err(StartError::Silent(apic_id));
            }
        }
    }

    fn pause(&self, microseconds: u64) {
        let end = tsc() + self.tsc_hz / 1_000_000 * microseconds;
        while tsc() < end {
            core::hint::spin_loop();
        }
    }

    /// Puts code and data into the page.
    fn write(&self, stack: u64, start: &'static Start) {
        let first = &raw const trampoline as u64;
        let offset = |label: *const u8| (label as u64 - first) as usize;
        let len = offset(&raw const trampoline_end);
        let page = layout::direct(self.code).as_u64() as *mut u8;
        let place = self.code.as_u64() as u32;
        let add_place = |label: *const u8| {
            // SAFETY: an aligned word of the copy that was made below.
            let word = unsafe { page.add(offset(label)).cast::<u32>() };
            // SAFETY: as above; unaligned in the table's pointer.
            unsafe { word.write_unaligned(word.read_unaligned() + place) };
        };
        // As at a function's entry, the stack is at 8 modulo 16.
        let data =
            [self.root.base().as_u64(), stack - 8, &raw const *start as u64, enter as *const () as u64];
        // SAFETY: the code is shorter than the page, which is memory of the direct map that nobody uses; no other
        // processor is on its way through it.
        unsafe {
            page.copy_from_nonoverlapping(&raw const trampoline, len);
            add_place(&raw const trampoline_gdt_base);
            add_place(&raw const trampoline_far);
            page.add(offset(&raw const trampoline_data)).cast::<[u64; 4]>().write_unaligned(data);
        }
    }
}

/// The first Rust code of another processor, on its own stack, in the trampoline's tables.
extern "sysv64" fn enter(start: &'static Start) -> ! {
    let claimed = start.stage.compare_exchange(EXPECTED, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
    if claimed.is_err() {
        super::halt();
    }
    space::load_own(start.root);
    super::enable_features();
    let tables = Box::leak(Box::new(Tables::new()));
    tables.load(start.interrupt_stacks);
    start.local.install();
    traps::load();
    timer::init_another();
    local::announce(timer::id());
    if !(start.program.prepare)() {
        start.stage.store(UNFIT, Ordering::Release);
        super::halt();
    }
    start.stage.store(RUNNING, Ordering::Release);
    (start.program.run)()
}
