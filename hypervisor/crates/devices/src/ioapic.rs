//! The I/O APIC (Intel 82093AA): 24 pins, registers behind an index and a data window at 0xfec00000.
//!
//! ```text
//!  level pin:   line high ──► message, Remote IRR := 1 ──► EOI of its vector: Remote IRR := 0
//!                   ▲                                               │
//!                   └──────────── line still high: again ◄──────────┘
//!  edge pin:    line rises ──► message; lost while masked
//! ```

use crate::message::{Delivery, Destination, LEVEL, MASKED, Message};
use serde::{Deserialize, Serialize};

/// The registers' guest-physical address.
pub(crate) const BASE: u64 = 0xfec0_0000;
/// Bytes that the device answers.
pub(crate) const BYTES: u64 = 0x1000;
/// Pins.
pub(crate) const PINS: u8 = 24;

const INDEX: u64 = 0x00;
const DATA: u64 = 0x10;
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const TABLE: u8 = 0x10;
/// Version 0x11, last entry 23.
const VERSION_VALUE: u32 = 0x0017_0011;
const ID_BITS: u32 = 0x0f00_0000;
const REMOTE_IRR: u32 = 1 << 14;
/// Vector, mode, logical, polarity, trigger, mask.
const LOW_BITS: u32 = 0x1_afff;
const HIGH_BITS: u32 = 0xff00_0000;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    low: u32,
    high: u32,
}

impl Entry {
    fn message(self) -> Message {
        Message::of(self.low, Destination::of(self.low, self.high >> 24, 0xff))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IoApic {
    index: u8,
    id: u32,
    entries: [Entry; PINS as usize],
    /// Levels of the pins, a bit each.
    lines: u32,
}

impl IoApic {
    pub(crate) const fn new() -> Self {
        Self { index: 0, id: 0, entries: [Entry { low: MASKED, high: 0 }; PINS as usize], lines: 0 }
    }

    /// Drives a pin; the message that this sends. Pins that do not exist are ignored. Polarity is for the
    /// guest only: `level` means asserted.
    #[must_use]
    pub(crate) fn set_line(&mut self, pin: u8, level: bool) -> Option<Message> {
        let entry = self.entries.get(usize::from(pin))?;
        let bit = 1 << pin;
        let rises = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if entry.low & LEVEL != 0 { self.serve_level(pin) } else { self.serve_edge(pin, rises) }
    }

    fn serve_edge(&self, pin: u8, rises: bool) -> Option<Message> {
        let entry = self.entries[usize::from(pin)];
        (rises && entry.low & MASKED == 0 && Delivery::of(entry.low) != Delivery::ExtInt)
            .then(|| entry.message())
    }

    fn serve_level(&mut self, pin: u8) -> Option<Message> {
        let asserted = self.lines >> pin & 1 != 0;
        let entry = &mut self.entries[usize::from(pin)];
        if !asserted || entry.low & (MASKED | REMOTE_IRR | LEVEL) != LEVEL {
            return None;
        }
        let message = entry.message();
        if matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority) {
            entry.low |= REMOTE_IRR;
        }
        Some(message)
    }

    /// A processor has ended a level-triggered interrupt; `send` gets what asks again.
    pub(crate) fn end_of_interrupt(&mut self, vector: u8, send: &mut dyn FnMut(Message)) {
        for pin in 0..PINS {
            let entry = &mut self.entries[usize::from(pin)];
            if entry.low & (LEVEL | REMOTE_IRR) != LEVEL | REMOTE_IRR || entry.low as u8 != vector {
                continue;
            }
            entry.low &= !REMOTE_IRR;
            if let Some(message) = self.serve_level(pin) {
                send(message);
            }
        }
    }

    /// To whom pin 0 hands the PIC's output, if the guest has set it so (ExtINT).
    pub(crate) fn pic_destination(&self) -> Option<Destination> {
        let entry = self.entries[0];
        (entry.low & MASKED == 0 && Delivery::of(entry.low) == Delivery::ExtInt)
            .then(|| entry.message().destination)
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        match offset {
            INDEX => u32::from(self.index),
            DATA => self.read_register(),
            _ => 0,
        }
    }

    fn read_register(&self) -> u32 {
        match self.index {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            index => match self.entries.get(usize::from(index.wrapping_sub(TABLE) / 2)) {
                Some(entry) if index & 1 == 0 => entry.low,
                Some(entry) => entry.high,
                None => 0,
            },
        }
    }

    /// Writes a register; the message that this lets through.
    #[must_use]
    pub(crate) fn write(&mut self, offset: u64, value: u32) -> Option<Message> {
        match offset {
            INDEX => self.index = value as u8,
            DATA if self.index == ID => self.id = value & ID_BITS,
            DATA if self.index >= TABLE => return self.write_entry(self.index - TABLE, value),
            _ => {}
        }
        None
    }

    fn write_entry(&mut self, number: u8, value: u32) -> Option<Message> {
        let pin = number / 2;
        let entry = self.entries.get_mut(usize::from(pin))?;
        if number & 1 != 0 {
            entry.high = value & HIGH_BITS;
            return None;
        }
        entry.low = value & LOW_BITS | entry.low & REMOTE_IRR;
        if value & LEVEL == 0 {
            // A switch to edge clears it: the known way to get rid of a stuck one.
            entry.low &= !REMOTE_IRR;
        }
        self.serve_level(pin)
    }
}

#[cfg(test)]
mod tests {
    use super::{DATA, INDEX, IoApic, REMOTE_IRR};
    use crate::message::{LEVEL, MASKED, Message};

    fn set(ioapic: &mut IoApic, pin: u8, low: u32) -> Option<Message> {
        assert_eq!(ioapic.write(INDEX, u32::from(0x10 + 2 * pin)), None);
        ioapic.write(DATA, low)
    }

    #[test]
    fn edges_are_sent_once_and_lost_while_masked() {
        let mut ioapic = IoApic::new();
        assert_eq!(ioapic.set_line(4, true), None);
        assert_eq!(set(&mut ioapic, 4, 0x34), None);
        assert_eq!(ioapic.set_line(4, true), None);
        assert_eq!(ioapic.set_line(4, false), None);
        assert_eq!(ioapic.set_line(4, true).map(|message| message.vector), Some(0x34));
    }

    #[test]
    fn a_level_comes_again_after_eoi() {
        let mut ioapic = IoApic::new();
        assert_eq!(ioapic.set_line(9, true), None);
        assert!(set(&mut ioapic, 9, LEVEL | 0x59).is_some());
        assert_eq!(ioapic.read(DATA), LEVEL | REMOTE_IRR | 0x59);
        assert_eq!(ioapic.set_line(9, true), None);
        let mut again = 0;
        ioapic.end_of_interrupt(0x59, &mut |_| again += 1);
        assert_eq!(again, 1);
        assert_eq!(ioapic.set_line(9, false), None);
        ioapic.end_of_interrupt(0x59, &mut |_| again += 1);
        assert_eq!((again, ioapic.read(DATA)), (1, LEVEL | 0x59));
    }

    #[test]
    fn registers_that_do_not_exist() {
        let mut ioapic = IoApic::new();
        assert_eq!(set(&mut ioapic, 24, 0), None);
        assert_eq!(ioapic.read(DATA), 0);
        assert_eq!(set(&mut ioapic, 0, MASKED), None);
        let _ = ioapic.write(INDEX, 1);
        assert_eq!(ioapic.read(DATA), 0x0017_0011);
        assert_eq!(ioapic.set_line(24, true), None);
    }
}
