//! Accesses as programs make them: the CPU tries, and after a fault the handler runs and the CPU tries again.

use super::model::Who;
use super::{Guest, GuestId, Lab, Verdict};
use crate::machine::Speculation;
use crate::paging::resolve_by;
use crate::{Violation, lock};
use addr::{Gpa, Hva, PAGE_SIZE, PageSize};
use mm::{Access, CpuIndex, MOST_AHEAD};
use mmu::FaultOutcome;

/// Faults that one access may take before it counts as stuck.
const MOST_FAULTS: u32 = 64;

impl Lab {
    /// The guest loads a word.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn guest_load(&self, guest: GuestId, cpu: CpuIndex, gpa: Gpa) -> Result<Verdict, Violation> {
        self.run_guest(guest, cpu);
        let what = || format!("guest load of {gpa} on CPU {}", cpu.0);
        let found = self.retry(what, || match self.machine.guest_load(cpu, gpa) {
            Ok(value) => Ok(Verdict::Value(value)),
            Err(_) => self.ept_violation(guest, cpu, gpa, Access::Read),
        })?;
        self.judge_access(what, self.guest(guest).hva_of(gpa), (Who::Guest, Access::Read), found)
    }

    /// The guest stores a word.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn guest_store(
        &self,
        guest: GuestId,
        cpu: CpuIndex,
        gpa: Gpa,
        value: u64,
    ) -> Result<Verdict, Violation> {
        self.run_guest(guest, cpu);
        let what = || format!("guest store to {gpa} on CPU {}", cpu.0);
        let found = self.retry(what, || match self.machine.guest_store(cpu, gpa, value) {
            Ok(()) => Ok(Verdict::Done),
            Err(_) => self.ept_violation(guest, cpu, gpa, Access::Write),
        })?;
        let hva = self.guest(guest).hva_of(gpa);
        if let (Some(hva), Verdict::Done) = (hva, found) {
            self.note_store(hva, value);
        }
        self.judge_access(what, hva, (Who::Guest, Access::Write), found)
    }

    /// Herald loads a word by hva.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn load(&self, cpu: CpuIndex, hva: Hva) -> Result<Verdict, Violation> {
        self.machine.exit(cpu);
        let what = || format!("load of {hva} on CPU {}", cpu.0);
        let found = self.retry(what, || match self.machine.load_linear(cpu, hva) {
            Ok(value) => Ok(Verdict::Value(value)),
            Err(_) => self.page_fault(hva, Access::Read),
        })?;
        self.judge_access(what, Some(hva), (Who::Herald, Access::Read), found)
    }

    /// Herald stores a word by hva.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn store(&self, cpu: CpuIndex, hva: Hva, value: u64) -> Result<Verdict, Violation> {
        self.machine.exit(cpu);
        let what = || format!("store to {hva} on CPU {}", cpu.0);
        let found = self.retry(what, || match self.machine.store_linear(cpu, hva, value) {
            Ok(()) => Ok(Verdict::Done),
            Err(_) => self.page_fault(hva, Access::Write),
        })?;
        if found == Verdict::Done {
            self.note_store(hva, value);
        }
        self.judge_access(what, Some(hva), (Who::Herald, Access::Write), found)
    }

    /// Puts the CPU into guest mode for this guest, if it is not there.
    pub fn run_guest(&self, guest: GuestId, cpu: CpuIndex) {
        let root = self.guest(guest).root;
        if self.machine.guest_root(cpu) != Some(root) {
            self.machine.exit(cpu);
            self.machine.enter(cpu, root);
        }
    }

    /// Has the CPU fetch a translation that nobody asked for.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn speculate(
        &self,
        guest: Option<GuestId>,
        cpu: CpuIndex,
        address: u64,
    ) -> Result<Verdict, Violation> {
        let hva = match guest {
            Some(guest) => {
                self.run_guest(guest, cpu);
                self.guest(guest).hva_of(Gpa::new(address))
            }
            None => {
                self.machine.exit(cpu);
                Some(Hva::new(address))
            }
        };
        self.machine.speculate(cpu, address);
        if let Some(hva) = hva {
            lock(&self.model).maybe_touched(hva);
        }
        self.audited(Verdict::Done)
    }

    /// The exit handler: the CPU is in root mode while it works.
    fn ept_violation(
        &self,
        guest: GuestId,
        cpu: CpuIndex,
        gpa: Gpa,
        access: Access,
    ) -> Result<Verdict, Option<Verdict>> {
        let Guest { mmu, paging, root, .. } = self.guest(guest);
        self.machine.exit(cpu);
        let outcome = resolve_by(paging, &self.machine, mmu, (cpu, (gpa, access)));
        self.machine.enter(cpu, *root);
        match outcome {
            Ok(FaultOutcome::Mapped) => Err(None),
            Ok(FaultOutcome::NotRam) => Err(Some(Verdict::NotRam)),
            Err(error) => Err(Some(error.into())),
        }
    }

    fn page_fault(&self, hva: Hva, access: Access) -> Result<Verdict, Option<Verdict>> {
        match self.space.fault_in(hva, access) {
            Ok(_) => Err(None),
            Err(error) => Err(Some(error.into())),
        }
    }

    /// Tries until there is an answer.
    fn retry(
        &self,
        what: impl Fn() -> String,
        mut attempt: impl FnMut() -> Result<Verdict, Option<Verdict>>,
    ) -> Result<Verdict, Violation> {
        for _ in 0..MOST_FAULTS {
            match attempt() {
                Ok(verdict) | Err(Some(verdict)) => return Ok(verdict),
                Err(None) => {}
            }
        }
        let found = format!("{MOST_FAULTS} faults");
        Err(Violation::Answer { what: what(), expected: "an end".into(), found })
    }

    pub(super) fn note_store(&self, hva: Hva, value: u64) {
        lock(&self.model).store(hva, value);
    }

    pub(super) fn judge_access(
        &self,
        what: impl Fn() -> String,
        hva: Option<Hva>,
        (who, access): (Who, Access),
        found: Verdict,
    ) -> Result<Verdict, Violation> {
        let expected = {
            let mut model = lock(&self.model);
            let expected = hva.map_or(Verdict::NotRam, |hva| model.access(hva, access));
            if let (Some(hva), Verdict::Done | Verdict::Value(_)) = (hva, found) {
                model.touched(hva, who, access);
            }
            if let (Some(hva), Verdict::OutOfMemory) = (hva, found) {
                model.half_touched(hva);
            }
            if let (Some(hva), Who::Guest, Access::Write) = (hva, who, access) {
                let page = hva.align_down(PageSize::Size4K);
                let behind = (1..=MOST_AHEAD as u64).map(|index| page.add(index * PAGE_SIZE));
                behind.filter(|&page| self.space.lookup(page).is_some()).for_each(|page| model.came(page));
            }
            expected
        };
        if let (Verdict::Value(expected), Verdict::Value(found)) = (expected, found)
            && expected != found
        {
            return Err(Violation::Content { what: what(), expected, found });
        }
        self.judged(what, &[expected], found)
    }

    /// Whether what hardware fetched by itself may have set A bits.
    pub(super) fn speculates(&self) -> bool {
        self.machine.options.speculation != Speculation::Off
    }
}
