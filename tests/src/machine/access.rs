//! Accesses as the hardware makes them: cached translation first, then a walk that starts at the deepest cached
//! table, sets A on its way and D for a store, and caches all it has seen.

use super::cpu::{Cpu, Dropped, Kind};
use super::format::{Format, Raw, RawLeaf, index};
use super::memory::POISON;
use super::tlb::Cached;
use super::{Machine, Speculation};
use crate::{Violation, lock};
use addr::{Gpa, Hva, PAGE_SHIFT, PageSize, Pfn};
use mm::{Access, CpuIndex};
use std::sync::atomic::Ordering;

/// The CPU could not make the access: a page fault, or an EPT violation.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What was tried.
    pub access: Access,
}

#[derive(Clone, Copy)]
enum Operation {
    Load,
    Store(u64),
}

impl Operation {
    const fn access(self) -> Access {
        match self {
            Self::Load => Access::Read,
            Self::Store(_) => Access::Write,
        }
    }
}

impl Machine {
    /// A load by the guest that runs on the CPU. The address is that of an aligned word.
    ///
    /// # Errors
    /// [`Fault`]: an EPT violation.
    pub fn guest_load(&self, cpu: CpuIndex, gpa: Gpa) -> Result<u64, Fault> {
        self.access(cpu, Kind::GuestPhysical, gpa.as_u64(), Operation::Load)
    }

    /// A store by the guest that runs on the CPU.
    ///
    /// # Errors
    /// [`Fault`]: an EPT violation.
    pub fn guest_store(&self, cpu: CpuIndex, gpa: Gpa, value: u64) -> Result<(), Fault> {
        self.access(cpu, Kind::GuestPhysical, gpa.as_u64(), Operation::Store(value)).map(|_| ())
    }

    /// A load by Herald, through the address space that the CPU has loaded.
    ///
    /// # Errors
    /// [`Fault`]: a page fault.
    pub fn load_linear(&self, cpu: CpuIndex, hva: Hva) -> Result<u64, Fault> {
        self.access(cpu, Kind::Linear, hva.as_u64(), Operation::Load)
    }

    /// A store by Herald, through the address space that the CPU has loaded.
    ///
    /// # Errors
    /// [`Fault`]: a page fault.
    pub fn store_linear(&self, cpu: CpuIndex, hva: Hva, value: u64) -> Result<(), Fault> {
        self.access(cpu, Kind::Linear, hva.as_u64(), Operation::Store(value)).map(|_| ())
    }

    /// The translations that the CPU can use now without looking at a table: address, and what is cached.
    pub fn cached(&self, cpu: CpuIndex) -> Vec<(Kind, u64, Cached)> {
        let state = self.cpu(cpu);
        let Some((kind, root)) = state.current() else { return Vec::new() };
        let pages = match kind {
            Kind::Linear => &state.linear.pages,
            Kind::GuestPhysical => &state.guest.pages,
        };
        let usable = pages.iter().filter(|(key, _)| key.root == root);
        usable.map(|(key, &cached)| (kind, key.page, cached)).collect()
    }

    /// The root of the tables that the CPU uses now.
    pub fn current_root(&self, cpu: CpuIndex) -> Option<Pfn> {
        self.cpu(cpu).current().map(|(_, root)| root)
    }

    /// Whether a store through this translation looks at no table.
    pub fn stores_blindly(&self, kind: Kind, cached: &Cached) -> bool {
        cached.write && (cached.dirty || self.format(kind).dirty() == 0)
    }

    /// Walks an address that no program has touched, in the tables that the CPU uses now, as hardware may at any
    /// time, and keeps what it finds.
    pub fn speculate(&self, cpu: CpuIndex, address: u64) {
        let mut cpu_state = self.cpu(cpu);
        if let Some((kind, root)) = cpu_state.current() {
            let _ = Walk { machine: self, cpu, kind, root, address }.run(&mut cpu_state, Access::Read);
        }
    }

    /// What a CPU that owed flushes does right after them: it fetches everything again that the tables still have.
    pub(crate) fn refetch(&self, cpu: CpuIndex, cpu_state: &mut Cpu, dropped: &[Dropped]) {
        if self.options.speculation == Speculation::Off {
            return;
        }
        for &Dropped { kind, root, page } in dropped {
            if cpu_state.current() == Some((kind, root)) {
                let walk = Walk { machine: self, cpu, kind, root, address: page };
                let _ = walk.run(cpu_state, Access::Read);
            }
        }
    }

    /// One access, atomic against flushes: whoever waits for the CPU's acknowledgement waits for its end. So it is one
    /// step of a model, too.
    fn access(&self, cpu: CpuIndex, kind: Kind, address: u64, operation: Operation) -> Result<u64, Fault> {
        sync::switch_point();
        sync::undisturbed(|| self.access_now(cpu, kind, address, operation))
    }

    fn access_now(
        &self,
        cpu: CpuIndex,
        kind: Kind,
        address: u64,
        operation: Operation,
    ) -> Result<u64, Fault> {
        assert!(address.is_multiple_of(8), "{address:#x} is no aligned word");
        let mut state = self.cpu(cpu);
        let Some((_, root)) = state.current().filter(|(current, _)| *current == kind) else {
            panic!("CPU {} cannot make a {kind:?} access in this mode", cpu.0)
        };
        let walk = Walk { machine: self, cpu, kind, root, address };
        let cached = walk.translate(&mut state, operation.access());
        let Some(cached) = cached else {
            state.tlb(kind).forget(root, address);
            self.counters.faults.fetch_add(1, Ordering::Relaxed);
            return Err(Fault { access: operation.access() });
        };
        let offset = address & (cached.size.bytes() - 1);
        let frame = cached.pfn.add(offset >> PAGE_SHIFT);
        if !self.is_live_frame(frame) {
            self.report(Violation::DeadFrameTouched { cpu: cpu.0, address, frame });
            return Ok(POISON);
        }
        let word = ((offset & (PageSize::Size4K.bytes() - 1)) / 8) as u16;
        match operation {
            Operation::Load => Ok(self.memory.load(frame, word)),
            Operation::Store(value) => {
                self.store_word(frame, word, value);
                Ok(value)
            }
        }
    }

    pub(crate) fn format(&self, kind: Kind) -> Format {
        match (kind, self.options.accessed_dirty) {
            (Kind::Linear, _) => Format::Host,
            (Kind::GuestPhysical, mmu::AccessedDirty::Hardware) => Format::Ept,
            (Kind::GuestPhysical, mmu::AccessedDirty::Absent) => Format::EptWithoutAccessedDirty,
        }
    }

    pub(crate) fn cpu(&self, cpu: CpuIndex) -> std::sync::MutexGuard<'_, Cpu> {
        lock(&self.cpus[cpu.0])
    }
}

/// One translation under way.
#[derive(Clone, Copy)]
struct Walk<'m> {
    machine: &'m Machine,
    cpu: CpuIndex,
    kind: Kind,
    root: Pfn,
    address: u64,
}

impl Walk<'_> {
    /// The translation that the access uses; `None` where it faults.
    fn translate(&self, cpu: &mut Cpu, access: Access) -> Option<Cached> {
        let store = access == Access::Write;
        if let Some((_, cached)) = cpu.tlb(self.kind).find(self.root, self.address, access) {
            // A cached refusal is a fault, even if the tables allow more by now.
            let allowed = !store || cached.write;
            let needs_dirty = store && !cached.dirty && self.machine.format(self.kind).dirty() != 0;
            if !allowed || !needs_dirty {
                self.machine.counters.hits.fetch_add(1, Ordering::Relaxed);
                return allowed.then_some(cached);
            }
        }
        self.run(cpu, access)
    }

    /// Walks the tables, and caches what it meets.
    fn run(&self, cpu: &mut Cpu, access: Access) -> Option<Cached> {
        self.machine.counters.walks.fetch_add(1, Ordering::Relaxed);
        let (mut level, mut table) =
            cpu.tlb(self.kind).table(self.root, self.address).unwrap_or((4, self.root));
        loop {
            if !self.machine.is_live_table(table) {
                let (cpu, root, address) = (self.cpu.0, self.root, self.address);
                self.machine.report(Violation::DeadTableWalked { cpu, root, address, table });
                return None;
            }
            match self.visit(level, table, access)? {
                Raw::Table(next) => {
                    level -= 1;
                    table = next;
                    cpu.tlb(self.kind).cache_table(self.root, level, self.address, table);
                }
                Raw::Leaf(RawLeaf { pfn, size, write, dirty, .. }) => {
                    let cached = Cached { pfn, size, write, dirty };
                    cpu.tlb(self.kind).cache(self.root, self.address, cached);
                    return Some(cached);
                }
                Raw::NotPresent | Raw::Malformed(_) => return None,
            }
        }
    }

    /// Reads one entry and sets its bits as the access demands: one atomic update of the real entry, tried again
    /// where software changed it in between. `None` where the entry does not allow the access.
    fn visit(&self, level: u8, table: Pfn, access: Access) -> Option<Raw> {
        let format = self.machine.format(self.kind);
        let index = index(level, self.address);
        let mut bits = self.machine.memory.load(table, index);
        loop {
            let mut wanted = bits | format.accessed();
            match format.decode(level, bits) {
                Raw::NotPresent => return None,
                Raw::Malformed(bits) => {
                    let (cpu, address) = (self.cpu.0, self.address);
                    self.machine.report(Violation::MalformedEntry { cpu, address, level, bits });
                    return None;
                }
                Raw::Table(_) => {}
                Raw::Leaf(leaf) if access == Access::Write => {
                    if !leaf.write {
                        return None;
                    }
                    wanted |= format.dirty();
                }
                Raw::Leaf(_) => {}
            }
            match self.machine.memory.compare_exchange(table, index, bits, wanted) {
                Ok(()) => return Some(format.decode(level, wanted)),
                Err(now) => bits = now,
            }
        }
    }
}
