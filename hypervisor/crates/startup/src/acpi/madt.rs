//! The multiple APIC description table (ACPI 6.5, 5.2.12): processors and interrupt controllers.
//!
//! | type | entry |
//! |---|---|
//! | 0 | processor with a local APIC, id of 8 bits |
//! | 1 | I/O APIC |
//! | 5 | the local APICs' address, if it needs 64 bits |
//! | 9 | processor with an x2APIC, id of 32 bits |
//!
//! A processor may be there twice, by both kinds of entry. Entries of processors that a board has no socket for have no
//! flag set, and mean nothing.

use super::error::{AcpiError, Signature};
use super::layout::{
    AddressOverrideEntry, EntryHeader, Header, IoApicEntry, LocalApicEntry, Madt, Table, X2ApicEntry,
};
use super::{MAX_IO_APICS, MAX_PROCESSORS, Machine, PhysicalBytes};
use addr::Hpa;
use alloc::collections::BTreeMap;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

pub(super) const SIGNATURE: Signature = Signature(*b"APIC");

/// Flags of a processor (table 5.22).
const ENABLED: u32 = 1 << 0;
const ONLINE_CAPABLE: u32 = 1 << 1;
/// Ids that address all processors: 8 and 32 bits (SDM vol. 3A 11.6.1, 11.12.9).
const BROADCAST: u32 = 0xff;
const X2APIC_BROADCAST: u32 = u32::MAX;

/// A processor that firmware knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processor {
    /// Id of its local APIC.
    pub apic_id: u32,
    /// It can be used.
    pub enabled: bool,
    /// It cannot be used now, but may be one day: hot-plug.
    pub online_capable: bool,
}

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Its id.
    pub id: u8,
    /// Its registers.
    pub address: Hpa,
    /// The global number of its first interrupt.
    pub first_interrupt: u32,
}

/// Reads the table into `machine`: as far as it is in order.
pub(super) fn read(
    memory: &impl PhysicalBytes,
    address: u64,
    machine: &mut Machine,
) -> Result<(), AcpiError> {
    let table: Table<'_, Madt> = Header::read(memory, address)?.table(memory)?;
    machine.local_apic = Some(Hpa::new(u64::from(table.head.local_apic.get())));
    let mut reader = Reader { machine, places: BTreeMap::new() };
    let mut rest = table.rest;
    while !rest.is_empty() {
        let offset = size_of::<Madt>() + table.rest.len() - rest.len();
        let used = reader.entry(rest, offset)?;
        rest = &rest[used..];
    }
    Ok(())
}

struct Reader<'a> {
    machine: &'a mut Machine,
    /// Places in the list of processors, by id.
    places: BTreeMap<u32, usize>,
}

impl Reader<'_> {
    /// Takes the entry at the start of `rest`; its length, which is more than 0.
    fn entry(&mut self, rest: &[u8], offset: usize) -> Result<usize, AcpiError> {
        let left = rest.len();
        let bad = |kind, length| AcpiError::Entry { offset, kind, length, left };
        let &[kind, length, ..] = rest else { return Err(bad(rest[0], 0)) };
        let used = usize::from(length);
        let entry = rest.get(..used).filter(|_| used >= size_of::<EntryHeader>());
        let entry = entry.ok_or(bad(kind, length))?;
        let error = bad(kind, length);
        match kind {
            0 => {
                let entry: &LocalApicEntry = typed(entry, error)?;
                if u32::from(entry.apic_id) != BROADCAST {
                    self.processor(entry.apic_id.into(), entry.flags.get());
                }
            }
            1 => self.io_apic(typed(entry, error)?),
            5 => {
                let entry: &AddressOverrideEntry = typed(entry, error)?;
                self.override_address(entry.address.get());
            }
            9 => {
                let entry: &X2ApicEntry = typed(entry, error)?;
                if entry.apic_id.get() != X2APIC_BROADCAST {
                    self.processor(entry.apic_id.get(), entry.flags.get());
                }
            }
            _ => {}
        }
        Ok(used)
    }

    fn processor(&mut self, apic_id: u32, flags: u32) {
        // "Online capable" means something only where "enabled" is clear.
        let enabled = flags & ENABLED != 0;
        let online_capable = !enabled && flags & ONLINE_CAPABLE != 0;
        if !enabled && !online_capable {
            return;
        }
        let processors = &mut self.machine.processors;
        if let Some(&place) = self.places.get(&apic_id) {
            let known = &mut processors[place];
            known.enabled |= enabled;
            known.online_capable = !known.enabled;
        } else if processors.len() < MAX_PROCESSORS {
            self.places.insert(apic_id, processors.len());
            processors.push(Processor { apic_id, enabled, online_capable });
        } else {
            self.machine.problems.add(AcpiError::Processors);
        }
    }

    fn io_apic(&mut self, entry: &IoApicEntry) {
        let address = Hpa::new(u64::from(entry.address.get()));
        let found = IoApic { id: entry.id, address, first_interrupt: entry.first_interrupt.get() };
        let io_apics = &mut self.machine.io_apics;
        if io_apics.iter().any(|known| known.address == address) {
            return;
        }
        if io_apics.len() < MAX_IO_APICS {
            io_apics.push(found);
        } else {
            self.machine.problems.add(AcpiError::IoApics);
        }
    }

    fn override_address(&mut self, address: u64) {
        match Hpa::try_new(address) {
            Some(address) => self.machine.local_apic = Some(address),
            None => self.machine.problems.add(AcpiError::Address { signature: SIGNATURE, address }),
        }
    }
}

/// An entry may be longer than this version of the table knows.
fn typed<T>(entry: &[u8], error: AcpiError) -> Result<&T, AcpiError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(entry).map(|(entry, _)| entry).map_err(|_| error)
}
