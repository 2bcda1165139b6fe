//! A guest with paging of its own: its tables lie in its memory, so each step of its walk is a guest-physical access.
//!
//! ```text
//!   gva ─► PML4 ─► PDPT ─► PD ─► PT ─► gpa ─EPT─► frame        combined: gva ─► frame
//!           │EPT    │EPT    │EPT  │EPT                          combined structures: gva's upper bits ─► table's frame
//! ```
//!
//! With A and D bits in the EPT, accesses to the guest's tables count as writes there (SDM vol. 3C 28.3.5); without,
//! only the update of a bit in them is one. Combined entries name frames: an EPT entry that changes leaves them
//! standing, of tables, too. An INVEPT drops them; VM entries and exits do not, nor do flushes of the host's own
//! translations (28.4.3.1). The guest's own flushes drop combined entries, and no guest-physical ones.

use super::Machine;
use super::access::{Operation, Walk};
use super::cpu::{Cpu, Kind};
use super::format::{Format, Raw, index};
use super::tlb::{Cached, Context, Structure, Tag};
use crate::Violation;
use addr::{Gpa, Gva, PAGE_SHIFT, PageSize, Pfn};
use mm::{Access, CpuIndex};
use std::sync::atomic::Ordering;

/// A guest could not make an access.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestFault {
    /// Its own tables do not allow it.
    Page,
    /// The EPT does not: an EPT violation at this address, which may be that of a table.
    Ept {
        /// The address.
        gpa: Gpa,
        /// What was tried there.
        access: Access,
    },
}

impl Machine {
    /// What the next VM entry, or this one, loads: the guest's VPID and CR3. Drops nothing.
    pub fn set_context(&self, cpu: CpuIndex, context: Option<Context>) {
        self.cpu(cpu).context = context;
    }

    /// The guest's MOV to CR3, without PCIDs.
    pub fn guest_load_cr3(&self, cpu: CpuIndex, cr3: Gpa) {
        let mut state = self.cpu(cpu);
        if let Some(context) = &mut state.context {
            context.cr3 = cr3;
            let vpid = context.vpid;
            let _dropped = state.combined.flush_guest(vpid, None);
        }
    }

    /// The guest's INVLPG.
    pub fn guest_invalidate(&self, cpu: CpuIndex, gva: Gva) {
        let mut state = self.cpu(cpu);
        if let Some(Context { vpid, .. }) = state.context {
            let _dropped = state.combined.flush_guest(vpid, Some(gva.as_u64()));
        }
    }

    /// The CPU loses all translations of a kind, as it may at any time, to make room.
    pub fn evict(&self, cpu: CpuIndex, kind: Kind) {
        *self.cpu(cpu).tlb(kind) = super::tlb::Tlb::default();
    }

    /// A load by the guest that runs on the CPU, through its own tables.
    ///
    /// # Errors
    /// [`GuestFault`].
    pub fn guest_load_linear(&self, cpu: CpuIndex, gva: Gva) -> Result<u64, GuestFault> {
        self.nested_access(cpu, gva, Operation::Load)
    }

    /// A store by the guest that runs on the CPU, through its own tables.
    ///
    /// # Errors
    /// [`GuestFault`].
    pub fn guest_store_linear(&self, cpu: CpuIndex, gva: Gva, value: u64) -> Result<(), GuestFault> {
        self.nested_access(cpu, gva, Operation::Store(value)).map(|_| ())
    }

    fn nested_access(&self, cpu: CpuIndex, gva: Gva, operation: Operation) -> Result<u64, GuestFault> {
        assert!(gva.as_u64().is_multiple_of(8), "{gva} is no aligned word");
        let mut state = self.cpu(cpu);
        let Some(tag) = state.combined_tag() else { panic!("CPU {} runs no guest with paging", cpu.0) };
        let nested = Nested { machine: self, cpu, tag, gva };
        match nested.translate(&mut state, operation.access()) {
            Ok(cached) => Ok(self.touch(cpu, cached, gva.as_u64(), operation)),
            Err(fault) => {
                // Both faults drop what there was for the linear address; an EPT violation also what there was
                // for the guest-physical one.
                state.combined.forget(tag, gva.as_u64());
                if let GuestFault::Ept { gpa, .. } = fault {
                    state.guest.forget(tag.root.into(), gpa.as_u64());
                }
                self.counters.faults.fetch_add(1, Ordering::Relaxed);
                Err(fault)
            }
        }
    }
}

/// One translation of a guest-linear address under way.
#[derive(Clone, Copy)]
pub(super) struct Nested<'m> {
    pub(super) machine: &'m Machine,
    pub(super) cpu: CpuIndex,
    pub(super) tag: Tag,
    pub(super) gva: Gva,
}

impl Nested<'_> {
    /// The translation that the access uses: a cached one as long as it allows the access.
    fn translate(&self, cpu: &mut Cpu, access: Access) -> Result<Cached, GuestFault> {
        let address = self.gva.as_u64();
        if let Some((key, cached)) = cpu.combined.find(self.tag, address, access) {
            let store = access == Access::Write;
            if store && !cached.write {
                // A cached refusal is a fault, even if the tables allow more by now.
                let gpa = cached.gpa.expect("a combined translation").add(address - key.page);
                return Err(GuestFault::Ept { gpa, access });
            }
            if !store || cached.dirty {
                self.machine.counters.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(cached);
            }
        }
        self.run(cpu, access)
    }

    /// Walks the guest's tables from the deepest that is cached, and caches what it meets.
    pub(super) fn run(&self, cpu: &mut Cpu, access: Access) -> Result<Cached, GuestFault> {
        self.machine.counters.walks.fetch_add(1, Ordering::Relaxed);
        let address = self.gva.as_u64();
        let cached = cpu.combined.table(self.tag, address);
        let (mut level, mut table) = match cached {
            Some((level, Structure { through: Some(through), .. })) => (level, through),
            _ => (4, self.reach_table(cpu, self.cr3())?),
        };
        loop {
            match self.visit(cpu, level, &mut table, access)? {
                Raw::Table(next, _) => {
                    level -= 1;
                    table = self.reach_table(cpu, Gpa::new(next.as_u64() << PAGE_SHIFT))?;
                    let pointer = Structure { table: table.pfn, write: true, through: Some(table) };
                    cpu.combined.cache_table(self.tag, level, address, pointer);
                }
                Raw::Leaf(leaf) => {
                    let offset = address & (leaf.size.bytes() - 1);
                    let gpa = Gpa::new((leaf.pfn.as_u64() << PAGE_SHIFT) + offset);
                    let last = self.reach(cpu, gpa, access)?;
                    let size = leaf.size.min(last.size);
                    let cached = Cached {
                        size,
                        pfn: last
                            .pfn
                            .add((gpa.align_down(size).as_u64() & (last.size.bytes() - 1)) >> PAGE_SHIFT),
                        write: leaf.write && last.write,
                        dirty: leaf.dirty && (last.dirty || !self.tracks()),
                        gpa: Some(gpa.align_down(size)),
                    };
                    cpu.combined.cache(self.tag, address, cached);
                    return Ok(cached);
                }
                Raw::NotPresent | Raw::Malformed(_) => return Err(GuestFault::Page),
            }
        }
    }

    fn cr3(&self) -> Gpa {
        self.tag.guest.expect("a guest with paging").cr3
    }

    /// Whether the EPT has A and D bits.
    fn tracks(&self) -> bool {
        self.machine.format(Kind::GuestPhysical).dirty() != 0
    }

    /// A guest-physical access; what the EPT says of the page.
    fn reach(&self, cpu: &mut Cpu, gpa: Gpa, access: Access) -> Result<Cached, GuestFault> {
        let (root, address) = (self.tag.root, gpa.as_u64());
        let walk = Walk { machine: self.machine, cpu: self.cpu, kind: Kind::GuestPhysical, root, address };
        walk.translate(cpu, access).ok_or(GuestFault::Ept { gpa, access })
    }

    /// How the EPT maps the page of one of the guest's tables.
    fn reach_table(&self, cpu: &mut Cpu, gpa: Gpa) -> Result<Cached, GuestFault> {
        let access = if self.tracks() { Access::Write } else { Access::Read };
        self.reach_page(cpu, gpa, access)
    }

    fn reach_page(&self, cpu: &mut Cpu, gpa: Gpa, access: Access) -> Result<Cached, GuestFault> {
        let gpa = gpa.align_down(PageSize::Size4K);
        let found = self.reach(cpu, gpa, access)?;
        let offset = gpa.as_u64() & (found.size.bytes() - 1);
        Ok(Cached {
            pfn: found.pfn.add(offset >> PAGE_SHIFT),
            size: PageSize::Size4K,
            gpa: Some(gpa),
            ..found
        })
    }

    /// Reads one of the guest's entries and sets its bits as the access demands. Where that takes a write that the
    /// table was not reached for, it is reached again.
    fn visit(&self, cpu: &mut Cpu, level: u8, table: &mut Cached, access: Access) -> Result<Raw, GuestFault> {
        let format = Format::Guest;
        let index = index(level, self.gva.as_u64());
        loop {
            let bits = self.machine.memory.load(self.live(table.pfn)?, index);
            let mut wanted = bits | format.accessed();
            match format.decode(level, bits) {
                Raw::NotPresent | Raw::Malformed(_) => return Err(GuestFault::Page),
                Raw::Leaf(leaf) if access == Access::Write => {
                    if !leaf.write {
                        return Err(GuestFault::Page);
                    }
                    wanted |= format.dirty();
                }
                Raw::Leaf(_) | Raw::Table(..) => {}
            }
            if wanted != bits && !(table.write && (table.dirty || !self.tracks())) {
                *table = self.reach_page(cpu, table.gpa.unwrap_or(Gpa::ZERO), Access::Write)?;
                continue;
            }
            if wanted == bits || self.machine.update_word(table.pfn, index, bits, wanted) {
                return Ok(format.decode(level, wanted));
            }
        }
    }

    /// A table's frame, if it is still somebody's.
    fn live(&self, table: Pfn) -> Result<Pfn, GuestFault> {
        if self.machine.is_live_frame(table) {
            return Ok(table);
        }
        let (cpu, root, address) = (self.cpu.0, self.tag.root, self.gva.as_u64());
        self.machine.report(Violation::DeadTableWalked { cpu, root, address, table });
        Err(GuestFault::Page)
    }
}
