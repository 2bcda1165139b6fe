//! Where everything goes: guest memory, written through a trait and checked against the guest's RAM.

use crate::error::{Error, WriteError};
use crate::layout;
use crate::problem::Placement;
use crate::ram::Ram;
use addr::{Gpa, GpaRange, PageSize};
use alloc::vec::Vec;

/// Access to a guest's memory before it runs. Memory never written reads zero.
pub trait GuestWriter {
    /// Writes all of `bytes` from `gpa` on.
    ///
    /// # Errors
    /// A byte lies outside RAM, or the host has no memory for it.
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError>;

    /// Makes a boot module appear from the page `gpa` on. Whoever can map it does not need to copy it.
    ///
    /// # Errors
    /// As for [`Self::write`].
    fn place_module(&mut self, gpa: Gpa, module: &[u8]) -> Result<(), WriteError> {
        self.write(gpa, module)
    }
}

/// A guest's RAM and the way to write it.
pub(crate) struct Target<'a> {
    ram: Ram,
    writer: &'a mut dyn GuestWriter,
}

impl<'a> Target<'a> {
    pub(crate) fn new(ram: Ram, writer: &'a mut dyn GuestWriter) -> Self {
        Self { ram, writer }
    }

    pub(crate) fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Writes `bytes`, which must lie in RAM.
    pub(crate) fn put(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), Error> {
        self.check(gpa, bytes)?;
        self.writer.write(gpa, bytes).map_err(Error::Write)
    }

    /// Places a boot module from the page `gpa` on; it must lie in RAM.
    pub(crate) fn put_module(&mut self, gpa: Gpa, module: &[u8]) -> Result<(), Error> {
        self.check(gpa, module)?;
        self.writer.place_module(gpa, module).map_err(Error::Write)
    }

    fn check(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), Error> {
        let len = bytes.len() as u64;
        let inside = GpaRange::sized(gpa, len).is_some_and(|range| self.ram.contains(&range));
        let outside = Placement::OutsideRam { start: gpa.as_u64(), len, ram: self.ram };
        if inside { Ok(()) } else { Err(Error::Placement(outside)) }
    }

    /// Writes 64-bit words, as page tables and descriptor tables want them.
    pub(crate) fn put_words(&mut self, gpa: Gpa, words: &[u64]) -> Result<(), Error> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(gpa, &bytes)
    }

    /// The range that a kernel asks for, if it is RAM below 4 GiB that nothing else uses.
    pub(crate) fn claim(&self, start: u64, len: u64) -> Result<GpaRange, Error> {
        let outside = Error::Placement(Placement::OutsideRam { start, len, ram: self.ram });
        let range = Gpa::try_new(start).and_then(|start| GpaRange::sized(start, len)).ok_or(outside)?;
        if !self.ram.low().contains_span(&range) {
            return Err(outside);
        }
        for reserved in [layout::boot_data(), layout::firmware_area()] {
            if range.overlaps(&reserved) {
                return Err(Error::Placement(Placement::Reserved { start, len, reserved }));
            }
        }
        Ok(range)
    }

    /// Writes the initrd page-aligned as high as possible in `room`.
    pub(crate) fn put_initrd(&mut self, initrd: &[u8], room: GpaRange) -> Result<GpaRange, Error> {
        let len = initrd.len() as u64;
        let start = (room.end().as_u64().checked_sub(len).and_then(Gpa::try_new))
            .map(|start| start.align_down(PageSize::Size4K))
            .filter(|start| *start >= room.start())
            .ok_or(Error::Placement(Placement::InitrdTooLarge { bytes: len, room }))?;
        self.put_module(start, initrd)?;
        Ok(GpaRange::new(start, start.add(len)))
    }

    /// Writes the command line with its NUL; `most` is what the kernel takes, in bytes without NUL.
    pub(crate) fn put_command_line(&mut self, text: &str, most: u64) -> Result<Gpa, Error> {
        let (bytes, most) = (text.len() as u64, most.min(layout::COMMAND_LINE_BYTES - 1));
        if bytes > most {
            return Err(Error::CommandLineTooLong { bytes, most });
        }
        self.put(layout::COMMAND_LINE, text.as_bytes())?;
        Ok(layout::COMMAND_LINE)
    }
}
