//! The ACPI tables (ACPI 6.5 chapter 5): what a kernel asks for interrupt routing, the PM timer, reset
//! and power-off.
//!
//! ```text
//!  RSDP ──► XSDT ─┬─► FADT ─┬─► DSDT   \_S5, and the balloon
//!                 │         └─► FACS
//!                 └─► MADT   local APICs, I/O APIC, overrides of IRQ 0 and 9
//! ```
//!
//! ACPI mode is always on: the FADT has no SMI command, so PM1a_CNT.SCI_EN must read 1.

use crate::Guest;
use crate::error::Error;
use crate::layout;
use crate::target::Target;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml, facs::FACS, rsdp::Rsdp};
use addr::Gpa;
use alloc::vec::Vec;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

const OEM: [u8; 6] = *b"HERALD";
const OEM_TABLE: [u8; 8] = *b"HERALDVM";
const OEM_REVISION: u32 = 1;
/// Bytes of a table before its own fields.
const SDT_HEADER: u32 = 36;
/// Local APIC IDs are 8 bits and 0xff is broadcast.
const MAX_VCPUS: u32 = 255;
/// Tables start at multiples of this, as the RSDP must.
const TABLE_ALIGN: u64 = 16;

/// MADT flags: a pair of 8259s exists too (table 5.20).
const PCAT_COMPAT: u32 = 1;
/// Interrupt flags of the MADT (table 5.26): as the bus has it, and active high with level.
const CONFORMS: u16 = 0;
const HIGH_LEVEL: u16 = 0b1101;
/// The I/O APIC pin that the timer, ISA's IRQ 0, is wired to.
const TIMER_PIN: u32 = 2;

/// IA-PC boot architecture flags (table 5.11). The 8042 bit is clear: there is no keyboard controller.
const LEGACY_DEVICES: u16 = 1 << 0;
const NO_VGA: u16 = 1 << 2;
const NO_MSI: u16 = 1 << 3;
const NO_ASPM: u16 = 1 << 4;

/// Interrupt source override (table 5.25); `acpi_tables` has none.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct SourceOverride {
    kind: u8,
    len: u8,
    bus: u8,
    source: u8,
    gsi: U32,
    flags: U16,
}

/// Local APIC NMI (table 5.28).
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct LocalNmi {
    kind: u8,
    len: u8,
    processor: u8,
    flags: U16,
    lint: u8,
}

const _: () = assert!(size_of::<SourceOverride>() == 10 && size_of::<LocalNmi>() == 6);

/// Writes all tables; returns the RSDP's address.
pub(crate) fn install(target: &mut Target<'_>, guest: &Guest<'_>) -> Result<Gpa, Error> {
    let vcpus = guest.vcpus;
    if vcpus == 0 || vcpus > MAX_VCPUS {
        return Err(Error::Vcpus { found: vcpus, most: MAX_VCPUS });
    }
    target.put(layout::FACS, &bytes_of(&FACS::new()))?;
    let rsdp = layout::ACPI;
    let mut next = rsdp.add(Rsdp::len() as u64);
    let mut place = |table: &dyn Aml| -> Result<Gpa, Error> {
        let at = Gpa::new(next.as_u64().next_multiple_of(TABLE_ALIGN));
        let bytes = bytes_of(table);
        next = at.add(bytes.len() as u64);
        target.put(at, &bytes)?;
        Ok(at)
    };
    let dsdt = place(&dsdt(guest.balloon))?;
    let fadt = place(&fadt(dsdt).finalize())?;
    let madt = place(&madt(vcpus))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt.as_u64());
    xsdt.add_entry(madt.as_u64());
    let xsdt = place(&xsdt)?;
    target.put(rsdp, &bytes_of(&Rsdp::new(OEM, xsdt.as_u64())))?;
    Ok(rsdp)
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// `Name (\_S5, Package () { 5, 5, 0, 0 })`: the sleep type for power-off in PM1a_CNT (and in PM1b_CNT,
/// which does not exist); and the balloon's device.
fn dsdt(balloon: bool) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", SDT_HEADER, 2, OEM, OEM_TABLE, OEM_REVISION);
    let package =
        aml::Package::new(Vec::from([&layout::S5 as &dyn Aml, &layout::S5, &aml::ZERO, &aml::ZERO]));
    table.append_slice(&bytes_of(&aml::Name::new("_S5_".into(), &package)));
    if balloon {
        table.append_slice(&balloon_device());
    }
    table
}

/// A virtio device on MMIO, as drivers look for it: `_HID` LNRO0005, registers, interrupt.
fn balloon_device() -> Vec<u8> {
    let registers = aml::Memory32Fixed::new(true, layout::BALLOON, layout::BALLOON_BYTES);
    // Consumed, by level, active high, not shared.
    let interrupt = aml::Interrupt::new(true, false, false, false, layout::BALLOON_PIN);
    let resources = aml::ResourceTemplate::new(Vec::from([&registers as &dyn Aml, &interrupt]));
    let hid = aml::Name::new("_HID".into(), &"LNRO0005");
    let uid = aml::Name::new("_UID".into(), &aml::ZERO);
    let crs = aml::Name::new("_CRS".into(), &resources);
    bytes_of(&aml::Device::new("_SB_.BLLN".into(), Vec::from([&hid as &dyn Aml, &uid, &crs])))
}

fn fadt(dsdt: Gpa) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_32(dsdt.as_u64() as u32)
        .firmware_ctrl_32(layout::FACS.as_u64() as u32)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton) // set: there is no fixed-hardware power button
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = u16::from(layout::SCI).into();
    fadt.pm1a_evt_blk = u32::from(layout::PM1A_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(layout::PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(layout::PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    // Latencies above 100 and 1000 microseconds say that C2 and C3 do not exist.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA | NO_MSI | NO_ASPM).into();
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(layout::RESET));
    fadt.reset_value = layout::RESET_VALUE;
    fadt
}

fn madt(vcpus: u32) -> Sdt {
    let mut table = Sdt::new(*b"APIC", SDT_HEADER, 3, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&layout::LOCAL_APIC.to_le_bytes());
    table.append_slice(&PCAT_COMPAT.to_le_bytes());
    for id in 0..vcpus {
        let id = id as u8;
        table.append_slice(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).as_bytes());
    }
    table.append_slice(IoApic::new(0, layout::IO_APIC, 0).as_bytes());
    let isa = |source: u8, gsi: u32, flags: u16| SourceOverride {
        kind: 2,
        len: size_of::<SourceOverride>() as u8,
        bus: 0,
        source,
        gsi: gsi.into(),
        flags: flags.into(),
    };
    table.append_slice(isa(0, TIMER_PIN, CONFORMS).as_bytes());
    table.append_slice(isa(layout::SCI, u32::from(layout::SCI), HIGH_LEVEL).as_bytes());
    // Every processor takes NMIs at LINT1.
    let nmi = LocalNmi { kind: 4, len: 6, processor: 0xff, flags: CONFORMS.into(), lint: 1 };
    table.append_slice(nmi.as_bytes());
    table
}
