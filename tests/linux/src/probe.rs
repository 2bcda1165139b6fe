//! What this kernel lets a test do. What it does not is left out, and said.

use crate::kernel::Kernel;
use crate::step::{Advised, Range, Raw};
use crate::{SPACES, page};
use mm::Advice;
use rustix::process::{Resource, geteuid, getrlimit};
use std::fs;
use std::io::Write;

/// Memory that a test may lock at the most.
const LOCKED: u64 = 32 << 20;
/// Where the kernel says whether it maps huge pages.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// What there is to compare.
#[derive(Clone, Default, Debug)]
pub struct Abilities {
    /// Whether mlock works for as much as a test locks.
    pub lock: bool,
    /// Whether mremap looks at what it shall move before it unmaps the target (since Linux 6.17).
    pub mremap_looks_first: bool,
    /// Whether areas that ask for huge pages may have them.
    pub huge: bool,
    /// Whether the kernel tells which pages are there.
    pub presence: bool,
    /// Whether the kernel tells what is said of areas.
    pub flags: bool,
    /// Advice that the kernel knows.
    pub advice: Vec<Advised>,
    /// What is left out, in words.
    pub left_out: Vec<String>,
}

impl Abilities {
    /// Says what is left out, also where the harness keeps a test's output to itself.
    pub fn announce(&self) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut text = format!("compared with Linux {}\n", release.trim());
        self.left_out.iter().for_each(|what| text += &format!("left out: {what}\n"));
        // Where it cannot be said there is nobody to read it.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// Whether locked memory is not limited: a limit refuses what is too long before it is looked at.
fn is_unlimited() -> bool {
    geteuid().is_root() || getrlimit(Resource::Memlock).current.is_none()
}

/// Finds out, in a space of its own.
pub(crate) fn probe(kernel: &mut Kernel) -> Abilities {
    let mut left_out = Vec::new();
    let mut has = |what: &str, works: bool| {
        if !works {
            left_out.push(what.to_owned());
        }
        works
    };
    let enabled = fs::read_to_string(HUGE_PAGES).unwrap_or_default();
    let huge = has(
        "huge pages: the kernel does not map them where they are asked for only",
        enabled.contains("[madvise]"),
    );
    if !huge {
        kernel.bar_huge_pages();
    }
    let space = SPACES - 1;
    kernel.spawn(space);
    let whole = Range { start: Raw(page(0)), len: Raw(LOCKED) };
    let lock = is_unlimited() && kernel.can_lock(space, whole);
    let lock = has("mlock and munlock: there is a limit on locked memory", lock);
    let mremap_looks_first = has(
        "mremap that is refused or meets several areas: before 6.17 Linux unmaps the target first",
        kernel.mremap_looks_first(space),
    );
    let presence =
        has("presence: /proc/PID/pagemap cannot be read", kernel.presence(space, &[page(0)]).is_some());
    let flags = has("flags of areas: /proc/PID/smaps has none", kernel.tells_flags(space));
    let all = [
        Advised::Discard,
        Advised::Other(Advice::Free),
        Advised::Other(Advice::Cold),
        Advised::Other(Advice::PageOut),
        Advised::Other(Advice::HugePage),
        Advised::Other(Advice::NoHugePage),
        Advised::Other(Advice::Mergeable),
        Advised::Other(Advice::Unmergeable),
    ];
    let mut advice = Vec::new();
    for advised in all {
        if has(&format!("madvise {advised:?}: unknown"), kernel.knows(space, advised)) {
            advice.push(advised);
        }
    }
    kernel.exit(space);
    has("hugetlb: not compared", false);
    Abilities { lock, mremap_looks_first, huge, presence, flags, advice, left_out }
}
