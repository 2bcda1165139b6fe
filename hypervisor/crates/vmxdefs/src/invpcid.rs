//! INVPCID: its operands, as an exit tells of them, and what it asks for (SDM vol. 2A INVPCID, vol. 3C table 28-13).
//!
//! ```text
//!   information, qualification ─► segment:[base + index * scale + displacement] ─► linear ─► 16 bytes ─┐
//!                              └► register with the kind ────────────────────────────────────────────┴─► Invalidation, or #GP
//! ```

use crate::event::Event;
use crate::field::Segment;
use crate::registers::Refused;
use addr::Gva;

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: usize = 16;
/// In the order of their numbers in instructions.
const SEGMENTS: [Segment; 6] = [Segment::Es, Segment::Cs, Segment::Ss, Segment::Ds, Segment::Fs, Segment::Gs];
/// Access rights (SDM vol. 3C table 25-2): the type's bits, code, and unusable.
const WRITABLE_OR_READABLE: u64 = 1 << 1;
const EXPANDS_DOWN: u64 = 1 << 2;
const CODE: u64 = 1 << 3;
const BIG: u64 = 1 << 14;
const UNUSABLE: u64 = 1 << 16;

/// The operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operands {
    /// The segment of the descriptor.
    pub segment: Segment,
    /// Number of the register with the kind.
    pub kind: usize,
    base: Option<usize>,
    /// With log2 of what it is multiplied by.
    index: Option<(usize, u32)>,
    displacement: u64,
    mask: u64,
}

impl Operands {
    /// From the instruction-information field and the exit qualification.
    #[must_use]
    pub fn decode(information: u32, displacement: u64) -> Self {
        let part = |low: u32| (information >> low & 0xf) as usize;
        let has = |without: u32| information >> without & 1 == 0;
        Self {
            segment: *SEGMENTS.get((information >> 15 & 7) as usize).unwrap_or(&Segment::Ds),
            kind: part(28),
            base: has(27).then(|| part(23)),
            index: has(22).then(|| (part(18), information & 3)),
            displacement,
            mask: match information >> 7 & 7 {
                0 => 0xffff,
                1 => 0xffff_ffff,
                _ => u64::MAX,
            },
        }
    }

    /// Where the descriptor is in its segment.
    pub fn offset(&self, general: impl Fn(usize) -> u64) -> u64 {
        let base = self.base.map_or(0, &general);
        let index = self.index.map_or(0, |(number, scale)| general(number) << scale);
        base.wrapping_add(index).wrapping_add(self.displacement) & self.mask
    }

    /// The linear address of the descriptor at this offset, by the segment's base, limit and access rights.
    ///
    /// # Errors
    /// #GP or #SS: the segment does not have it.
    pub fn linear(&self, offset: u64, rules: &SegmentRules) -> Result<u64, Event> {
        let refused = match self.segment {
            Segment::Ss => Event::STACK_FAULT,
            _ => Event::GENERAL_PROTECTION,
        };
        let last = DESCRIPTOR_BYTES as u64 - 1;
        if rules.long_code {
            // Only these have a base there (SDM vol. 1 3.3.7).
            let based = matches!(self.segment, Segment::Fs | Segment::Gs);
            let linear = offset.wrapping_add(if based { rules.base } else { 0 });
            let fits = is_canonical(linear) && is_canonical(linear.wrapping_add(last));
            return if fits { Ok(linear) } else { Err(refused) };
        }
        let end = offset + last;
        let within = if rules.rights & (CODE | EXPANDS_DOWN) == EXPANDS_DOWN {
            offset > rules.limit && end <= if rules.rights & BIG != 0 { 0xffff_ffff } else { 0xffff }
        } else {
            end <= rules.limit
        };
        let readable = rules.rights & CODE == 0 || rules.rights & WRITABLE_OR_READABLE != 0;
        if rules.rights & UNUSABLE != 0 || !within || !readable {
            return Err(refused);
        }
        Ok(rules.base.wrapping_add(offset) & 0xffff_ffff)
    }
}

/// A segment, as the processor has it.
#[derive(Clone, Copy, Debug)]
pub struct SegmentRules {
    /// The code is 64-bit code: limits do not count.
    pub long_code: bool,
    /// Base.
    pub base: u64,
    /// Limit, in bytes.
    pub limit: u64,
    /// Access rights, as the VMCS has them.
    pub rights: u64,
}

const fn is_canonical(linear: u64) -> bool {
    Gva::try_new(linear).is_some()
}

/// What is to be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// What a PCID has for a linear address.
    Address {
        /// The PCID.
        pcid: u16,
        /// The address.
        linear: u64,
    },
    /// All that a PCID has.
    Pcid(u16),
    /// All, or all but global translations, of all PCIDs.
    All,
}

impl Invalidation {
    /// By kind and descriptor.
    ///
    /// # Errors
    /// [`Refused`].
    pub const fn decode(
        kind: u64,
        descriptor: [u8; DESCRIPTOR_BYTES],
        has_pcids: bool,
    ) -> Result<Self, Refused> {
        let all = u128::from_le_bytes(descriptor);
        let (low, linear) = (all as u64, (all >> 64) as u64);
        let pcid = (low & 0xfff) as u16;
        if low >> 12 != 0 || kind <= 1 && !has_pcids && pcid != 0 {
            return Err(Refused);
        }
        match kind {
            0 if is_canonical(linear) => Ok(Self::Address { pcid, linear }),
            1 => Ok(Self::Pcid(pcid)),
            2 | 3 => Ok(Self::All),
            _ => Err(Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Invalidation, Operands, SegmentRules};
    use crate::event::Event;
    use crate::field::Segment;
    use crate::registers::Refused;

    const LONG: SegmentRules = SegmentRules { long_code: true, base: 0x1000, limit: 0, rights: 1 << 16 };
    const FLAT: SegmentRules = SegmentRules { long_code: false, base: 0x1000, limit: 0x2fff, rights: 0x93 };

    fn information(address: u32, segment: u32, index: Option<(u32, u32)>, base: Option<u32>) -> u32 {
        let index = index.map_or(1 << 22, |(index, scale)| index << 18 | scale);
        address << 7 | segment << 15 | index | base.map_or(1 << 27, |base| base << 23) | 9 << 28
    }

    #[test]
    fn operands() {
        let general = |number: usize| 0x1_0000_0000 + 0x100 * number as u64;
        let all = Operands::decode(information(2, 3, Some((2, 3)), Some(5)), (-8_i64).cast_unsigned());
        assert_eq!((all.segment, all.kind), (Segment::Ds, 9));
        assert_eq!(all.offset(general), 0x9_0000_0000 + 0x500 + 0x1000 - 8);
        let narrow = Operands::decode(information(1, 2, None, Some(5)), 4);
        assert_eq!((narrow.segment, narrow.offset(general)), (Segment::Ss, 0x504));
        let absolute = Operands::decode(information(0, 4, None, None), 0x1_2345);
        assert_eq!((absolute.segment, absolute.offset(general)), (Segment::Fs, 0x2345));
    }

    #[test]
    fn segments_of_long_code_have_no_limits() {
        let [data, stack, fs] =
            [3, 2, 4].map(|segment| Operands::decode(information(2, segment, None, None), 0));
        assert_eq!(data.linear(0x7000, &LONG), Ok(0x7000));
        assert_eq!(fs.linear(0x7000, &LONG), Ok(0x8000));
        for offset in [1 << 47, (1 << 47) - 8] {
            assert_eq!(data.linear(offset, &LONG), Err(Event::GENERAL_PROTECTION));
            assert_eq!(stack.linear(offset, &LONG), Err(Event::STACK_FAULT));
        }
    }

    #[test]
    fn other_segments_have() {
        let data = Operands::decode(information(1, 3, None, None), 0);
        assert_eq!(data.linear(0x2ff0, &FLAT), Ok(0x3ff0));
        assert_eq!(data.linear(0x2ff1, &FLAT), Err(Event::GENERAL_PROTECTION));
        let with = |rights| SegmentRules { rights, ..FLAT };
        assert_eq!(data.linear(0x3000, &with(0x97 | 1 << 14)), Ok(0x4000), "expands down");
        assert!(data.linear(0x2fff, &with(0x97 | 1 << 14)).is_err());
        assert!(data.linear(0xfff8, &with(0x97)).is_err(), "to 64 KiB");
        assert!(data.linear(0, &with(0x99)).is_err(), "code that cannot be read");
        assert!(data.linear(0, &with(1 << 16)).is_err(), "none");
    }

    #[test]
    fn descriptors() {
        let descriptor = |low: u64, linear: u64| (u128::from(linear) << 64 | u128::from(low)).to_le_bytes();
        let decode = |kind, low, linear| Invalidation::decode(kind, descriptor(low, linear), true);
        assert_eq!(decode(0, 5, 0x7000), Ok(Invalidation::Address { pcid: 5, linear: 0x7000 }));
        assert_eq!(decode(1, 5, 1 << 47), Ok(Invalidation::Pcid(5)));
        assert_eq!(decode(2, 5, 0), decode(3, 0xfff, 1 << 60));
        assert_eq!(decode(0, 5, 1 << 47), Err(Refused));
        for (kind, low) in [(4, 0), (u64::MAX, 0), (0, 1 << 12), (1, 1 << 63), (2, 1 << 12), (3, 1 << 12)] {
            assert_eq!(decode(kind, low, 0), Err(Refused), "{kind} {low:#x}");
        }
        for kind in [0, 1] {
            assert_eq!(Invalidation::decode(kind, descriptor(1, 0), false), Err(Refused));
            assert!(Invalidation::decode(kind, descriptor(0, 0), false).is_ok());
        }
        assert_eq!(Invalidation::decode(2, descriptor(1, 0), false), Ok(Invalidation::All));
    }
}
