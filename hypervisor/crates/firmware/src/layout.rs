//! Fixed places in guest-physical memory, and the ports that the ACPI tables announce.
//!
//! ```text
//!  0x00000  free (a guest's own image may load here)
//!  0x80000  GDT │ start information │ memory map │ page tables
//!  0x90000  command line, up to 32 KiB
//!  0x98000  free: Linux puts a trampoline below the EBDA
//!  0x9fc00  EBDA (reserved, empty)
//!  0xa0000  hole of the PC
//!  0xe0000  RSDP and ACPI tables (reclaimable)
//!  0xef000  FACS (NVS)
//!  0xf0000  BIOS area (reserved, empty)
//! 0x100000  kernel, initrd
//! ```

use addr::{Gpa, GpaRange};

/// The GDT that the first processor starts with.
pub const GDT: Gpa = Gpa::new(0x8_0000);
/// boot_params, hvm_start_info or multiboot information.
pub const START_INFO: Gpa = Gpa::new(0x8_1000);
/// Memory map and module list of PVH and multiboot.
pub const START_TABLES: Gpa = Gpa::new(0x8_2000);
/// Top level of the identity map for 64-bit entry.
pub const PML4: Gpa = Gpa::new(0x8_3000);
/// Command line, NUL-terminated.
pub const COMMAND_LINE: Gpa = Gpa::new(0x9_0000);
/// Bytes for the command line, NUL included.
pub const COMMAND_LINE_BYTES: u64 = 0x8000;
/// Extended BIOS data area: end of usable low memory.
pub const EBDA: Gpa = Gpa::new(0x9_fc00);
/// The hole of the PC architecture starts.
pub const PC_HOLE: Gpa = Gpa::new(0xa_0000);
/// RSDP, found by a scan of 0xe0000..0x100000 (ACPI 6.5 section 5.2.5.1), and tables.
pub const ACPI: Gpa = Gpa::new(0xe_0000);
/// Firmware ACPI control structure: memory that an OS must keep.
pub const FACS: Gpa = Gpa::new(0xe_f000);
/// The BIOS's last 64 KiB.
pub const BIOS: Gpa = Gpa::new(0xf_0000);
/// RAM without holes from here on.
pub const ONE_MIB: Gpa = Gpa::new(0x10_0000);

/// PM1a event block: status and enable registers, 4 bytes.
pub const PM1A_EVENT: u16 = 0x600;
/// PM1a control block, 2 bytes.
pub const PM1A_CONTROL: u16 = 0x604;
/// Power-management timer, 4 bytes.
pub const PM_TIMER: u16 = 0x608;
/// Reset control register.
pub const RESET: u16 = 0xcf9;
/// What resets the machine when written to [`RESET`]: full reset, system reset.
pub const RESET_VALUE: u8 = 6;
/// Interrupt line of ACPI events, level-triggered and active high.
pub const SCI: u8 = 9;
/// Sleep type that powers off, in PM1a_CNT.SLP_TYP.
pub const S5: u8 = 5;
/// I/O APIC registers.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// Registers of the balloon, virtio over MMIO.
pub const BALLOON: u32 = 0xfeb0_0000;
/// Bytes of these registers.
pub const BALLOON_BYTES: u32 = 0x1000;
/// The balloon's pin of the I/O APIC, level-triggered and active high.
pub const BALLOON_PIN: u32 = 16;

/// Everything that the boot protocols leave below 640 KiB.
pub(crate) fn boot_data() -> GpaRange {
    GpaRange::new(GDT, COMMAND_LINE.add(COMMAND_LINE_BYTES))
}

/// Where no part of a kernel may lie, though RAM is there.
pub(crate) fn firmware_area() -> GpaRange {
    GpaRange::new(EBDA, ONE_MIB)
}
