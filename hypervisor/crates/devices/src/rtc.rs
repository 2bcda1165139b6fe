//! The real-time clock: an MC146818 with its CMOS memory behind ports 0x70 and 0x71. It tells the
//! host's time, which a guest cannot set, and raises no interrupts. The memory tells the size of RAM, for
//! guests from before E820.

use crate::time::{Clock, Ticks};
use serde::{Deserialize, Serialize};
use serde_big_array::BigArray;

/// Index; data is one further.
pub(crate) const INDEX: u16 = 0x70;
/// Data.
pub(crate) const DATA: u16 = 0x71;

const REG_A: u8 = 0xa;
const REG_B: u8 = 0xb;
const REG_C: u8 = 0xc;
const REG_D: u8 = 0xd;
const CENTURY: u8 = 0x32;
/// An update is in progress.
const UIP: u8 = 1 << 7;
/// 32.768 kHz time base, 1024 Hz rate.
const REG_A_START: u8 = 0x26;
const B_24_HOURS: u8 = 1 << 1;
const B_BINARY: u8 = 1 << 2;
/// The battery is good.
const D_VALID: u8 = 1 << 7;
const PM: u8 = 1 << 7;
const DAY: u64 = 86_400;
const MICROSECONDS: u64 = 1_000_000;
/// UIP rises so long before the second ends.
const UIP_MICROSECONDS: u64 = 244;

/// Most RAM below 4 GiB; these registers know no other.
const LOW_RAM: u64 = 3 << 30;

/// Broken-down UTC.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    /// 1 is Sunday.
    weekday: u64,
}

impl Date {
    /// The proleptic Gregorian date of a day since 1970, by eras of 400 years that begin in March.
    fn new(days: u64) -> Self {
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            weekday: (days + 4) % 7 + 1,
        }
    }
}

/// Clock and CMOS memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rtc {
    microseconds: Clock,
    boot_seconds: u64,
    index: u8,
    #[serde(with = "BigArray")]
    cmos: [u8; 128],
}

impl Rtc {
    pub(crate) fn new(tsc_hz: u64, boot_seconds: u64, ram_bytes: u64) -> Self {
        let mut cmos = [0; 128];
        store_memory_size(&mut cmos, ram_bytes);
        cmos[usize::from(REG_A)] = REG_A_START;
        cmos[usize::from(REG_B)] = B_24_HOURS;
        // Far below the end of u64, so that sums need no checks.
        let boot_seconds = boot_seconds.min(u64::from(u32::MAX));
        Self { microseconds: Clock::new(tsc_hz, MICROSECONDS), boot_seconds, index: 0, cmos }
    }

    pub(crate) fn select(&mut self, value: u8) {
        // Bit 7 masks NMI on a PC.
        self.index = value & 0x7f;
    }

    pub(crate) fn read(&self, now: Ticks) -> u8 {
        let microseconds = self.microseconds.periods(now.0);
        let stored = self.cmos[usize::from(self.index & 0x7f)];
        match self.index {
            0 | 2 | 4 | 6..=9 | CENTURY => self.time(self.boot_seconds + microseconds / MICROSECONDS),
            REG_A if microseconds % MICROSECONDS >= MICROSECONDS - UIP_MICROSECONDS => stored | UIP,
            REG_C => 0,
            REG_D => D_VALID,
            _ => stored,
        }
    }

    pub(crate) fn write(&mut self, value: u8) {
        let value = match self.index {
            REG_A => value & !UIP,
            REG_C | REG_D => return,
            _ => value,
        };
        self.cmos[usize::from(self.index & 0x7f)] = value;
    }

    fn time(&self, seconds: u64) -> u8 {
        let date = Date::new(seconds / DAY);
        let second = seconds % DAY;
        match self.index {
            0 => self.encode(second % 60),
            2 => self.encode(second / 60 % 60),
            4 => self.hour(second / 3600),
            6 => self.encode(date.weekday),
            7 => self.encode(date.day),
            8 => self.encode(date.month),
            9 => self.encode(date.year % 100),
            _ => self.encode(date.year / 100),
        }
    }

    fn hour(&self, hour: u64) -> u8 {
        if self.cmos[usize::from(REG_B)] & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { PM } else { 0 }
    }

    /// A number below 100, as register B wants it.
    fn encode(&self, value: u64) -> u8 {
        let value = (value % 1000) as u8;
        if self.cmos[usize::from(REG_B)] & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }
}

/// What a BIOS leaves about memory: conventional memory, and the rest by the three pairs of registers that
/// grew with it, little-endian.
fn store_memory_size(cmos: &mut [u8; 128], ram_bytes: u64) {
    let kib = ram_bytes.min(LOW_RAM) >> 10;
    let above_1m = kib.saturating_sub(1 << 10);
    let above_16m = kib.saturating_sub(16 << 10) >> 6;
    for (low, units) in [(0x15, kib.min(640)), (0x17, above_1m), (0x30, above_1m), (0x34, above_16m)] {
        let units = u16::try_from(units).unwrap_or(u16::MAX);
        cmos[low..low + 2].copy_from_slice(&units.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::Rtc;
    use crate::time::Ticks;

    fn read(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
        rtc.select(index);
        rtc.read(Ticks(now))
    }

    #[test]
    fn tells_the_time() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let mut rtc = Rtc::new(1_000_000, 1_709_251_198, 0);
        let fields = [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| read(&mut rtc, index, 1_500_000));
        assert_eq!(fields, [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x59]);
        let fields = [8, 7, 4].map(|index| read(&mut rtc, index, 2_000_000));
        assert_eq!(fields, [0x03, 0x01, 0]);
    }

    #[test]
    fn formats_and_status() {
        let mut rtc = Rtc::new(1_000_000, 1_709_251_198, 0);
        rtc.select(0xb);
        rtc.write(4);
        assert_eq!(read(&mut rtc, 4, 0), 0x80 | 11);
        assert_eq!(read(&mut rtc, 0xa, 999_800) & 0x80, 0x80);
        assert_eq!(read(&mut rtc, 0xa, 1_000_000) & 0x80, 0);
        assert_eq!(read(&mut rtc, 0x8d, 0), 0x80);
        rtc.select(0x40);
        rtc.write(0x77);
        assert_eq!(rtc.read(Ticks(0)), 0x77);
    }

    #[test]
    fn the_size_of_memory() {
        let mut rtc = Rtc::new(1, 0, 256 << 20);
        let bytes = [0x15, 0x16, 0x17, 0x18, 0x30, 0x31, 0x34, 0x35].map(|index| read(&mut rtc, index, 0));
        assert_eq!(bytes, [0x80, 0x02, 0xff, 0xff, 0xff, 0xff, 0x00, 0x0f]);
    }

    #[test]
    fn ram_above_the_hole_is_not_told() {
        let mut rtc = Rtc::new(1, 0, 8 << 30);
        assert_eq!([0x34, 0x35].map(|index| read(&mut rtc, index, 0)), [0x00, 0xbf]);
    }

    #[test]
    fn the_end_of_time_is_a_date() {
        let mut rtc = Rtc::new(0, u64::MAX, u64::MAX);
        for index in 0..128 {
            read(&mut rtc, index, u64::MAX);
        }
    }
}
