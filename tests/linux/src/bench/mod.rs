//! The bench: takes each step on both sides, and compares.
//!
//! | compared | when |
//! |---|---|
//! | the answer, or the errno | after every call, load and store |
//! | areas, with what is said of them | after every call that can change them |
//! | presence of the pages named | after touches, mlock, discard, munmap |
//! | presence of all pages, where it is defined (`presence`) | every few steps |
//! | what the oracle of the simulated machine says | every few steps |
//! | contents of all pages | at the end |

mod difference;
mod presence;

pub use difference::{Difference, Report};

use crate::answer::Answer;
use crate::areas::{Area, find, joined};
use crate::deviations::{left_out, rounded};
use crate::herald::Herald;
use crate::kernel::{Flags, Kernel};
use crate::step::{Advised, Aside, Place, Range, Raw, Step, To, What};
use crate::{END, SPACES};
use addr::PAGE_SIZE;
use mm::{Advice, VmaFlags};
use presence::Notes;

/// Steps between two looks at everything.
const INTERVAL: u64 = 16;
/// Words of one request.
const BATCH: usize = 1024;
/// The last word of a page.
const LAST_WORD: u64 = PAGE_SIZE - 8;

type Outcome<T = ()> = Result<T, Difference>;

/// Both sides, in step.
pub struct Bench<'k> {
    kernel: &'k mut Kernel,
    herald: Herald,
    notes: [Notes; SPACES],
    report: Report,
}

impl<'k> Bench<'k> {
    /// Two sides without a space, with equal files.
    #[must_use]
    pub fn new(kernel: &'k mut Kernel, herald: Herald) -> Self {
        kernel.reset();
        Self { kernel, herald, notes: Default::default(), report: Report::default() }
    }

    /// Takes a step. A space that does not live is not asked; without any, one is made.
    ///
    /// # Errors
    /// [`Difference`].
    pub fn take(&mut self, step: Step) -> Outcome {
        let living: Vec<_> = (0..SPACES).filter(|&id| self.herald.is_living(id)).collect();
        let free = (0..SPACES).find(|id| !living.contains(id));
        let one = |number: usize| living.get(number % living.len().max(1)).copied();
        self.report.steps += 1;
        match step {
            Step::Spawn => free.into_iter().for_each(|id| self.spawn(id)),
            Step::Fork { space } => {
                if let (Some(id), Some(to)) = (one(space), free) {
                    self.fork(id, to)?;
                }
            }
            Step::Exit { space } => one(space).into_iter().for_each(|id| self.exit(id)),
            Step::In { space, what } => match one(space) {
                Some(id) => self.happen(id, what)?,
                None => self.spawn(0),
            },
            Step::Truncate { file, len } => {
                self.herald.truncate(file, len);
                self.kernel.truncate(file, len);
            }
            Step::WriteBack => self.herald.write_back(),
        }
        if self.report.steps.is_multiple_of(INTERVAL) {
            self.look()?;
        }
        Ok(())
    }

    /// A call that Linux does not hear of. For tests of the tests.
    pub fn on_herald_alone(&mut self, id: usize, what: What) -> Answer {
        self.herald.call(id, what)
    }

    fn spawn(&mut self, id: usize) {
        self.herald.spawn(id);
        self.kernel.spawn(id);
    }

    fn fork(&mut self, id: usize, to: usize) -> Outcome {
        // Linux may copy the entries of untouched memory, `mm` never does.
        let zero = |page: &u64| self.herald.presence(id, *page) == crate::herald::Presence::Zero;
        let zeros: Vec<_> = self.herald.areas(id).iter().flat_map(Area::pages).filter(zero).collect();
        self.notes[to] = self.notes[id].clone();
        self.notes[to].open(zeros);
        self.herald.fork(id, to);
        self.kernel.fork(id, to);
        self.compare_areas(to)?;
        self.compare_presence(to)
    }

    fn exit(&mut self, id: usize) {
        self.herald.exit(id);
        self.kernel.exit(id);
        self.notes[id] = Notes::default();
    }

    fn happen(&mut self, id: usize, what: What) -> Outcome {
        match what {
            What::Aside(..) => {
                // It has no answer.
                let _ = self.herald.call(id, what);
                return if matches!(what, What::Aside(_, Aside::PageOut)) {
                    self.settle_freed()
                } else {
                    Ok(())
                };
            }
            What::Load(_) | What::Store(..) => return self.touch(id, what),
            _ if !self.is_possible(what) => return Ok(()),
            _ => {}
        }
        let (linux, before) = (self.kernel.areas(id, Flags::Unknown), self.herald.areas(id));
        if let Some(deviation) = left_out(what, &linux, &before, self.kernel.abilities()) {
            *self.report.left_out.entry(deviation).or_default() += 1;
            return Ok(());
        }
        let answer = self.call(id, what)?;
        self.report.calls += 1;
        self.report.refused += u64::from(answer.is_err());
        self.compare_areas(id)?;
        self.note(id, what, answer, &before);
        self.compare_named(id, what, answer)?;
        match what {
            What::Madvise(_, Advised::Other(Advice::PageOut)) => self.settle_freed(),
            _ => Ok(()),
        }
    }

    /// Whether the kernel can do such a thing.
    fn is_possible(&self, what: What) -> bool {
        let abilities = self.kernel.abilities();
        match what {
            What::Madvise(_, advised) => abilities.advice.contains(&advised),
            What::Mlock(_) | What::Munlock(_) => abilities.lock,
            _ => true,
        }
    }

    /// A call on both sides; what both have answered. Where `mm` chooses a place, it is asked first.
    fn call(&mut self, id: usize, what: What) -> Outcome<Answer> {
        let herald = self.herald.call(id, what);
        let linux = match (what, herald) {
            (What::Mmap { place: Place::Anywhere, len, protection, backing }, Ok(start)) => {
                let place = Place::Fixed(Raw(start));
                self.kernel.call(id, What::Mmap { place, len, protection, backing })
            }
            (What::Mremap { range, new_len, to: To::MayMove }, Ok(start)) if start != range.start.0 => {
                let stays = self.kernel.call(id, What::Mremap { range, new_len, to: To::InPlace });
                if stays.is_ok() {
                    return Err(Difference::answers(id, what, (stays, herald)));
                }
                self.kernel.call(id, What::Mremap { range, new_len, to: To::Fixed(Raw(start)) })
            }
            _ => self.kernel.call(id, what),
        };
        if linux == herald { Ok(linux) } else { Err(Difference::answers(id, what, (linux, herald))) }
    }

    /// A load or a store. What was touched is there.
    fn touch(&mut self, id: usize, what: What) -> Outcome {
        let (What::Load(Raw(address)) | What::Store(Raw(address), _)) = what else { return Ok(()) };
        let page = address & !(PAGE_SIZE - 1);
        if self.notes[id].freed.contains(&page) {
            self.settle_freed()?;
        }
        let answer = self.call(id, what)?;
        self.report.touches += 1;
        self.report.faults += u64::from(answer.is_err());
        if answer.is_err() {
            return Ok(());
        }
        let areas = joined(&self.herald.areas(id));
        let area = find(&areas, page).expect("an area that allows the access");
        let notes = &mut self.notes[id];
        if matches!(what, What::Store(..)) {
            notes.freed.remove(&page);
        }
        notes.touched(page, area);
        self.expect_presence(id, &[page], true)
    }

    /// Areas are equal, up to which neighbours are one.
    fn compare_areas(&mut self, id: usize) -> Outcome {
        let told = self.kernel.abilities().flags;
        let linux = joined(&self.kernel.areas(id, if told { Flags::Told } else { Flags::Unknown }));
        let mut herald = self.herald.areas(id);
        if !told {
            herald.iter_mut().for_each(|area| area.flags = VmaFlags::empty());
        }
        let herald = joined(&herald);
        if linux == herald { Ok(()) } else { Err(Difference::Areas { space: id, linux, herald }) }
    }

    /// Looks at everything that can be looked at without a touch.
    fn look(&mut self) -> Outcome {
        self.herald.check().map_err(Difference::Oracle)?;
        for id in 0..SPACES {
            if self.herald.is_living(id) {
                self.compare_presence(id)?;
            }
        }
        Ok(())
    }

    /// Compares all contents, and ends all spaces in order.
    ///
    /// # Errors
    /// [`Difference`].
    pub fn finish(mut self) -> Outcome<Report> {
        self.look()?;
        for id in 0..SPACES {
            if self.herald.is_living(id) {
                self.compare_contents(id)?;
            }
        }
        for id in 0..SPACES {
            if self.herald.is_living(id) {
                self.exit(id);
            }
        }
        self.herald.check().map_err(Difference::Oracle)?;
        Ok(self.report)
    }

    fn compare_contents(&mut self, id: usize) -> Outcome {
        let pages: Vec<_> = self.herald.areas(id).iter().flat_map(Area::pages).collect();
        let words: Vec<_> = pages.into_iter().flat_map(|page| [page, page + LAST_WORD]).collect();
        for words in words.chunks(BATCH) {
            let all = self.kernel.load_all(id, words);
            for (&address, linux) in words.iter().zip(all) {
                let what = What::Load(Raw(address));
                let herald = self.herald.call(id, what);
                if linux != herald {
                    return Err(Difference::answers(id, what, (linux, herald)));
                }
            }
        }
        self.report.words += words.len() as u64;
        Ok(())
    }
}

/// The pages that a call names, as far as an area can be.
fn pages(range: Range) -> std::ops::Range<u64> {
    let start = range.start.0 & !(PAGE_SIZE - 1);
    let end = start.saturating_add(rounded(range.len.0.wrapping_add(range.start.0 - start))).min(END);
    start..end.max(start)
}
