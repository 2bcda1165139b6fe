//! Guest RAM: from 0 up to 3 GiB, and from 4 GiB on. The last GiB below 4 GiB belongs to devices: I/O
//! APIC at 0xfec0_0000, local APIC at 0xfee0_0000 (SDM vol. 3A 11.4.1).

use crate::error::{Error, Limit};
use addr::{Gpa, GpaRange, PAGE_SIZE};
use core::fmt;

/// First address below 4 GiB that is never RAM.
pub(crate) const LOW_LIMIT: u64 = 3 << 30;
/// Where RAM goes on that does not fit below [`LOW_LIMIT`].
pub(crate) const HIGH_START: u64 = 4 << 30;
/// Least RAM: the first MiB as every PC lays it out, and one for a kernel.
const LEAST: u64 = 2 << 20;
/// RAM ends below the 36 physical address bits of the oldest processors with VMX.
const MOST: u64 = (1 << 36) - (HIGH_START - LOW_LIMIT);

/// A guest's RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ram {
    low: GpaRange,
    high: Option<GpaRange>,
}

impl Ram {
    /// The layout of `bytes` bytes of RAM.
    ///
    /// # Errors
    /// Too few or too many bytes, or not whole pages.
    pub fn new(bytes: u64) -> Result<Self, Error> {
        if bytes < LEAST {
            return Err(Error::MemorySize { bytes, limit: Limit::AtLeast(LEAST) });
        }
        if bytes > MOST {
            return Err(Error::MemorySize { bytes, limit: Limit::AtMost(MOST) });
        }
        if !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(Error::MemorySize { bytes, limit: Limit::MultipleOf(PAGE_SIZE) });
        }
        let low_bytes = bytes.min(LOW_LIMIT);
        let high_end = HIGH_START + (bytes - low_bytes);
        let high = (bytes > low_bytes).then(|| GpaRange::new(Gpa::new(HIGH_START), Gpa::new(high_end)));
        Ok(Self { low: GpaRange::new(Gpa::ZERO, Gpa::new(low_bytes)), high })
    }

    /// RAM below 4 GiB.
    #[must_use]
    pub fn low(&self) -> GpaRange {
        self.low
    }

    /// RAM above 4 GiB, if there is any.
    #[must_use]
    pub fn high(&self) -> Option<GpaRange> {
        self.high
    }

    /// All of it, in order of addresses.
    pub fn ranges(&self) -> impl Iterator<Item = GpaRange> + use<> {
        core::iter::once(self.low).chain(self.high)
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges().map(|range| range.len()).sum()
    }

    /// Whether every byte of `range` is RAM.
    #[must_use]
    pub fn contains(&self, range: &GpaRange) -> bool {
        self.ranges().any(|ram| ram.contains_span(range))
    }
}

impl fmt::Display for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RAM at {:#x}..{:#x}", self.low.start().as_u64(), self.low.end().as_u64())?;
        if let Some(high) = self.high {
            write!(f, " and {:#x}..{:#x}", high.start().as_u64(), high.end().as_u64())?;
        }
        Ok(())
    }
}
