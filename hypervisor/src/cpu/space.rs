//! Stays in a host address space: while a CPU uses hvas, CR3 names that space's tables. Otherwise it names Herald's own,
//! so that no CPU caches anything of a space that it does not use at the moment.
//!
//! ```text
//!   Herald's tables ── enter: publish, load CR3, interrupts on ──► the space's ── fault ──► Herald's tables: fault_in
//!         ▲                                                        │  ▲                          │
//!         └──────────────── leave: interrupts off, load CR3 ───────┘  └───────── enter ──────────┘
//! ```
//!
//! The handshake is that of guest mode (`sync::GuestMode`): whoever changes primary entries interrupts the CPUs that are in
//! a space, and waits for them (I10). They hold no lock, and have interrupts on.

use super::flush;
use crate::physmem::PhysicalMemory;
use addr::{Hva, Pfn};
use core::arch::asm;
use core::ptr::null;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use mm::{Access, AddressSpace, FaultError};
use x86::controlregs::cr3_write;

use super::local::MAX_CPUS;

type Space = AddressSpace<PhysicalMemory>;

/// Physical address of Herald's own root.
static OWN_ROOT: AtomicU64 = AtomicU64::new(0);
/// The space that each CPU is in; null: none.
static SPACES: [AtomicPtr<Space>; MAX_CPUS] =
    [const { AtomicPtr::new(null::<Space>().cast_mut()) }; MAX_CPUS];

/// Tells where Herald's own tables are, which are in use.
pub(crate) fn init(root: Pfn) {
    OWN_ROOT.store(root.base().as_u64(), Ordering::Relaxed);
}

/// Loads Herald's own tables, on a CPU that has just started.
pub(super) fn load_own(root: Pfn) {
    load(root.base().as_u64());
}

fn load(root: u64) {
    // SAFETY: the upper half of every root is the same, so the code and the stack stay where they are.
    unsafe { cr3_write(root) };
}

/// Runs `access`, which uses hvas of `space` and nothing else that could block or lock.
pub(super) fn with<T>(space: &Space, access: impl FnOnce() -> T) -> T {
    enter(space);
    // SAFETY: the IDT is loaded, and no lock is held.
    unsafe { asm!("sti", options(nostack)) };
    let result = access();
    // SAFETY: as it was before.
    unsafe { asm!("cli", options(nostack)) };
    leave();
    result
}

fn enter(space: &Space) {
    let cpu = super::index();
    SPACES[cpu].store((&raw const *space).cast_mut(), Ordering::Relaxed);
    flush::enter_space(cpu);
    load(space.root().base().as_u64());
}

fn leave() {
    let cpu = super::index();
    load(OWN_ROOT.load(Ordering::Relaxed));
    flush::leave_space(cpu);
    SPACES[cpu].store(null::<Space>().cast_mut(), Ordering::Relaxed);
}

/// Resolves a page fault on an hva. May go on on another CPU.
///
/// # Errors
/// [`FaultError`]; `Unmapped` also where this CPU is in no space.
pub(super) fn fault(address: Hva, access: Access) -> Result<(), FaultError> {
    let space = SPACES[super::index()].load(Ordering::Relaxed);
    // SAFETY: `with` holds a reference for as long as the CPU is in the space.
    let Some(space) = (unsafe { space.as_ref() }) else { return Err(FaultError::Unmapped(address)) };
    leave();
    let result = space.fault_in(address, access).map(|_| ());
    enter(space);
    result
}
