//! Time at start-up: the TSC's frequency, and what the clock on the wall says.

use crate::cpu::tsc;
use core::arch::x86_64::__cpuid;
use x86::io::{inb, outb};

/// Frequency of the PIT, in Hz (8254 data sheet; the PC's 14.31818 MHz over 12).
const PIT_HZ: u64 = 1_193_182;
/// PIT ticks over which the TSC is measured: about 10 ms.
const MEASURED: u16 = 11_932;

/// Measures the TSC against channel 2 of the PIT, whose output can be read at port 0x61.
pub(super) fn measure_tsc() -> u64 {
    // SAFETY: the PIT's channel 2 and its gate; the speaker stays off.
    let start = unsafe {
        outb(0x61, (inb(0x61) & !0b10) | 0b01);
        outb(0x43, 0b1011_0000);
        outb(0x42, MEASURED as u8);
        outb(0x42, (MEASURED >> 8) as u8);
        let start = tsc();
        while inb(0x61) & 1 << 5 == 0 {
            core::hint::spin_loop();
        }
        start
    };
    (tsc() - start) * PIT_HZ / u64::from(MEASURED)
}

/// Ticks in which a guest gets on, whatever its timer: a tenth of a millisecond, and no less than dozens of exits take on
/// this machine. Another hypervisor below makes them dear, and CPUID then shows how dear: it leaves for it, too.
#[must_use]
pub(crate) fn shortest_period(tsc_hz: u64) -> u64 {
    /// Under Bochs nothing below Herald takes part, and an exit takes some 1,500 ticks.
    const LEAST: u64 = 10_000;
    /// CPUIDs. An interrupt has up to four exits of its guest, each of them dearer by far.
    const ROUND: u64 = 64;
    let cost = (0..4).map(|_| {
        let start = tsc();
        let _ = __cpuid(0);
        tsc() - start
    });
    let cost = cost.min().unwrap_or(0);
    log::debug!("CPUID takes {cost} ticks");
    LEAST.max(tsc_hz / 10_000).max(cost * ROUND)
}

fn cmos(register: u8) -> u8 {
    // SAFETY: reads a register of the RTC; NMIs stay enabled (bit 7 clear).
    unsafe {
        outb(0x70, register);
        inb(0x71)
    }
}

fn from_bcd(value: u8) -> u64 {
    u64::from(value >> 4) * 10 + u64::from(value & 0xf)
}

/// Seconds since 1970 by the RTC, which is taken to count in UTC, BCD and 24 hours, as PCs set it up.
#[must_use]
pub(crate) fn boot_seconds() -> u64 {
    /// Status register A: an update is in progress.
    const UPDATING: u8 = 1 << 7;
    while cmos(0x0a) & UPDATING != 0 {
        core::hint::spin_loop();
    }
    let [second, minute, hour, day, month, year] =
        [0, 2, 4, 7, 8, 9].map(|register| from_bcd(cmos(register)));
    days(2000 + year, month.clamp(1, 12), day.max(1)) * 86_400 + hour * 3600 + minute * 60 + second
}

/// Days from 1970-01-01 in the Gregorian calendar; years count from March, so that leap days come last.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

const _: () = assert!(days(1970, 1, 1) == 0 && days(2000, 3, 1) == 11_017);
