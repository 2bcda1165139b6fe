//! The other CPUs: started by INIT and start-up messages (SDM vol. 3A 9.4), each on a stack of its own, to run one function.
//!
//! ```text
//!   INIT ─► start-up ─► page 8, real mode ─► boot's tables, long mode at once ─► work(number) ─► done ─► halts
//! ```

use crate::fwcfg;
use crate::report::Failure;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::apic::LocalApic;
use guest::memory::Memory;
use guest::{cpu, trap};

/// Where the start-up code is copied: the page that a start-up message names.
const PAGE: u32 = 8;
/// Pages of a stack.
const STACK_PAGES: u64 = 16;
/// ICR: level "assert", and the delivery modes INIT and start-up (SDM vol. 3A 11.6.1).
const INIT: u32 = 0x4500;
const START_UP: u32 = 0x4600;
/// TSC ticks in which a CPU has to come: seconds, on any machine.
const PATIENCE: u64 = 20_000_000_000;

global_asm!(
    ".pushsection .text",
    ".balign 16",
    ".code16",
    "start_up:",
    "cli",
    "cld",
    "mov %cs, %ax",
    "mov %ax, %ds",
    "lgdtl start_up_gdt - start_up",
    "mov $0x620, %eax", // PAE, and SSE as boot has it
    "mov %eax, %cr4",
    "mov $boot_pml4, %eax",
    "mov %eax, %cr3",
    "mov $0xc0000080, %ecx",
    "rdmsr",
    "or $0x100, %eax", // LME
    "wrmsr",
    "mov $0x80000013, %eax", // PG, ET, MP, PE
    "mov %eax, %cr0",
    "ljmpl *(start_up_far - start_up)",
    ".balign 4",
    "start_up_gdt: .word 23",
    ".long boot_gdt",
    ".balign 4",
    "start_up_far: .long start_up_long",
    ".word 8",
    "start_up_end:",
    ".code64",
    "start_up_long:",
    "mov $16, %eax",
    "mov %eax, %ds",
    "mov %eax, %es",
    "mov %eax, %ss",
    "mov {stack}(%rip), %rsp",
    "xor %ebp, %ebp",
    "call {enter}",
    "ud2",
    ".popsection",
    stack = sym STACK,
    enter = sym enter,
    options(att_syntax)
);

unsafe extern "C" {
    static start_up: u8;
    static start_up_end: u8;
}

/// The stack of the CPU that is on its way.
static STACK: AtomicU64 = AtomicU64::new(0);
/// Its number.
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// How many have come.
static CAME: AtomicU64 = AtomicU64::new(0);
/// How many have done their work.
static DONE: AtomicU64 = AtomicU64::new(0);
static WORK: AtomicU64 = AtomicU64::new(0);

/// What a CPU does, given its number.
pub(crate) type Work = fn(u64);

/// Starts all others, numbered from 1 by their APIC ids; each runs `work`. How many CPUs there are.
///
/// # Errors
/// One does not come, or there is no memory for its stack.
pub(crate) fn start_all(memory: &mut Memory, work: Work) -> Result<u64, Failure> {
    let count = fwcfg::cpus();
    start_those(memory, count, work)?;
    Ok(count)
}

/// The same where the caller knows that there are `count` CPUs.
///
/// # Errors
/// As for [`start_all`].
pub(crate) fn start_those(memory: &mut Memory, count: u64, work: Work) -> Result<(), Failure> {
    WORK.store(work as usize as u64, Ordering::Release);
    copy_start_up();
    for number in 1..count {
        let stack = memory.take(STACK_PAGES)?;
        let top = stack.page(STACK_PAGES - 1).as_u64() + 4096;
        start(number, top)?;
    }
    Ok(())
}

/// Starts a CPU, which may have run before. The stack is its own.
///
/// # Errors
/// It does not come.
fn start(number: u64, stack: u64) -> Result<(), Failure> {
    STACK.store(stack, Ordering::Relaxed);
    NUMBER.store(number, Ordering::Release);
    let before = CAME.load(Ordering::Acquire);
    start_at(number as u32, PAGE);
    wait("a CPU to start", || CAME.load(Ordering::Acquire) > before)
}

/// Has the CPU with this APIC id begin anew, in real mode at the start of a page.
pub(crate) fn start_at(id: u32, page: u32) {
    send(id, INIT);
    send(id, START_UP | page);
}

/// Sends a message to the CPU with this APIC id.
pub(crate) fn send(id: u32, command: u32) {
    LocalApic::current().send(id, command);
}

/// Waits until all others have done their work.
///
/// # Errors
/// They do not.
pub(crate) fn join(count: u64) -> Result<(), Failure> {
    wait("the other CPUs' work", || DONE.load(Ordering::Acquire) == count - 1)
}

/// Waits for something that another CPU does.
///
/// # Errors
/// It does not come.
pub(crate) fn wait(what: &'static str, came: impl Fn() -> bool) -> Result<(), Failure> {
    let start = cpu::rdtsc();
    while !came() {
        core::hint::spin_loop();
        let ticks = cpu::rdtsc() - start;
        if ticks > PATIENCE {
            return Err(Failure::TimeOut { what, ticks });
        }
    }
    Ok(())
}

fn copy_start_up() {
    let from = &raw const start_up;
    let len = (&raw const start_up_end).addr() - from.addr();
    let page = core::ptr::with_exposed_provenance_mut::<u8>((PAGE << 12) as usize);
    // SAFETY: memory below 640 KiB, of which this program uses nothing else; identity-mapped.
    unsafe { page.copy_from_nonoverlapping(from, len) };
}

/// The first Rust code of another CPU.
extern "sysv64" fn enter() -> ! {
    trap::load();
    LocalApic::current().enable(0x1_0000);
    let number = NUMBER.load(Ordering::Acquire);
    CAME.fetch_add(1, Ordering::AcqRel);
    // SAFETY: `start_all` has put a `Work` there.
    let work: Work = unsafe { core::mem::transmute(WORK.load(Ordering::Acquire) as usize) };
    work(number);
    DONE.fetch_add(1, Ordering::AcqRel);
    cpu::halt_for_good()
}
