//! GDT, TSS and the stacks that the processor switches to by itself (SDM vol. 3A 7.4, 6.14.5).
//!
//! ```text
//!   guard page │ boot stack      guard page │ #DF      guard page │ NMI      guard page │ #MC
//! ```
//!
//! These are the boot CPU's. The others have theirs from `stacks`.
//!
//! The double-fault stack is what turns an overflow of another stack into a message.

use core::cell::UnsafeCell;
use core::mem::size_of;
use x86::Ring;
use x86::bits64::task::TaskStateSegment;
use x86::dtables::{DescriptorTablePointer, lgdt};
use x86::segmentation::{SegmentSelector, load_ds, load_es, load_fs, load_gs, load_ss};
use x86::task::load_tr;

/// Code segment.
pub(crate) const CODE: SegmentSelector = SegmentSelector::new(1, Ring::Ring0);
/// Data segment.
const DATA: SegmentSelector = SegmentSelector::new(2, Ring::Ring0);
/// Task segment: two entries.
const TASK: SegmentSelector = SegmentSelector::new(3, Ring::Ring0);

/// Bytes of a stack.
pub(crate) const STACK_BYTES: usize = 64 << 10;
/// Bytes of a guard page.
pub(crate) const GUARD_BYTES: usize = 4096;

/// A stack above a page that is never mapped.
#[repr(C, align(4096))]
pub(crate) struct Stack {
    guard: [u8; GUARD_BYTES],
    bytes: [u8; STACK_BYTES],
}

impl Stack {
    const fn new() -> Self {
        Self { guard: [0; GUARD_BYTES], bytes: [0; STACK_BYTES] }
    }
}

/// A static that only the boot CPU writes, at start-up.
#[repr(transparent)]
pub(crate) struct Once<T>(UnsafeCell<T>);

// SAFETY: `init` alone writes by way of Rust, once, before anything else can read. Afterwards the processor uses them,
// as stacks and as tables, and Rust takes nothing but their addresses.
unsafe impl<T> Sync for Once<T> {}

macro_rules! stack {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[unsafe(link_section = ".stacks")]
        static $name: Once<Stack> = Once(UnsafeCell::new(Stack::new()));
    };
}

/// In use from the first instruction on.
#[unsafe(link_section = ".stacks")]
pub(crate) static BOOT_STACK: Once<Stack> = Once(UnsafeCell::new(Stack::new()));
stack! {
    /// For double faults.
    DOUBLE_FAULT_STACK
}
stack! {
    /// For NMIs.
    NMI_STACK
}
stack! {
    /// For machine checks.
    MACHINE_CHECK_STACK
}

/// Stacks that the processor switches to, by number in the IDT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum StackIndex {
    /// The stack in use.
    Current = 0,
    /// Double faults.
    DoubleFault = 1,
    /// NMIs.
    Nmi = 2,
    /// Machine checks.
    MachineCheck = 3,
}

/// First bytes of the guard pages.
pub(crate) fn guard_pages() -> [u64; 4] {
    [&BOOT_STACK, &DOUBLE_FAULT_STACK, &NMI_STACK, &MACHINE_CHECK_STACK].map(|stack| stack.0.get() as u64)
}

/// Whether an address lies in one of the stacks, above its guard page.
#[must_use]
pub(crate) fn in_a_stack(address: u64) -> bool {
    super::stacks::contain(address)
        || guard_pages().iter().any(|&guard| {
            let first = guard + GUARD_BYTES as u64;
            (first..first + STACK_BYTES as u64).contains(&address)
        })
}

/// What a CPU's segment registers and its task register refer to.
pub(crate) struct Tables {
    gdt: [u64; 5],
    tss: TaskStateSegment,
}

impl Tables {
    /// Code: 64-bit, present, read. Data: present, writable. The task segment is filled in.
    pub(crate) const fn new() -> Self {
        Self { gdt: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0], tss: TaskStateSegment::new() }
    }

    /// Loads them, with the tops of the stacks for double faults, NMIs and machine checks. GS is to be set afterwards.
    pub(crate) fn load(&'static mut self, stacks: [u64; 3]) {
        let indices = [StackIndex::DoubleFault, StackIndex::Nmi, StackIndex::MachineCheck];
        for (index, top) in indices.into_iter().zip(stacks) {
            self.tss.set_ist(index as usize - 1, top);
        }
        [self.gdt[3], self.gdt[4]] = task_descriptor(&raw const self.tss as u64);
        // SAFETY: the tables are this CPU's for ever. The segments loaded are flat and equal to those in use, but for
        // the code segment, which is loaded by a far return.
        unsafe {
            lgdt(&DescriptorTablePointer::new(&self.gdt));
            x86::bits64::segmentation::load_cs(CODE);
            load_ss(DATA);
            load_ds(DATA);
            load_es(DATA);
            load_fs(SegmentSelector::from_raw(0));
            load_gs(SegmentSelector::from_raw(0));
            load_tr(TASK);
        }
    }
}

/// The boot CPU's.
static BOOT_TABLES: Once<Tables> = Once(UnsafeCell::new(Tables::new()));

/// Loads the boot CPU's GDT and task register. Called once.
pub(crate) fn init() {
    let top = |stack: &Once<Stack>| stack.0.get() as u64 + size_of::<Stack>() as u64;
    // SAFETY: called once, on the one CPU, with interrupts off: nobody else refers to it, now or later.
    let tables = unsafe { &mut *BOOT_TABLES.0.get() };
    tables.load([&DOUBLE_FAULT_STACK, &NMI_STACK, &MACHINE_CHECK_STACK].map(top));
}

/// An available 64-bit TSS (SDM vol. 3A figure 8-4).
const fn task_descriptor(base: u64) -> [u64; 2] {
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    let low = limit & 0xffff | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}
