//! ACPI fixed hardware (ACPI 6.5 section 4.8): the PM1a event and control blocks and the PM timer, at the
//! ports that the FADT announces. No event ever happens, so the SCI stays low and the status is 0. ACPI
//! mode is always on.

use crate::time::{Clock, Ticks};
use serde::{Deserialize, Serialize};

/// PM1a status and enable, 2 bytes each; the first port of all.
pub(crate) const EVENT: u16 = 0x600;
/// PM1a control, 2 bytes.
const CONTROL: u16 = 0x604;
/// The timer, 4 bytes.
const TIMER: u16 = 0x608;
/// PM1a enable, the second half of the event block.
const ENABLE: u16 = EVENT + 2;
/// The port after the last.
pub(crate) const END: u16 = 0x60c;

/// Timer periods a second.
const TIMER_HZ: u64 = 3_579_545;
const TIMER_BITS: u64 = 0xff_ffff;
const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
/// SLP_TYP of S5, as `\_S5` in the DSDT says.
const S5: u16 = 5;

/// Whether a write asked for power-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    On,
    Off,
}

/// The registers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pm {
    clock: Clock,
    enable: [u8; 2],
    control: [u8; 2],
}

impl Pm {
    pub(crate) const fn new(tsc_hz: u64) -> Self {
        Self { clock: Clock::new(tsc_hz, TIMER_HZ), enable: [0; 2], control: [0; 2] }
    }

    /// One byte of a register.
    pub(crate) fn read(&self, port: u16, now: Ticks) -> u8 {
        let timer = ((self.clock.periods(now.0) & TIMER_BITS) as u32).to_le_bytes();
        let control = (u16::from_le_bytes(self.control) | SCI_EN).to_le_bytes();
        match port {
            ENABLE..CONTROL => self.enable[usize::from(port - ENABLE)],
            CONTROL..=0x605 => control[usize::from(port - CONTROL)],
            TIMER..END => timer[usize::from(port - TIMER)],
            _ => 0,
        }
    }

    /// One byte of a register.
    pub(crate) fn write(&mut self, port: u16, value: u8) -> Power {
        match port {
            ENABLE..CONTROL => self.enable[usize::from(port - ENABLE)] = value,
            CONTROL..=0x605 => self.control[usize::from(port - CONTROL)] = value,
            _ => {}
        }
        let control = u16::from_le_bytes(self.control);
        // SLP_EN is write-only.
        self.control = (control & !SLP_EN).to_le_bytes();
        if control & SLP_EN != 0 && control >> 10 & 7 == S5 { Power::Off } else { Power::On }
    }
}

#[cfg(test)]
mod tests {
    use super::{CONTROL, EVENT, Pm, Power, TIMER};
    use crate::time::Ticks;

    #[test]
    fn sleeps_for_good_with_type_5() {
        let mut pm = Pm::new(1);
        assert_eq!(pm.read(CONTROL, Ticks(0)), 1, "SCI_EN");
        assert_eq!(pm.write(CONTROL, 0), Power::On);
        assert_eq!(pm.write(CONTROL + 1, 0x14), Power::On, "SLP_TYP alone");
        assert_eq!(pm.write(CONTROL + 1, 0x24), Power::On, "type 1");
        assert_eq!(pm.write(CONTROL + 1, 0x34), Power::Off);
    }

    #[test]
    fn the_timer_has_24_bits() {
        let pm = Pm::new(3_579_545);
        let bytes = [0, 1, 2, 3].map(|byte| pm.read(TIMER + byte, Ticks(0x0123_4567)));
        assert_eq!(bytes, [0x67, 0x45, 0x23, 0]);
        assert_eq!(pm.read(EVENT, Ticks(0)), 0);
    }
}
