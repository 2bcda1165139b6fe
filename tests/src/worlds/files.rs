//! The memory manager's operations on files, each judged.

use super::World;
use super::model::Words;
use crate::Violation;
use crate::lab::Verdict;

impl World {
    /// Writes a file back, and compares what its store has then.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn write_back(&mut self, file: usize) -> Result<Verdict, Violation> {
        self.machine.settle();
        let found = self.mm.write_back(&self.files[file]);
        let found = found.map_or(Verdict::DeviceFailed, |()| Verdict::Done);
        // What was stored while it was under way may have come too late.
        let whole = self.absorb()? == 0;
        if (file, found, whole) == (super::STORED, Verdict::Done, true) {
            for (&index, words) in &self.model.files[file].pages {
                let kept = Words::new(self.disk.words(index));
                if let Some(place) = words.differ(&kept) {
                    let what = format!("word {place} of page {index} in the store");
                    let (expected, found) = (words.get(place), kept.get(place));
                    return Err(Violation::Content { what, expected, found });
                }
            }
        }
        let mut expected = vec![Verdict::Done];
        expected.extend((file == super::STORED && self.disk.is_failing()).then_some(Verdict::DeviceFailed));
        self.judged(|| format!("write-back of file {file}"), &expected, found)
    }

    /// truncate, to more or to less.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn truncate(&mut self, file: usize, len: u64) -> Result<Verdict, Violation> {
        self.machine.settle();
        self.mm.truncate(&self.files[file], len);
        self.absorb()?;
        self.model.truncate(file, len);
        self.judged(|| format!("truncation of file {file} to {len}"), &[Verdict::Done], Verdict::Done)
    }
}
