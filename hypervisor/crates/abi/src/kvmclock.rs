//! KVM's paravirtual clock: what a guest finds in memory instead of calibrating its TSC
//! (Linux Documentation/virt/kvm/x86/msr.rst and x86/timekeeping; struct pvclock_vcpu_time_info).
//!
//! ```text
//!   nanoseconds = system_time + (((tsc - tsc_timestamp) << shift) * mul >> 32)
//! ```

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

/// Bit 0 of the system-time MSR: the rest is the guest-physical address of a [`TimeInfo`].
pub const ENABLE: u64 = 1;
/// Flag: the clock is the same on all virtual processors.
pub const STABLE: u8 = 1;

/// The area that the system-time MSR names.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct TimeInfo {
    /// Odd while it changes. Written once, so always even.
    pub version: U32,
    /// Zero.
    pub pad0: U32,
    /// TSC at `system_time`.
    pub tsc_timestamp: U64,
    /// Nanoseconds.
    pub system_time: U64,
    /// Fraction of 2^32.
    pub tsc_to_system_mul: U32,
    /// Binary places to the left, to the right if negative.
    pub tsc_shift: i8,
    /// [`STABLE`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// The area that the wall-clock MSR names: the time when `system_time` was 0.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct WallClock {
    /// As above.
    pub version: U32,
    /// Seconds since 1970.
    pub seconds: U32,
    /// Nanoseconds.
    pub nanoseconds: U32,
}

const _: () = assert!(size_of::<TimeInfo>() == 32);
const NANOSECONDS: u64 = 1_000_000_000;

impl TimeInfo {
    /// A clock that reads 0 at TSC 0 and follows a TSC of `hz`.
    ///
    /// # Panics
    /// If `hz` is 0.
    #[must_use]
    pub fn new(hz: u64) -> Self {
        let (mul, shift) = scale(hz);
        Self {
            version: 2.into(),
            pad0: 0.into(),
            tsc_timestamp: 0.into(),
            system_time: 0.into(),
            tsc_to_system_mul: mul.into(),
            tsc_shift: shift,
            flags: STABLE,
            pad: [0; 2],
        }
    }
}

/// Multiplier and shift from ticks of `hz` to nanoseconds: the shift brings the rate between half and one
/// tick a nanosecond, the multiplier is what is left, as a fraction.
fn scale(hz: u64) -> (u32, i8) {
    assert!(hz > 0, "a clock that does not tick");
    let (mut rate, mut shift) = (hz, 0i8);
    while rate > NANOSECONDS * 2 {
        rate >>= 1;
        shift -= 1;
    }
    while rate <= NANOSECONDS {
        rate <<= 1;
        shift += 1;
    }
    ((((NANOSECONDS as u128) << 32) / rate as u128) as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn a_second_of_ticks_is_a_second() {
        for hz in [1_193_182, 20_000_000, 999_999_999, 1_000_000_000, 2_893_000_000, 5_000_000_000] {
            let (mul, shift) = scale(hz);
            let ticks = u128::from(hz);
            let shifted = if shift >= 0 { ticks << shift } else { ticks >> -shift };
            let nanoseconds = (shifted * u128::from(mul)) >> 32;
            assert!(nanoseconds.abs_diff(1_000_000_000) < 10, "{hz} Hz: {nanoseconds}");
        }
    }
}
