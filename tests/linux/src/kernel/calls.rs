//! What a program asks for, as the kernel takes it.

use crate::step::{Advised, Backing, Place, Range, Raw, To, What};
use crate::wire::Call;
use addr::PAGE_SHIFT;
use mm::{Advice, Protection};

/// The call for everything but loads, stores, and what Herald does aside. `descriptor` names the descriptor of a file.
///
/// # Panics
/// On those.
pub(super) fn of(what: What, descriptor: impl Fn(usize) -> u64) -> Call {
    match what {
        What::Mmap { place, len, protection, backing } => mmap(place, len, protection, backing, descriptor),
        What::Munmap(range) => on(libc::SYS_munmap, range, 0),
        What::Mprotect(range, protection) => on(libc::SYS_mprotect, range, bits(protection)),
        What::Madvise(range, advised) => on(libc::SYS_madvise, range, advice(advised)),
        What::Mlock(range) => on(libc::SYS_mlock, range, 0),
        What::Munlock(range) => on(libc::SYS_munlock, range, 0),
        What::Msync(range) => on(libc::SYS_msync, range, libc::MS_SYNC as u64),
        What::Mremap { range, new_len, to } => {
            let (flags, target) = match to {
                To::InPlace => (0, 0),
                To::MayMove => (libc::MREMAP_MAYMOVE, 0),
                To::Fixed(Raw(target)) => (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, target),
            };
            let (start, len) = (range.start.0, range.len.0);
            Call::new(libc::SYS_mremap, [start, len, new_len.0, flags as u64, target, 0])
        }
        What::Load(_) | What::Store(..) | What::Aside(..) => panic!("{what:?} is no call"),
    }
}

fn on(number: libc::c_long, range: Range, argument: u64) -> Call {
    Call::new(number, [range.start.0, range.len.0, argument, 0, 0, 0])
}

fn mmap(
    place: Place,
    Raw(len): Raw,
    protection: Protection,
    backing: Backing,
    descriptor: impl Fn(usize) -> u64,
) -> Call {
    let nobody = -1i64 as u64;
    let (flags, descriptor, index) = match backing {
        Backing::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, nobody, 0),
        Backing::SharedAnonymous => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, nobody, 0),
        Backing::Private { file, index } => (libc::MAP_PRIVATE, descriptor(file), index),
        Backing::Shared { file, index } => (libc::MAP_SHARED, descriptor(file), index),
    };
    let (start, fixed) = match place {
        Place::Fixed(Raw(start)) => (start, libc::MAP_FIXED),
        Place::Anywhere => (0, 0),
    };
    // What is never touched is not to count against the limits of the test machine.
    let flags = flags | fixed | libc::MAP_NORESERVE;
    Call::new(libc::SYS_mmap, [start, len, bits(protection), flags as u64, descriptor, index << PAGE_SHIFT])
}

const fn bits(protection: Protection) -> u64 {
    let bits = match protection {
        Protection::None => libc::PROT_NONE,
        Protection::Read => libc::PROT_READ,
        Protection::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    bits as u64
}

const fn advice(advised: Advised) -> u64 {
    let advice = match advised {
        Advised::Discard => libc::MADV_DONTNEED,
        Advised::Other(Advice::Free) => libc::MADV_FREE,
        Advised::Other(Advice::Cold) => libc::MADV_COLD,
        Advised::Other(Advice::PageOut) => libc::MADV_PAGEOUT,
        Advised::Other(Advice::HugePage) => libc::MADV_HUGEPAGE,
        Advised::Other(Advice::NoHugePage) => libc::MADV_NOHUGEPAGE,
        Advised::Other(Advice::Mergeable) => libc::MADV_MERGEABLE,
        Advised::Other(Advice::Unmergeable) => libc::MADV_UNMERGEABLE,
    };
    advice as u64
}
