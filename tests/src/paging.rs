//! Guests' paging: by an EPT or by shadows, and nothing else about a bench differs.
//!
//! `HERALD_PAGING=shadow` puts the guests of all benches under shadows. They have no paging of their own there, unless a bench gives
//! them some, so that linear addresses are guest-physical ones.

use crate::machine::{GuestMode, Machine, Paging, ShadowRoot};
use addr::{Gpa, Pfn};
use mm::{Access, AddressSpace, CpuIndex};
use mmu::{Drops, FaultOutcome, GuestPaging, LinearAccess, LinearFault, MmuError, Processor, SecondaryMmu};
use paging::OutOfTables;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Tables that a shadow has at first, and at most.
const SHADOW_TABLES: RangeInclusive<usize> = 5..=16;

/// Registers of a guest without paging.
pub(crate) const OFF: GuestPaging =
    GuestPaging { cr0: 1, cr3: 0, cr4: 0, efer: 0, pdptes: [0; 4], physical_bits: 40, gigantic_pages: false };

impl Paging {
    /// What `HERALD_PAGING` says.
    ///
    /// # Panics
    /// If it says something else than `ept` or `shadow`.
    #[must_use]
    pub fn chosen() -> Self {
        match std::env::var("HERALD_PAGING").as_deref() {
            Err(_) | Ok("ept") => Self::Ept,
            Ok("shadow") => Self::Shadow,
            Ok(other) => panic!("HERALD_PAGING is `{other}`: `ept` or `shadow`"),
        }
    }
}

/// The secondary MMU of a guest, with what its paging needs.
///
/// # Errors
/// [`OutOfTables`].
pub fn secondary(
    machine: &Machine,
    space: &Arc<AddressSpace<Machine>>,
) -> Result<SecondaryMmu<Machine>, OutOfTables> {
    let mmu = SecondaryMmu::new(Arc::clone(space), machine.options.accessed_dirty)?;
    if machine.options.paging == Paging::Ept {
        return Ok(mmu);
    }
    let processors = machine.cpus().count();
    let mmu = mmu.with_shadows(processors, SHADOW_TABLES)?;
    let roots = (0..processors).filter_map(|number| mmu.load_root(Processor(number), &OFF, Drops::All));
    let shadows = roots.map(|root| ShadowRoot { root, mode: GuestMode::Off }).collect();
    machine.set_shadows(mmu.root().unwrap_or(Pfn::ZERO), shadows);
    Ok(mmu)
}

/// What the exit handler does where a virtual processor has loaded CR3, or changed its paging. The CPU is in root mode.
///
/// # Panics
/// If it has no shadow.
pub fn load_root(
    machine: &Machine,
    mmu: &SecondaryMmu<Machine>,
    cpu: CpuIndex,
    (paging, drops): (&GuestPaging, Drops),
) {
    let mode = match (paging.is_off(), paging.is_long()) {
        (true, _) => GuestMode::Off,
        (false, true) => GuestMode::Long,
        (false, false) => GuestMode::Legacy,
    };
    let root = mmu.load_root(Processor(cpu.0), paging, drops).expect("it has a shadow");
    machine.set_shadow(mmu.root().unwrap_or(Pfn::ZERO), cpu, ShadowRoot { root, mode });
}

/// What the exit handler does where a guest could not make an access, without paging of its own or with this, by which addresses lead
/// to themselves. The CPU is in root mode.
///
/// # Errors
/// [`MmuError`].
pub fn resolve(
    machine: &Machine,
    mmu: &SecondaryMmu<Machine>,
    cpu: CpuIndex,
    touch: (Gpa, Access),
) -> Result<FaultOutcome, MmuError> {
    resolve_by(&OFF, machine, mmu, (cpu, touch))
}

pub(crate) fn resolve_by(
    paging: &GuestPaging,
    machine: &Machine,
    mmu: &SecondaryMmu<Machine>,
    (cpu, (gpa, access)): (CpuIndex, (Gpa, Access)),
) -> Result<FaultOutcome, MmuError> {
    if machine.options.paging == Paging::Ept {
        return mmu.fault(gpa, access);
    }
    let write = access == Access::Write;
    let access = LinearAccess { write, fetch: false, user: false, passes_smap: false };
    match mmu.fault_linear(Processor(cpu.0), paging, gpa.as_u64(), access)? {
        LinearFault::Mapped => Ok(FaultOutcome::Mapped),
        LinearFault::NotRam(_) => Ok(FaultOutcome::NotRam),
        LinearFault::Guest(fault) => panic!("a guest whose addresses lead to themselves gets {fault:?}"),
    }
}
