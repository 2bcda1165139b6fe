//! What a way into the loader finds, and how it looks at memory.

use crate::error::LoadError;
use crate::modules::Modules;
use abi::handoff::HandOff;
use addr::{Hpa, HpaRange};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Physical memory as the loader sees it: the bytes of a range, or nothing where it is not all mapped.
pub type Memory<'a> = dyn Fn(HpaRange) -> Option<&'a [u8]> + 'a;

/// What firmware or a boot loader tells.
#[derive(Debug)]
pub struct Findings {
    /// Memory map, ACPI root pointer, screen.
    pub handoff: HandOff,
    /// What was loaded besides.
    pub images: Images,
}

/// Where Herald and its guests' images are.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it exists once, and there is no allocator")]
pub enum Images {
    /// All in one boot package.
    Package(HpaRange),
    /// Each for itself.
    Modules(Modules),
}

/// `len` bytes at physical `start`.
pub(crate) fn bytes<'a>(memory: &Memory<'a>, start: u64, len: u64) -> Result<&'a [u8], LoadError> {
    reachable(start, len).and_then(memory).ok_or(LoadError::OutOfReach { start, len })
}

/// A range that could be memory: not empty, not at 0, not beyond physical addresses.
pub(crate) fn reachable(start: u64, len: u64) -> Option<HpaRange> {
    let range = Hpa::try_new(start).and_then(|start| HpaRange::sized(start, len))?;
    (range.start() != Hpa::ZERO && !range.is_empty()).then_some(range)
}

/// The structure at the start of `bytes`, and what follows it; `None` where there are too few.
pub(crate) fn take<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(bytes).ok()
}
