//! From the root pointer to the addresses of all tables (ACPI 6.5, 5.2.5 to 5.2.8).
//!
//! A root pointer of ACPI 1.0 has 20 bytes and an RSDT. Later ones have both roots, and the XSDT is to be used; where it,
//! or the longer pointer itself, is damaged, the RSDT of the first 20 bytes still does.

use super::error::{AcpiError, Problems, Signature};
use super::layout::{ExtendedRootPointer, Header, RootPointer, TableHeader, check_sum};
use super::{MAX_TABLES, PhysicalBytes, bytes};
use alloc::vec::Vec;
use zerocopy::FromBytes;

const RSDP: Signature = Signature(*b"RSDP");
const RSDT: Signature = Signature(*b"RSDT");
const XSDT: Signature = Signature(*b"XSDT");
const POINTER: [u8; 8] = *b"RSD PTR ";
/// First revision of the longer pointer (table 5.3: that of ACPI 1.0 is 0).
const EXTENDED: u8 = 2;
/// The longest pointer that is summed: far more than any version has.
const MOST: u32 = 4096;

/// The addresses of the tables that the root names, at most [`MAX_TABLES`].
pub(super) fn tables(
    memory: &impl PhysicalBytes,
    rsdp: u64,
    problems: &mut Problems,
) -> Result<Vec<u64>, AcpiError> {
    let first = bytes(memory, RSDP, rsdp, size_of::<RootPointer>() as u64)?;
    let pointer = RootPointer::ref_from_bytes(first).map_err(|_| AcpiError::NoRoot { address: rsdp })?;
    if pointer.signature != POINTER {
        return Err(AcpiError::NoRootPointer { address: rsdp, found: pointer.signature });
    }
    check_sum(RSDP, rsdp, first)?;
    let rsdt = u64::from(pointer.rsdt.get());
    // Whatever is wrong with the XSDT is a problem where there is an RSDT, and fatal where there is none.
    let mut fatal = AcpiError::NoRoot { address: rsdp };
    if pointer.revision >= EXTENDED {
        match from_xsdt(memory, rsdp, problems) {
            Ok(Some(tables)) => return Ok(tables),
            Ok(None) => {}
            Err(error) if rsdt != 0 => problems.add(error),
            Err(error) => fatal = error,
        }
    }
    if rsdt == 0 {
        return Err(fatal);
    }
    addresses(memory, RSDT, rsdt, problems)
}

/// By the longer pointer; `None` where it names no XSDT.
fn from_xsdt(
    memory: &impl PhysicalBytes,
    rsdp: u64,
    problems: &mut Problems,
) -> Result<Option<Vec<u64>>, AcpiError> {
    let least = size_of::<ExtendedRootPointer>() as u32;
    let start = bytes(memory, RSDP, rsdp, u64::from(least))?;
    let pointer =
        ExtendedRootPointer::ref_from_bytes(start).map_err(|_| AcpiError::NoRoot { address: rsdp })?;
    let (length, xsdt) = (pointer.length.get(), pointer.xsdt.get());
    if !(least..=MOST).contains(&length) {
        return Err(AcpiError::Length { signature: RSDP, address: rsdp, length, least, most: MOST });
    }
    check_sum(RSDP, rsdp, bytes(memory, RSDP, rsdp, u64::from(length))?)?;
    if xsdt == 0 {
        return Ok(None);
    }
    addresses(memory, XSDT, xsdt, problems).map(Some)
}

/// The addresses in a root table. Some firmware leaves entries empty.
fn addresses(
    memory: &impl PhysicalBytes,
    signature: Signature,
    address: u64,
    problems: &mut Problems,
) -> Result<Vec<u64>, AcpiError> {
    let header = Header::read(memory, address)?;
    if header.signature != signature {
        return Err(AcpiError::NotRoot { address, expected: signature, found: header.signature });
    }
    let table = header.table::<TableHeader>(memory)?;
    let size = if signature == XSDT { 8 } else { 4 };
    let entries = table.rest.chunks_exact(size);
    if entries.len() > MAX_TABLES {
        problems.add(AcpiError::Tables(entries.len()));
    }
    let addresses = entries.take(MAX_TABLES).map(|entry| {
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(entry);
        u64::from_le_bytes(wide)
    });
    Ok(addresses.filter(|&address| address != 0).collect())
}
