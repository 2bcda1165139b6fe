//! Where an emulated machine is, as Bochs' debugger says after each step. The machine notices nothing of it.
//!
//! ```text
//!   (0) Magic breakpoint                                                                    where it was a break
//!   Next at t=94347910
//!   (0) [0x0000002344e8] 0008:ffffffff802344e8 (unk. ctxt): add rsp, 0x38                   physical, selector, linear
//! ```

use std::ops::Range;

/// Ticks between samples: a prime, which no loop of a guest keeps step with.
pub(super) const STEP: u64 = 4999;
/// More than any run has.
pub(super) const STEPS: usize = 400_000;
const BREAK: &str = "(0) Magic breakpoint";
const TIME: &str = "Next at t=";

/// The next instruction at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sample {
    pub(super) time: u64,
    /// Where it lies in the machine's memory.
    pub(super) physical: u64,
    pub(super) address: u64,
    /// Privilege: 0 to 3.
    pub(super) ring: u16,
    /// Whether the step ended early, at a break.
    pub(super) is_break: bool,
}

/// What was said of the next sample.
#[derive(Default)]
pub(super) struct Reader {
    time: u64,
    is_break: bool,
}

impl Reader {
    /// Takes a line in; the sample, if it was the last one of it.
    pub(super) fn take(&mut self, line: &str) -> Option<Sample> {
        if line == BREAK {
            self.is_break = true;
        } else if let Some(now) = line.strip_prefix(TIME).and_then(|now| now.parse().ok()) {
            self.time = now;
        }
        let (physical, place) = line.strip_prefix("(0) [0x")?.split_once("] ")?;
        let (selector, linear) = place.split(' ').next()?.split_once(':')?;
        Some(Sample {
            time: self.time,
            physical: u64::from_str_radix(physical, 16).ok()?,
            address: u64::from_str_radix(linear, 16).ok()?,
            ring: u16::from_str_radix(selector, 16).ok()? & 3,
            is_break: std::mem::take(&mut self.is_break),
        })
    }
}

/// Which part of the samples of a time was `at`; `None`: there are none.
pub(super) fn part(samples: &[Sample], time: Range<u64>, at: impl Fn(&Sample) -> bool) -> Option<f64> {
    let mut all = samples.iter().filter(|sample| time.contains(&sample.time)).peekable();
    all.peek()?;
    let (count, found) =
        all.fold((0u32, 0u32), |(count, found), sample| (count + 1, found + u32::from(at(sample))));
    Some(f64::from(found) / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::{Reader, Sample, part};

    #[test]
    fn samples_are_lines_of_the_debugger() {
        let mut reader = Reader::default();
        assert_eq!(reader.take("(0) Magic breakpoint"), None);
        assert_eq!(reader.take("Next at t=94347910"), None);
        let line = "(0) [0x0000002344e8] 0033:ffffffff802344e8 (unk. ctxt): add rsp, 0x38 ; 4883c438";
        let sample = Sample {
            time: 94_347_910,
            physical: 0x23_44e8,
            address: 0xffff_ffff_8023_44e8,
            ring: 3,
            is_break: true,
        };
        assert_eq!(reader.take(line), Some(sample));
        assert_eq!(reader.take(line), Some(Sample { is_break: false, ..sample }));
        assert!(reader.take("(0).[1] x").is_none());
    }

    #[test]
    fn a_part_is_of_the_samples_of_a_time() {
        let at = |time| Sample { time, physical: 0, address: time, ring: 0, is_break: false };
        let samples = [at(1), at(2), at(3), at(4), at(5)];
        assert_eq!(part(&samples, 1..5, |sample| sample.address == 2), Some(0.25));
        assert_eq!(part(&samples, 7..9, |_| true), None);
    }
}
