//! A split queue (virtio 1.2, 2.7), from the device's side.
//!
//! ```text
//!  available:  flags │ index │ heads[size]       the driver writes
//!                        │        └────► descriptors[size]: address, length, flags, next ─► next ─► ...
//!  used:       flags │ index │ (head, bytes written)[size]     the device writes
//! ```
//!
//! Indices count on and wrap at 16 bits; an entry's place is its index modulo the size.

use super::{Broken, Memory};
use addr::Gpa;
use serde::{Deserialize, Serialize};

/// Most entries.
pub(crate) const LARGEST: u16 = 128;

const DESCRIPTOR_BYTES: u64 = 16;
/// Offsets in both rings.
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;
const HEAD_BYTES: u64 = 2;
const USED_BYTES: u64 = 8;
/// Of a descriptor.
const NEXT: u16 = 1 << 0;
const DEVICE_WRITES: u16 = 1 << 1;
const INDIRECT: u16 = 1 << 2;
/// Of the available ring: no interrupt, please.
const NO_INTERRUPT: u16 = 1 << 0;

/// Where a queue lies, as the driver says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) size: u32,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// A queue at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Saved", try_from = "Saved")]
pub(crate) struct Queue {
    size: u16,
    descriptors: Gpa,
    available: Gpa,
    used: Gpa,
    next_available: u16,
    next_used: u16,
}

/// A queue as it is saved. What a file says of one is held to what a driver may say.
#[derive(Serialize, Deserialize)]
struct Saved {
    places: Places,
    next_available: u16,
    next_used: u16,
}

impl From<Queue> for Saved {
    fn from(queue: Queue) -> Self {
        let Queue { size, descriptors, available, used, next_available, next_used } = queue;
        let [descriptors, available, used] = [descriptors, available, used].map(Gpa::as_u64);
        let places = Places { size: size.into(), descriptors, available, used };
        Self { places, next_available, next_used }
    }
}

impl TryFrom<Saved> for Queue {
    type Error = Broken;

    fn try_from(saved: Saved) -> Result<Self, Broken> {
        let Saved { places, next_available, next_used } = saved;
        Ok(Self { next_available, next_used, ..Self::new(&places)? })
    }
}

/// What a descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) gpa: u64,
    pub(crate) len: u32,
    pub(crate) device_writes: bool,
}

/// A chain of descriptors, read one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    head: u16,
    next: Option<u16>,
    /// Descriptors that may follow: a chain with more goes in a circle.
    left: u16,
}

impl Queue {
    /// A queue that nobody has used yet.
    ///
    /// # Errors
    /// A size that is none, or rings that are not aligned or lie beyond all addresses.
    pub(crate) fn new(places: &Places) -> Result<Self, Broken> {
        let size = u16::try_from(places.size).map_err(|_| Broken)?;
        if !size.is_power_of_two() || size > LARGEST {
            return Err(Broken);
        }
        let entries = u64::from(size);
        Ok(Self {
            size,
            descriptors: area(places.descriptors, 16, entries * DESCRIPTOR_BYTES)?,
            available: area(places.available, 2, ENTRIES + entries * HEAD_BYTES)?,
            used: area(places.used, 4, ENTRIES + entries * USED_BYTES)?,
            next_available: 0,
            next_used: 0,
        })
    }

    /// The next chain that waits.
    pub(crate) fn take(&mut self, memory: &impl Memory) -> Result<Option<Chain>, Broken> {
        let index = read_u16(memory, self.available.add(INDEX))?;
        match index.wrapping_sub(self.next_available) {
            0 => return Ok(None),
            waiting if waiting > self.size => return Err(Broken),
            _ => {}
        }
        let place = u64::from(self.next_available % self.size);
        let head = read_u16(memory, self.available.add(ENTRIES + place * HEAD_BYTES))?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(Chain { head, next: Some(head), left: self.size }))
    }

    /// The next buffer of a chain.
    pub(crate) fn next(&self, chain: &mut Chain, memory: &impl Memory) -> Result<Option<Buffer>, Broken> {
        let Some(number) = chain.next else { return Ok(None) };
        if number >= self.size || chain.left == 0 {
            return Err(Broken);
        }
        let mut bytes = [0; DESCRIPTOR_BYTES as usize];
        read(memory, self.descriptors.add(u64::from(number) * DESCRIPTOR_BYTES), &mut bytes)?;
        let [a, b, c, d, e, f, g, h, length @ .., flags, more_flags, next, more_next] = bytes;
        let flags = u16::from_le_bytes([flags, more_flags]);
        if flags & INDIRECT != 0 {
            return Err(Broken);
        }
        chain.left -= 1;
        chain.next = (flags & NEXT != 0).then_some(u16::from_le_bytes([next, more_next]));
        Ok(Some(Buffer {
            gpa: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_le_bytes(length),
            device_writes: flags & DEVICE_WRITES != 0,
        }))
    }

    /// Gives a chain back, into whose buffers nothing was written. Whether the driver wants to hear of it.
    pub(crate) fn put(&mut self, chain: &Chain, memory: &impl Memory) -> Result<bool, Broken> {
        let place = u64::from(self.next_used % self.size);
        let entry = u64::from(chain.head).to_le_bytes();
        write(memory, self.used.add(ENTRIES + place * USED_BYTES), &entry)?;
        self.next_used = self.next_used.wrapping_add(1);
        // The entry is there before the index says so, and the index before the flags are looked at (2.7.8, 2.7.7.2): x86
        // keeps stores in order, and each access goes through a lock.
        write(memory, self.used.add(INDEX), &self.next_used.to_le_bytes())?;
        Ok(read_u16(memory, self.available)? & NO_INTERRUPT == 0)
    }
}

fn area(start: u64, align: u64, bytes: u64) -> Result<Gpa, Broken> {
    let first = Gpa::try_new(start).filter(|_| start.is_multiple_of(align)).ok_or(Broken)?;
    first.checked_add(bytes).map(|_| first).ok_or(Broken)
}

fn read(memory: &impl Memory, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Broken> {
    if memory.read(gpa, bytes) { Ok(()) } else { Err(Broken) }
}

fn read_u16(memory: &impl Memory, gpa: Gpa) -> Result<u16, Broken> {
    let mut bytes = [0; 2];
    read(memory, gpa, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

fn write(memory: &impl Memory, gpa: Gpa, bytes: &[u8]) -> Result<(), Broken> {
    if memory.write(gpa, bytes) { Ok(()) } else { Err(Broken) }
}
