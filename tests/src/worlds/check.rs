//! What is looked at after each operation, and at the end.

use super::areas::{self, Area};
use super::model::Words;
use super::{ANNEX, SPACES, STORED, World, model, paging};
use crate::Violation;
use crate::lab::{ARENA, Verdict};
use crate::machine::Machine;
use crate::oracle::{self, Census, Secondary, Subjects};
use addr::{HvaRange, PAGE_SHIFT};
use mm::{CpuIndex, File, Host, VmaKind};
use std::sync::Arc;

/// Accesses to tables that one operation and its check may make before it counts as stuck.
const MOST_TABLE_ACCESSES: u64 = 1_000_000;

impl World {
    /// Asks the oracle, and compares areas.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn check(&self) -> Result<Census, Violation> {
        let living = || self.spaces.iter().flatten();
        let spaces: Vec<_> = living().map(|living| Arc::clone(&living.space)).collect();
        let guests = living().filter_map(|living| living.guest.as_ref());
        let secondaries: Vec<_> =
            guests.map(|guest| Secondary { mmu: Arc::clone(&guest.mmu), root: guest.root }).collect();
        let (mm, files) = (Some(&*self.mm), &self.files[..]);
        let subjects =
            Subjects { mm, files, spaces: &spaces, secondaries: &secondaries, devices: &[], held: 0 };
        for (id, model) in self.model.spaces.iter().enumerate() {
            if let Some(model) = model {
                self.check_areas(id, model)?;
            }
        }
        oracle::check(&self.machine, subjects)
    }

    fn check_areas(&self, id: usize, model: &model::Space) -> Result<(), Violation> {
        let vmas = self.living(id).space.vmas();
        let mut covered = 0;
        for vma in &vmas {
            let pages = (vma.range.start().as_u64() >> PAGE_SHIFT, vma.range.end().as_u64() >> PAGE_SHIFT);
            for ((first, end), Area { protection, backing, flags }) in model.areas.parts(pages) {
                covered += end - first;
                if (protection, flags) != (vma.protection, vma.flags)
                    || !self.is_backed_by(pages.0, &vma.kind, backing)
                {
                    return Err(Violation::AreasWrong { range: vma.range });
                }
            }
            covered += (pages.1 - pages.0) << 32;
        }
        let told: u64 = model.areas.iter().map(|((first, end), _)| end - first).sum();
        // Both sums at once: pages of the model that lie in areas, and pages of areas.
        let whole = HvaRange::new(ARENA, ARENA);
        if covered == told | told << 32 { Ok(()) } else { Err(Violation::AreasWrong { range: whole }) }
    }

    fn is_backed_by(&self, first: u64, kind: &VmaKind<Machine>, backing: areas::Backing) -> bool {
        let is = |of: &Arc<File<Machine>>, file: usize| Arc::ptr_eq(of, &self.files[file]);
        match (kind, backing) {
            (VmaKind::Anonymous(a), areas::Backing::Anonymous(b)) => *a == b,
            (VmaKind::Private(of, index), areas::Backing::Private { file, shift })
            | (VmaKind::Shared(of, index), areas::Backing::Shared { file, shift }) => {
                is(of, file) && first.wrapping_add_signed(shift) == *index
            }
            _ => false,
        }
    }

    /// Whether an allocation was made to fail since the last verdict, or memory is short.
    pub(super) fn is_short(&self) -> bool {
        let fired = self.armed && !self.machine.failure_is_pending();
        fired || self.machine.frames().free_count() < ANNEX
    }

    /// Passes a verdict on if it is one of those expected, and the oracle finds everything in order. Shortage of
    /// memory is excused where an allocation was made to fail, or memory is short.
    pub(super) fn judged(
        &mut self,
        what: impl FnOnce() -> String,
        expected: &[Verdict],
        found: Verdict,
    ) -> Result<Verdict, Violation> {
        let short = self.is_short();
        self.armed &= self.machine.failure_is_pending();
        if !(expected.contains(&found) || found == Verdict::OutOfMemory && short) {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            return Err(Violation::Answer { what: what(), expected, found });
        }
        self.absorb()?;
        self.model.settle();
        self.machine.settle();
        self.check()?;
        self.machine.limit_table_accesses(MOST_TABLE_ACCESSES);
        Ok(found)
    }

    /// Compares all that a space maps with the model, and loads what it has written.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn compare(&mut self, id: usize) -> Result<(), Violation> {
        for page in self.model.written(id) {
            self.load_number(id, CpuIndex(0), page, 0)?;
        }
        for (page, frame) in oracle::resident(&self.machine, self.living(id).space.root())? {
            let words = self.machine.memory.nonzero(frame).into_iter();
            let found = Words::new(words.map(|(place, word)| (place, paging::seen(page, word))));
            self.model.learn(id, page, |words| *words == found).map_err(|expected| {
                let place = expected.differ(&found).unwrap_or(0);
                let what = format!("word {place} of page {page:#x} in {id}");
                Violation::Content { what, expected: expected.get(place), found: found.get(place) }
            })?;
        }
        Ok(())
    }

    /// Ends everything in order: all contents are compared, all spaces exit, all frames come back.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn finish(mut self) -> Result<(), Violation> {
        self.be_punctual();
        self.cancel_failure();
        self.set_devices_failing(false);
        for id in 0..SPACES {
            if self.is_living(id) {
                self.compare(id)?;
            }
        }
        self.write_back(STORED)?;
        for id in 0..SPACES {
            if self.is_living(id) {
                self.exit(id)?;
            }
        }
        let machine = Arc::clone(&self.machine);
        let (used, kept) = (self.mm.swap_used(), self.swap.kept());
        assert_eq!((used, kept), (0, 0), "swap slots are lost");
        drop(self);
        let nobody = Subjects { mm: None, files: &[], spaces: &[], secondaries: &[], devices: &[], held: 0 };
        let census = oracle::check(&machine, nobody)?;
        assert_eq!(census, Census::default());
        Ok(())
    }
}
