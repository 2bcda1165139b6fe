//! The events that both sides have measured: what they are, what of them is the work on a page's contents, and what is aimed at.

use super::rows::Variant;

/// What is done to the contents of each page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// Nothing, or what cannot be told apart.
    None,
    /// It is zeroed.
    Zero,
    /// It is copied.
    Copy,
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    /// As the guest names it.
    pub(super) name: &'static str,
    /// As people do.
    pub(super) title: &'static str,
    pub(super) work: Work,
    /// Ticks a page that Herald is to need at most, on EPT.
    pub(super) aim: Option<u32>,
}

const fn event(name: &'static str, title: &'static str, work: Work, aim: Option<u32>) -> Event {
    Event { name, title, work, aim }
}

/// In pages of 4 KiB.
const SMALL: [Event; 34] = [
    event("call", "a call of nothing: exit, and back", Work::None, None),
    event("first-touch", "first touch, in order", Work::Zero, Some(1000)),
    event("first-touch-random", "first touch, random", Work::Zero, Some(1000)),
    event("touch-when-mapped", "touch of a mapped page", Work::None, None),
    event("refault", "refault of a resident page, in order", Work::None, Some(60)),
    event("refault-strided", "refault, strided", Work::None, Some(290)),
    event("refault-random", "refault, random", Work::None, Some(290)),
    event("refault-read", "refault by reads, in order", Work::None, None),
    event("mprotect-read", "mprotect(READ)", Work::None, Some(55)),
    event("mprotect-back", "mprotect(READ or WRITE)", Work::None, Some(30)),
    event("discard", "madvise(DONTNEED)", Work::None, Some(145)),
    event("read-of-nothing", "read of a page never written", Work::None, None),
    event("write-after-read", "write to it", Work::Zero, None),
    event("fork", "fork", Work::None, None),
    event("cow-break", "copy on write, in order", Work::Copy, Some(1400)),
    event("cow-break-random", "copy on write, random", Work::Copy, Some(1400)),
    event("end-of-fork", "end of the fork's copies", Work::None, None),
    event("log-begin", "dirty log: begin", Work::None, None),
    event("write-when-logged", "write after the begin", Work::None, None),
    event("write-after-harvest", "write after a harvest", Work::None, Some(250)),
    event("write-when-in-log", "write to a page in the log", Work::None, None),
    event("harvest", "harvest, all written", Work::None, Some(20)),
    event("harvest-of-nothing", "harvest, nothing written", Work::None, None),
    event("log-end", "dirty log: end", Work::None, None),
    event("age-touched", "aging pass, all touched", Work::None, Some(10)),
    event("age-idle", "aging pass, nothing touched since", Work::None, Some(4)),
    event("touch-after-age", "touch after an aging pass", Work::None, None),
    event("swap-out", "swap-out to compressed memory", Work::None, Some(5000)),
    event("swap-out-again", "swap-out of pages that have come back", Work::None, Some(5000)),
    event("swap-in", "swap-in by writes, in order", Work::None, Some(3000)),
    event("swap-in-random", "swap-in by reads, random", Work::None, Some(3000)),
    event("merge", "merge of an equal page", Work::None, Some(2000)),
    event("read-after-merge", "read of a merged page", Work::None, None),
    event("merge-break", "write to a merged page", Work::Copy, Some(1400)),
];

/// In pages of 2 MiB, for each 4 KiB.
const HUGE: [Event; 6] = [
    event("huge-first-touch", "first touch, in order", Work::Zero, None),
    event("huge-touch-when-mapped", "touch of a mapped page", Work::None, None),
    event("huge-mprotect-read", "mprotect(READ)", Work::None, None),
    event("huge-mprotect-back", "mprotect(READ or WRITE)", Work::None, None),
    event("huge-refault", "refault of a resident page, in order", Work::None, None),
    event("huge-discard", "madvise(DONTNEED)", Work::None, None),
];

/// What people call the event that the guest names so; on an EPT, in pages of 4 KiB.
pub(in super::super) fn title(name: &str) -> String {
    SMALL.iter().find(|event| event.name == name).map_or(name, |event| event.title).to_owned()
}

/// Characters of the longest title.
pub(super) fn widest() -> usize {
    SMALL.iter().chain(&HUGE).map(|event| event.title.len()).max().unwrap_or(0)
}

/// Those of a variant. Only on EPT is there something to aim at.
pub(super) fn of(variant: Variant) -> impl Iterator<Item = Event> {
    let events: &[Event] = match variant {
        Variant::Ept | Variant::Shadow => &SMALL,
        Variant::Huge | Variant::HugeShadow => &HUGE,
    };
    events.iter().map(move |event| match variant {
        Variant::Ept => *event,
        Variant::Huge | Variant::Shadow | Variant::HugeShadow => Event { aim: None, ..*event },
    })
}

/// Which instructions a side has for a page's contents: in the emulated machine each iteration of a `rep` is a tick, and so is
/// every other instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contents {
    /// `rep stosq`, `rep movsq`: Herald, and a Linux that takes the processor's string instructions for good ones.
    Words,
    /// `rep stosb`, `rep movsb`: a Linux that takes them for fast ones.
    Bytes,
    /// Loops of loads and stores (Linux: `clear_page_orig`, `copy_page_regs`), where the processor says neither.
    Loops,
}

impl Contents {
    /// By the flags of `/proc/cpuinfo`.
    pub(super) fn of_linux(flags: &str) -> Self {
        let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
        match (has("erms"), has("rep_good")) {
            (true, _) => Self::Bytes,
            (_, true) => Self::Words,
            _ => Self::Loops,
        }
    }

    /// Ticks of a page. Loops: 64 rounds of 11 instructions, and 5 around them; 59 rounds of 21, 5 of 20, and 10 around them.
    pub(super) const fn ticks(self, work: Work) -> u32 {
        match (work, self) {
            (Work::None, _) => 0,
            (Work::Zero, Self::Words) => 513,
            (Work::Copy, Self::Words) => 512,
            (Work::Zero, Self::Loops) => 64 * 11 + 5,
            (Work::Copy, Self::Loops) => 59 * 21 + 5 * 20 + 10,
            (Work::Zero | Work::Copy, Self::Bytes) => 4097,
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Words => "rep stosq and rep movsq",
            Self::Bytes => "rep stosb and rep movsb",
            Self::Loops => "loops of loads and stores",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Variant;
    use super::{Contents, Work, of};
    use std::collections::HashSet;

    #[test]
    fn names_are_all_different() {
        for variant in Variant::ALL {
            let names: Vec<_> = of(variant).map(|event| event.name).collect();
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        }
    }

    #[test]
    fn linux_takes_what_the_processor_praises() {
        assert_eq!(Contents::of_linux(""), Contents::Loops);
        assert_eq!(Contents::of_linux("rep_good"), Contents::Words);
        assert_eq!(Contents::of_linux("erms rep_good"), Contents::Bytes);
        assert_eq!(Contents::Loops.ticks(Work::Zero), 709);
        assert_eq!(Contents::Words.ticks(Work::None), 0);
    }
}
