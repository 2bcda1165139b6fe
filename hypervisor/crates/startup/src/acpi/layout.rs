//! How tables lie in memory. All numbers are little-endian and may be unaligned.

use super::error::{AcpiError, Signature};
use super::{MAX_TABLE_BYTES, PhysicalBytes, bytes};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Root system description pointer as of ACPI 1.0 (ACPI 6.5, table 5.3): the first 20 bytes have a sum of their own.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RootPointer {
    /// `RSD PTR `.
    pub(super) signature: [u8; 8],
    pub(super) checksum: u8,
    pub(super) oem: [u8; 6],
    /// 0: there is nothing behind these 20 bytes.
    pub(super) revision: u8,
    pub(super) rsdt: U32,
}

/// The same as of ACPI 2.0.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ExtendedRootPointer {
    pub(super) first: RootPointer,
    pub(super) length: U32,
    pub(super) xsdt: U64,
    /// Makes all `length` bytes add up to 0.
    pub(super) checksum: u8,
    pub(super) reserved: [u8; 3],
}

/// Start of every other table (table 5.4).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct TableHeader {
    pub(super) signature: [u8; 4],
    /// Bytes of the whole table.
    pub(super) length: U32,
    pub(super) revision: u8,
    pub(super) checksum: u8,
    pub(super) oem: [u8; 6],
    pub(super) oem_table: [u8; 8],
    pub(super) oem_revision: U32,
    pub(super) creator: [u8; 4],
    pub(super) creator_revision: U32,
}

/// Multiple APIC description table, before its entries (table 5.19).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Madt {
    pub(super) header: TableHeader,
    pub(super) local_apic: U32,
    pub(super) flags: U32,
}

/// Start of an entry of the MADT.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct EntryHeader {
    pub(super) kind: u8,
    /// Bytes of the entry, this header with it.
    pub(super) length: u8,
}

/// Processor local APIC (table 5.21).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LocalApicEntry {
    pub(super) header: EntryHeader,
    pub(super) processor: u8,
    pub(super) apic_id: u8,
    pub(super) flags: U32,
}

/// I/O APIC (table 5.23).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct IoApicEntry {
    pub(super) header: EntryHeader,
    pub(super) id: u8,
    pub(super) reserved: u8,
    pub(super) address: U32,
    pub(super) first_interrupt: U32,
}

/// Local APIC address override (table 5.29).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct AddressOverrideEntry {
    pub(super) header: EntryHeader,
    pub(super) reserved: U16,
    pub(super) address: U64,
}

/// Processor local x2APIC (table 5.34).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct X2ApicEntry {
    pub(super) header: EntryHeader,
    pub(super) reserved: U16,
    pub(super) apic_id: U32,
    pub(super) flags: U32,
    pub(super) processor: U32,
}

/// Fixed ACPI description table, up to the IA-PC boot architecture flags (table 5.9).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Fadt {
    pub(super) header: TableHeader,
    /// Registers and addresses that start-up has no use for.
    pub(super) skipped: [u8; 73],
    pub(super) boot_flags: U16,
}

const _: () = assert!(size_of::<RootPointer>() == 20 && size_of::<ExtendedRootPointer>() == 36);
const _: () = assert!(size_of::<TableHeader>() == 36 && size_of::<Madt>() == 44);
const _: () = assert!(size_of::<LocalApicEntry>() == 8 && size_of::<IoApicEntry>() == 12);
const _: () = assert!(size_of::<AddressOverrideEntry>() == 12 && size_of::<X2ApicEntry>() == 16);
const _: () = assert!(core::mem::offset_of!(Fadt, boot_flags) == 109);

/// What every table says of itself.
pub(super) struct Header {
    pub(super) signature: Signature,
    pub(super) length: u32,
    pub(super) address: u64,
}

/// For messages about what is at an address whose signature is not known.
const ANY: Signature = Signature(*b"SDT ");

impl Header {
    /// Reads a table's first bytes.
    pub(super) fn read(memory: &impl PhysicalBytes, address: u64) -> Result<Self, AcpiError> {
        let found = bytes(memory, ANY, address, size_of::<TableHeader>() as u64)?;
        let length = found.len() as u32;
        let (header, _) = TableHeader::ref_from_prefix(found).map_err(|_| AcpiError::Length {
            signature: ANY,
            address,
            length,
            least: size_of::<TableHeader>() as u32,
            most: MAX_TABLE_BYTES,
        })?;
        Ok(Self { signature: Signature(header.signature), length: header.length.get(), address })
    }

    /// All bytes of the table, no fewer than `T` has: their length was looked at, and their sum.
    pub(super) fn table<'a, T>(&self, memory: &'a impl PhysicalBytes) -> Result<Table<'a, T>, AcpiError>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let Self { signature, length, address } = *self;
        let least = size_of::<T>() as u32;
        let refused = AcpiError::Length { signature, address, length, least, most: MAX_TABLE_BYTES };
        if !(least..=MAX_TABLE_BYTES).contains(&length) {
            return Err(refused);
        }
        let all = bytes(memory, signature, address, u64::from(length))?;
        check_sum(signature, address, all)?;
        let (head, rest) = T::ref_from_prefix(all).map_err(|_| refused)?;
        Ok(Table { head, rest })
    }
}

/// A table that adds up.
pub(super) struct Table<'a, T> {
    pub(super) head: &'a T,
    pub(super) rest: &'a [u8],
}

/// "The entire table must add to zero" (table 5.4).
pub(super) fn check_sum(signature: Signature, address: u64, bytes: &[u8]) -> Result<(), AcpiError> {
    match bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(()),
        sum => Err(AcpiError::Checksum { signature, address, length: bytes.len() as u32, sum }),
    }
}
