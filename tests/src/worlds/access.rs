//! Accesses as programs make them, by Herald and by guests, in the space of their choice.

use super::late::page_at;
use super::model::{Certainty, Model};
use super::{World, address, number};
use crate::Violation;
use crate::lab::Verdict;
use crate::machine::GuestMode;
use crate::paging::resolve;
use addr::{Gfn, Gpa, PAGE_SHIFT};
use mm::{Access, CpuIndex};
use mmu::FaultOutcome;

/// Faults that one access may take before it counts as stuck.
const MOST_FAULTS: u32 = 64;

/// The place of a word in its page.
pub(super) const fn offset(word: u16) -> u64 {
    word as u64 * 8
}

/// An access.
#[derive(Clone, Copy, Debug)]
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

/// Where: a word of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    pub(super) page: u64,
    pub(super) word: u16,
}

impl World {
    /// Has the CPU use a space, in root mode.
    pub(super) fn enter_space(&mut self, id: usize, cpu: CpuIndex) {
        self.machine.settle();
        if self.machine.guest_root(cpu).is_some() {
            self.machine.exit(cpu);
        }
        if self.loaded[cpu.0] != Some(id) {
            self.machine.load_space(cpu, Some(self.living(id).space.root()));
            self.loaded[cpu.0] = Some(id);
        }
    }

    /// Has the CPU run the guest of a space; under a shadow, with its paging so. `false`: it has none.
    pub(super) fn enter_guest(&mut self, id: usize, cpu: CpuIndex, mode: GuestMode) -> bool {
        let Some(root) = self.living(id).guest.as_ref().map(|guest| guest.root) else { return false };
        if self.machine.guest_root(cpu) != Some(root) {
            self.enter_space(id, cpu);
            self.machine.set_context(cpu, Some(Self::context(id)));
            self.machine.enter(cpu, root);
        }
        self.set_mode(id, cpu, mode);
        true
    }

    /// Herald loads a word of a page.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn load(&mut self, id: usize, cpu: CpuIndex, page: u64, word: u16) -> Result<Verdict, Violation> {
        self.load_number(id, cpu, number(page), word)
    }

    pub(super) fn load_number(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        page: u64,
        word: u16,
    ) -> Result<Verdict, Violation> {
        self.linear(id, cpu, Word { page, word }, Operation::Load)
    }

    /// Herald stores a word of a page.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn store(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        (page, word): (u64, u16),
        value: u64,
    ) -> Result<Verdict, Violation> {
        self.linear(id, cpu, Word { page: number(page), word }, Operation::Store(value))
    }

    /// The guest of a space loads a word of a guest frame.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn guest_load(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        gfn: u64,
        word: u16,
    ) -> Result<Verdict, Violation> {
        self.physical(id, cpu, Word { page: gfn, word }, Operation::Load)
    }

    /// The guest of a space stores a word of a guest frame.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn guest_store(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        (gfn, word): (u64, u16),
        value: u64,
    ) -> Result<Verdict, Violation> {
        self.physical(id, cpu, Word { page: gfn, word }, Operation::Store(value))
    }

    /// A store was made to a page of the arena by somebody who does not ask the bench.
    pub fn note_store(&mut self, id: usize, (page, word): (u64, u16), value: u64) {
        self.model.store(id, number(page), word, value);
    }

    fn linear(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        at: Word,
        operation: Operation,
    ) -> Result<Verdict, Violation> {
        self.enter_space(id, cpu);
        let hva = address(at.page).add(offset(at.word));
        let machine = &self.machine;
        let space = &self.living(id).space;
        let found = retry(|| {
            let tried = match operation {
                Operation::Load => machine.load_linear(cpu, hva).map(Verdict::Value),
                Operation::Store(value) => machine.store_linear(cpu, hva, value).map(|()| {
                    space.wrote(page_at(at.page));
                    Verdict::Done
                }),
            };
            tried.map_err(|_| {
                let outcome = space.fault_in(hva, operation.access());
                machine.settle();
                outcome.err().map(Verdict::from)
            })
        });
        self.judge_access(format_args!("{operation:?} of {hva} in {id}"), id, Some(at), operation, found)
    }

    fn physical(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        at: Word,
        operation: Operation,
    ) -> Result<Verdict, Violation> {
        if !self.enter_guest(id, cpu, GuestMode::Off) {
            return Ok(Verdict::NotRam);
        }
        let gpa = Gfn::new(at.page).base().add(offset(at.word));
        let found = retry(|| {
            let tried = match operation {
                Operation::Load => self.machine.guest_load(cpu, gpa).map(Verdict::Value),
                Operation::Store(value) => self.machine.guest_store(cpu, gpa, value).map(|()| Verdict::Done),
            };
            tried.map_err(|_| self.ept_violation(id, cpu, gpa, operation.access()))
        });
        let page = self.page_of(id, gpa).map(|page| Word { page, ..at });
        self.judge_access(format_args!("guest's {operation:?} of {gpa} in {id}"), id, page, operation, found)
    }

    pub(super) fn page_of(&self, id: usize, gpa: Gpa) -> Option<u64> {
        let slots = &self.living(id).guest.as_ref()?.slots;
        let slot = slots.iter().find(|slot| slot.gfns().contains(gpa.gfn()))?;
        Some(slot.hva_of(gpa.gfn()).as_u64() >> PAGE_SHIFT)
    }

    /// The exit handler; `None`: the guest tries again.
    pub(super) fn ept_violation(
        &self,
        id: usize,
        cpu: CpuIndex,
        gpa: Gpa,
        access: Access,
    ) -> Option<Verdict> {
        let guest = self.living(id).guest.as_ref()?;
        self.machine.exit(cpu);
        let outcome = resolve(&self.machine, &guest.mmu, cpu, (gpa, access));
        self.machine.settle();
        self.machine.enter(cpu, guest.root);
        match outcome {
            Ok(FaultOutcome::Mapped) => None,
            Ok(FaultOutcome::NotRam) => Some(Verdict::NotRam),
            Err(error) => Some(error.into()),
        }
    }

    pub(super) fn judge_access(
        &mut self,
        what: std::fmt::Arguments<'_>,
        id: usize,
        at: Option<Word>,
        operation: Operation,
        found: Verdict,
    ) -> Result<Verdict, Violation> {
        self.absorb()?;
        let Some(Word { page, word }) = at else {
            return self.judged(|| what.to_string(), &[Verdict::NotRam], found);
        };
        let mut expected = vec![self.model.access(id, page, operation.access())];
        match (operation, found) {
            (_, Verdict::Value(value)) if expected[0] == Verdict::Done => {
                let learnt = self.model.load(id, page, word, value);
                learnt.map_err(|expected| Violation::Content {
                    what: what.to_string(),
                    expected,
                    found: value,
                })?;
                expected.push(found);
            }
            (Operation::Store(value), Verdict::Done) => self.model.store(id, page, word, value),
            (Operation::Store(_), _) if expected[0] == Verdict::Done => {
                self.model.take_own(id, page, Certainty::Maybe);
            }
            _ => {}
        }
        let (fails, scarce) = (self.may_fail(id, page), self.is_hugetlb(id, page));
        if expected[0] == Verdict::Done {
            expected.extend(fails.then_some(Verdict::DeviceFailed));
            expected.extend(scarce.then_some(Verdict::OutOfMemory));
        }
        self.judged(|| what.to_string(), &expected, found)
    }

    /// Whether a device may fail that has the page.
    pub(super) fn may_fail(&self, id: usize, page: u64) -> bool {
        match self.model.file_page(id, page) {
            Some((super::STORED, _)) => self.disk.is_failing() || self.swap.is_failing(),
            Some((super::IN_PLACE, _)) => self.in_place.is_failing() || self.swap.is_failing(),
            _ => self.swap.is_failing(),
        }
    }

    pub(super) fn is_hugetlb(&self, id: usize, page: u64) -> bool {
        self.model.area(id, page).is_some_and(|area| area.is_hugetlb())
    }

    /// Has the CPU fetch a translation that nobody asked for: of a page, or of a guest frame.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn speculate(&mut self, id: usize, cpu: CpuIndex, page: u64, by: By) -> Result<Verdict, Violation> {
        match by {
            By::Guest if self.enter_guest(id, cpu, GuestMode::Off) => {
                self.machine.speculate(cpu, Gfn::new(page).base().as_u64());
            }
            By::Guest => return Ok(Verdict::NotRam),
            By::Herald => {
                self.enter_space(id, cpu);
                self.machine.speculate(cpu, address(number(page)).as_u64());
            }
        }
        self.judged(|| format!("speculation in {id}"), &[Verdict::Done], Verdict::Done)
    }

    /// The accesses that mlock makes, in order, up to the first that must fail.
    pub(super) fn touch_locked(&mut self, id: usize, run: (u64, u64)) -> Verdict {
        for page in run.0..run.1 {
            let Some(area) = self.model.area(id, page) else { return Verdict::Hole };
            let access = Model::locking(area);
            let verdict = self.model.access(id, page, access);
            if verdict != Verdict::Done {
                return verdict;
            }
            if access == Access::Write {
                self.model.take_own(id, page, Certainty::Sure);
            }
        }
        Verdict::Done
    }
}

/// Who does something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Herald, by hva.
    Herald,
    /// The guest of the space.
    Guest,
}

/// Tries until there is an answer; without one, the access is stuck.
pub(super) fn retry(mut attempt: impl FnMut() -> Result<Verdict, Option<Verdict>>) -> Verdict {
    for _ in 0..MOST_FAULTS {
        match attempt() {
            Ok(verdict) | Err(Some(verdict)) => return verdict,
            Err(None) => {}
        }
    }
    Verdict::Stuck
}
