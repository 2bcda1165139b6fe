//! The fixed ACPI description table (ACPI 6.5, 5.2.9): which devices of the first PCs there are.

use super::PhysicalBytes;
use super::error::{AcpiError, Signature};
use super::layout::{Fadt, Header, Table, TableHeader};

pub(super) const SIGNATURE: Signature = Signature(*b"FACP");

/// IA-PC boot architecture flags (table 5.11).
const KEYBOARD_CONTROLLER: u16 = 1 << 1;
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;
/// Revision of the table in ACPI 2.0, which brought the flags; that of 1.0 has revision 1.
const FLAGS_SINCE: u8 = 3;

/// Which devices of the first PCs there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LegacyDevices {
    /// VGA registers and its memory may be touched.
    pub vga: bool,
    /// An 8042 at ports 0x60 and 0x64.
    pub keyboard_controller: bool,
    /// A clock at ports 0x70 and 0x71.
    pub cmos_clock: bool,
}

/// What every PC had before firmware could say otherwise.
impl Default for LegacyDevices {
    fn default() -> Self {
        Self { vga: true, keyboard_controller: true, cmos_clock: true }
    }
}

/// What the table says.
pub(super) fn read(memory: &impl PhysicalBytes, address: u64) -> Result<LegacyDevices, AcpiError> {
    let header = Header::read(memory, address)?;
    let old: Table<'_, TableHeader> = header.table(memory)?;
    if old.head.revision < FLAGS_SINCE {
        return Ok(LegacyDevices::default());
    }
    let table: Table<'_, Fadt> = header.table(memory)?;
    let flags = table.head.boot_flags.get();
    Ok(LegacyDevices {
        vga: flags & NO_VGA == 0,
        keyboard_controller: flags & KEYBOARD_CONTROLLER != 0,
        cmos_clock: flags & NO_CMOS_CLOCK == 0,
    })
}
