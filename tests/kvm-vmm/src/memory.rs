//! The guest's RAM: anonymous memory in pages of 4 KiB, until the guest asks for large ones. It begins at a boundary of
//! 2 MiB, so that a large page of the guest can be one of the host's.

use anyhow::{Context, Result, ensure};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect};
use std::ffi::c_void;

const PAGE: usize = 4096;
const LARGE: usize = 2 << 20;

/// RAM, from guest-physical 0 on. It stays to the end of the program.
pub(crate) struct Memory {
    start: *mut u8,
    bytes: usize,
}

/// Whole pages of it.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    start: *mut c_void,
    bytes: usize,
}

/// What the guest may do with a range, by way of the host's own entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rights {
    None,
    Read,
    ReadWrite,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping, wherever there is room.
        let all = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes + LARGE, rights, flags) };
        let all = all.context("the guest's RAM")?.cast::<u8>();
        let memory = Self { start: all.wrapping_add(all.align_offset(LARGE)), bytes };
        memory.range(0, bytes as u64)?.advise(Advice::LinuxNoHugepage)?;
        Ok(memory)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it lies in this program.
    pub(crate) fn address(&self) -> u64 {
        self.start as u64
    }

    /// Whole pages.
    pub(crate) fn range(&self, gpa: u64, len: u64) -> Result<Range> {
        let (at, bytes) = (usize::try_from(gpa)?, usize::try_from(len)?);
        self.check(at, bytes)?;
        ensure!(at % PAGE == 0 && bytes % PAGE == 0, "{bytes:#x} bytes at {at:#x} are not whole pages");
        Ok(Range { start: self.start.wrapping_add(at).cast(), bytes })
    }

    /// Writes what the guest finds at its start.
    pub(crate) fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<()> {
        let at = usize::try_from(gpa)?;
        self.check(at, bytes.len())?;
        // SAFETY: inside the mapping, which no reference of Rust's leads to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.wrapping_add(at), bytes.len()) };
        Ok(())
    }

    fn check(&self, at: usize, bytes: usize) -> Result<()> {
        let inside = at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        ensure!(inside, "{bytes:#x} bytes at {at:#x} are not in RAM");
        Ok(())
    }
}

impl Range {
    pub(crate) fn advise(self, advice: Advice) -> Result<()> {
        // SAFETY: the range is the guest's RAM, which no reference of Rust's leads to.
        unsafe { madvise(self.start, self.bytes, advice) }.with_context(|| format!("madvise({advice:?})"))
    }

    pub(crate) fn protect(self, rights: Rights) -> Result<()> {
        let flags = match rights {
            Rights::None => MprotectFlags::empty(),
            Rights::Read => MprotectFlags::READ,
            Rights::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        // SAFETY: as for `advise`.
        unsafe { mprotect(self.start, self.bytes, flags) }.with_context(|| format!("mprotect({rights:?})"))
    }
}
