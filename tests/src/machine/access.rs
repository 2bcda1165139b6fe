//! Accesses as the hardware makes them: cached translation first, then a walk that starts at the deepest cached
//! table, sets A on its way and D for a store, and caches all it has seen.

use super::cpu::{Cpu, Dropped, GuestMode, Kind, ShadowRoot};
use super::format::{Format, Raw, RawLeaf, index};
use super::memory::POISON;
use super::nested::Nested;
use super::tlb::{Cached, Key, Structure};
use super::{Machine, Speculation};
use crate::{Violation, lock};
use addr::{Gpa, Gva, Hva, PAGE_SHIFT, PageSize, Pfn};
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
pub(super) enum Operation {
    Load,
    Store(u64),
}

impl Operation {
    pub(super) const fn access(self) -> Access {
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
        let usable = |(kind, key, _): &(Kind, Key, Cached)| state.tag(*kind) == Some(key.tag);
        let all = state
            .tlbs()
            .into_iter()
            .flat_map(|(kind, tlb)| tlb.pages.iter().map(move |(key, cached)| (kind, *key, *cached)));
        all.filter(usable).map(|(kind, key, cached)| (kind, key.page, cached)).collect()
    }

    /// The root of the tables that the CPU uses now.
    pub fn current_root(&self, cpu: CpuIndex) -> Option<Pfn> {
        self.cpu(cpu).current().map(|(_, root)| root)
    }

    /// Whether a store through this translation looks at no table.
    pub fn stores_blindly(&self, kind: Kind, cached: &Cached) -> bool {
        // A guest's own tables always have D bits.
        let clean_suffices = kind != Kind::Combined && self.format(kind).dirty() == 0;
        cached.write && (cached.dirty || clean_suffices)
    }

    /// Walks an address that no program has touched, in the tables that the CPU uses now, as hardware may at any
    /// time, and keeps what it finds.
    pub fn speculate(&self, cpu: CpuIndex, address: u64) {
        let mut cpu_state = self.cpu(cpu);
        if let Some((kind, root)) = cpu_state.current() {
            let _ = Walk { machine: self, cpu, kind, root, address }.run(&mut cpu_state, Access::Read);
        }
    }

    /// Walks a guest-linear address likewise.
    pub fn speculate_guest(&self, cpu: CpuIndex, gva: Gva) {
        let mut cpu_state = self.cpu(cpu);
        if let Some(tag) = cpu_state.combined_tag() {
            let _ = Nested { machine: self, cpu, tag, gva }.run(&mut cpu_state, Access::Read);
        }
    }

    /// What a CPU that owed flushes does right after them: it fetches everything again that the tables still have.
    pub(crate) fn refetch(&self, cpu: CpuIndex, cpu_state: &mut Cpu, dropped: &[Dropped]) {
        if self.options.speculation == Speculation::Off {
            return;
        }
        for &Dropped { kind, tag, page } in dropped {
            if cpu_state.tag(kind) != Some(tag) {
                continue;
            }
            if kind == Kind::Combined {
                let nested = Nested { machine: self, cpu, tag, gva: Gva::new(page) };
                let _ = nested.run(cpu_state, Access::Read);
            } else {
                let walk = Walk { machine: self, cpu, kind, root: tag.root, address: page };
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
        let kind = state.used_for(kind);
        let Some((_, root)) = state.current().filter(|(current, _)| *current == kind) else {
            panic!("CPU {} cannot make a {kind:?} access in this mode", cpu.0)
        };
        let walk = Walk { machine: self, cpu, kind, root, address };
        let cached = walk.translate(&mut state, operation.access());
        let Some(cached) = cached else {
            state.tlb(kind).forget(root.into(), address);
            self.counters.faults.fetch_add(1, Ordering::Relaxed);
            return Err(Fault { access: operation.access() });
        };
        Ok(self.touch(cpu, cached, address, operation))
    }

    /// Moves the word, by a translation that allows it.
    pub(super) fn touch(&self, cpu: CpuIndex, cached: Cached, address: u64, operation: Operation) -> u64 {
        let offset = address & (cached.size.bytes() - 1);
        let frame = cached.pfn.add(offset >> PAGE_SHIFT);
        if !self.is_live_frame(frame) {
            self.report(Violation::DeadFrameTouched { cpu: cpu.0, address, frame });
            return POISON;
        }
        let word = ((offset & (PageSize::Size4K.bytes() - 1)) / 8) as u16;
        match operation {
            Operation::Load => self.memory.load(frame, word),
            Operation::Store(value) => {
                self.store_word(frame, word, value);
                value
            }
        }
    }

    /// The format of the host's tables, or of the EPT: what the memory manager writes.
    pub(crate) fn format(&self, kind: Kind) -> Format {
        match (kind, self.options.accessed_dirty) {
            (Kind::Linear, _) => Format::Host,
            (Kind::Shadow, _) => Format::Guest,
            (_, mmu::AccessedDirty::Hardware) => Format::Ept,
            (_, mmu::AccessedDirty::Absent) => Format::EptWithoutAccessedDirty,
        }
    }

    pub(crate) fn cpu(&self, cpu: CpuIndex) -> std::sync::MutexGuard<'_, Cpu> {
        lock(&self.cpus[cpu.0])
    }
}

/// One translation under way.
#[derive(Clone, Copy)]
pub(super) struct Walk<'m> {
    pub(super) machine: &'m Machine,
    pub(super) cpu: CpuIndex,
    pub(super) kind: Kind,
    pub(super) root: Pfn,
    pub(super) address: u64,
}

impl Walk<'_> {
    /// The translation that the access uses; `None` where it faults.
    pub(super) fn translate(&self, cpu: &mut Cpu, access: Access) -> Option<Cached> {
        let store = access == Access::Write;
        if let Some((_, cached)) = cpu.tlb(self.kind).find(self.root.into(), self.address, access) {
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
        let tag = self.root.into();
        let cached = cpu.tlb(self.kind).table(tag, self.address);
        let (mut level, Structure { mut table, mut write, .. }) = cached.or_else(|| self.start(cpu))?;
        loop {
            if !self.machine.is_live_table(table) {
                let (cpu, root, address) = (self.cpu.0, self.root, self.address);
                self.machine.report(Violation::DeadTableWalked { cpu, root, address, table });
                return None;
            }
            match self.visit(level, (table, write), access)? {
                Raw::Table(next, allowed) => {
                    level -= 1;
                    table = next;
                    write &= allowed;
                    let pointer = Structure { table, write, through: None };
                    cpu.tlb(self.kind).cache_table(tag, level, self.address, pointer);
                }
                Raw::Leaf(leaf) => {
                    let RawLeaf { pfn, size, dirty, .. } = leaf;
                    let cached = Cached { pfn, size, write: write && leaf.write, dirty, gpa: None };
                    cpu.tlb(self.kind).cache(tag, self.address, cached);
                    return Some(cached);
                }
                Raw::NotPresent | Raw::Malformed(_) => return None,
            }
        }
    }

    /// The table that a walk begins with, and its level.
    fn start(&self, cpu: &Cpu) -> Option<(u8, Structure)> {
        let from = |level, table| Some((level, Structure { table, write: true, through: None }));
        let legacy = |shadow: &ShadowRoot| self.kind == Kind::Shadow && shadow.mode != GuestMode::Long;
        let Some(shadow) = cpu.shadow.filter(legacy) else {
            return from(4, self.root);
        };
        let pointer = self.machine.memory.load(shadow.root, (self.address >> 30 & 3) as u16);
        match Format::pointer(pointer) {
            Raw::Table(directory, _) => from(2, directory),
            Raw::NotPresent | Raw::Leaf(_) => None,
            Raw::Malformed(bits) => {
                let (cpu, address) = (self.cpu.0, self.address);
                self.machine.report(Violation::MalformedEntry { cpu, address, level: 3, bits });
                None
            }
        }
    }

    /// Reads one entry and sets its bits as the access demands: one atomic update of the real entry, tried again
    /// where software changed it in between. `None` where the entry does not allow the access.
    fn visit(&self, level: u8, (table, write): (Pfn, bool), access: Access) -> Option<Raw> {
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
                Raw::Table(..) => {}
                Raw::Leaf(leaf) if access == Access::Write => {
                    if !leaf.write || !write {
                        return None;
                    }
                    wanted |= format.dirty();
                }
                Raw::Leaf(_) => {}
            }
            match self.machine.memory.compare_exchange(table, index, bits, wanted) {
                Ok(()) => {
                    if self.kind == Kind::GuestPhysical && wanted & !bits & format.dirty() != 0 {
                        self.machine.log_write(self.root, self.address);
                    }
                    return Some(format.decode(level, wanted));
                }
                Err(now) => bits = now,
            }
        }
    }
}
