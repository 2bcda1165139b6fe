//! The host's ACPI tables (ACPI 6.5 chapter 5), as far as start-up needs them.
//!
//! ```text
//!   RSDP ─┬─► XSDT (64-bit addresses) ─┬─► MADT  processors, local APIC, I/O APICs
//!         └─► RSDT (32-bit), if need be└─► FADT  which devices of the first PCs there are
//! ```
//!
//! Firmware is not trusted: every length is bounded, every sum is checked, nothing is followed twice. Without a root
//! there is an error; a bad table below it is a [`Machine::problems`] and the rest is used, as a machine with a broken FADT
//! still has processors. The first table of a kind counts.

mod error;
mod fadt;
mod layout;
mod madt;
mod root;
#[cfg(test)]
mod tests;

use addr::{Hpa, HpaRange};
use alloc::vec::Vec;
use layout::Header;

pub use error::{AcpiError, Problems, Signature};
pub use fadt::LegacyDevices;
pub use madt::{IoApic, Processor};

/// Most bytes of a table that is read; a MADT of 8,192 processors has 131,072.
pub const MAX_TABLE_BYTES: u32 = 1 << 20;
/// Most tables that the root is followed to. Large servers have some 60.
pub const MAX_TABLES: usize = 512;
/// Most processors that are kept: the most that Linux can be built for.
pub const MAX_PROCESSORS: usize = 8192;
/// Most I/O APICs that are kept. Eight-socket servers have some 20.
pub const MAX_IO_APICS: usize = 256;

/// Physical memory, where it is mapped.
pub trait PhysicalBytes {
    /// The bytes of `range`; `None` where not all of them are mapped.
    fn bytes(&self, range: HpaRange) -> Option<&[u8]>;
}

/// What the tables say of the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Processors that are running or can be made to, in the firmware's order: the first is the one that has started.
    pub processors: Vec<Processor>,
    /// Where the registers of every processor's local APIC are, where firmware says.
    pub local_apic: Option<Hpa>,
    /// I/O APICs, in the firmware's order.
    pub io_apics: Vec<IoApic>,
    /// Which devices of the first PCs there are; all of them where firmware does not say.
    pub legacy: LegacyDevices,
    /// What was wrong with tables that were left out, wholly or in part.
    pub problems: Problems,
}

impl Machine {
    /// Reads the tables below the RSDP at physical address `rsdp`.
    ///
    /// # Errors
    /// [`AcpiError`] where no table can be found.
    pub fn read(memory: &impl PhysicalBytes, rsdp: u64) -> Result<Self, AcpiError> {
        let mut machine = Self::default();
        let tables = root::tables(memory, rsdp, &mut machine.problems)?;
        let (mut madt, mut fadt) = (false, false);
        for address in tables {
            let outcome = match Header::read(memory, address) {
                Ok(header) if header.signature == madt::SIGNATURE && !madt => {
                    madt = true;
                    madt::read(memory, address, &mut machine)
                }
                Ok(header) if header.signature == fadt::SIGNATURE && !fadt => {
                    fadt = true;
                    fadt::read(memory, address).map(|legacy| machine.legacy = legacy)
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                machine.problems.add(error);
            }
        }
        Ok(machine)
    }

    /// Processors that firmware has enabled.
    #[must_use]
    pub fn enabled_processors(&self) -> usize {
        self.processors.iter().filter(|processor| processor.enabled).count()
    }
}

/// The range of `bytes` bytes at an address that firmware gave.
fn range(signature: Signature, address: u64, bytes: u64) -> Result<HpaRange, AcpiError> {
    let start = Hpa::try_new(address).ok_or(AcpiError::Address { signature, address })?;
    HpaRange::sized(start, bytes).ok_or(AcpiError::Address { signature, address })
}

/// The bytes at an address that firmware gave.
fn bytes(
    memory: &impl PhysicalBytes,
    signature: Signature,
    address: u64,
    bytes: u64,
) -> Result<&[u8], AcpiError> {
    let range = range(signature, address, bytes)?;
    let found = memory.bytes(range).filter(|found| found.len() as u64 == bytes);
    found.ok_or(AcpiError::Unmapped { signature, range })
}
