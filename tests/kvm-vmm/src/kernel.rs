//! The kernel, loaded by the code by which Herald loads it (`firmware`): by which entry is the file's own matter.

use crate::memory::Memory;
use addr::Gpa;
use anyhow::{Context, Result, anyhow};
use firmware::{Entry, Guest, GuestWriter, Ram, WriteError};

/// What a guest is started from.
pub(crate) struct Files<'a> {
    pub(crate) kernel: &'a str,
    pub(crate) initrd: Option<&'a str>,
    pub(crate) command_line: &'a str,
}

impl GuestWriter for Memory {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        Self::write(self, gpa.as_u64(), bytes).map_err(|_| WriteError::Hole(gpa))
    }
}

/// Fills the memory; where the first virtual processor begins.
pub(crate) fn load(files: &Files<'_>, memory: &mut Memory) -> Result<Entry> {
    let read = |path: &str| std::fs::read(path).with_context(|| path.to_owned());
    let (kernel, initrd) = (read(files.kernel)?, files.initrd.map(read).transpose()?);
    let guest = Guest {
        kernel: &kernel,
        initrd: initrd.as_deref(),
        append: files.command_line,
        ram: Ram::new(memory.bytes() as u64).map_err(|error| anyhow!("{error}"))?,
        vcpus: 1,
        balloon: false,
    };
    firmware::boot(&guest, memory).map_err(|error| anyhow!("{error}"))
}
