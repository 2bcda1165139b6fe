//! The two 8259A interrupt controllers of a PC: master at 0x20 and 0x21, slave at 0xa0 and 0xa1 on the
//! master's input 2, and the edge/level registers ELCR at 0x4d0 and 0x4d1 (Intel 8259A data sheet; 82371AB
//! section 4.2 for ELCR).

use serde::{Deserialize, Serialize};

/// First of the master's two ports.
pub(crate) const MASTER: u16 = 0x20;
/// First of the slave's two ports.
pub(crate) const SLAVE: u16 = 0xa0;
/// The master's ELCR.
pub(crate) const ELCR: u16 = 0x4d0;
/// The slave's ELCR.
pub(crate) const ELCR_SLAVE: u16 = 0x4d1;

/// The slave's output.
const CASCADE: u8 = 2;
/// What an acknowledge without a request gives.
const SPURIOUS: u8 = 7;

const ICW1: u8 = 1 << 4;
const ICW1_ICW4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const OCW3: u8 = 1 << 3;

/// What the next write to the odd port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expects {
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Chip {
    irr: u8,
    imr: u8,
    isr: u8,
    /// Levels of the inputs.
    lines: u8,
    elcr: u8,
    /// Inputs that may be level-triggered.
    elcr_mask: u8,
    base: u8,
    /// The input of highest priority.
    first: u8,
    expects: Expects,
    icw1: u8,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    const fn new(base: u8, elcr_mask: u8) -> Self {
        Self {
            irr: 0,
            imr: 0xff,
            isr: 0,
            lines: 0,
            elcr: 0,
            elcr_mask,
            base,
            first: 0,
            expects: Expects::Mask,
            icw1: ICW1_ICW4,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            read_isr: false,
            poll: false,
        }
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << (input & 7);
        let was = self.lines & bit != 0;
        if level {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if !level {
            // An edge stays requested; on the chip it would become the spurious interrupt 7.
            self.irr &= !(self.elcr & bit);
        } else if !was || self.elcr & bit != 0 {
            self.irr |= bit;
        }
    }

    /// Distance from the highest priority of the most urgent bit; 8 for none.
    fn priority(&self, bits: u8) -> u8 {
        bits.rotate_right(u32::from(self.first)).trailing_zeros() as u8
    }

    /// The input that asks for the processor now: above all that is in service.
    fn request(&self) -> Option<u8> {
        let asking = self.priority(self.irr & !self.imr);
        let served = self.priority(if self.special_mask { self.isr & !self.imr } else { self.isr });
        (asking < served).then(|| (asking + self.first) & 7)
    }

    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.elcr & bit == 0 || self.lines & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.first = (input + 1) & 7;
        }
    }

    fn end(&mut self, input: u8) {
        self.isr &= !(1 << input);
        // A level that is still there asks again.
        self.irr |= self.lines & self.elcr;
    }

    fn command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            let (lines, elcr) = (self.lines, self.elcr);
            *self = Self { lines, elcr, icw1: value, ..Self::new(self.base, self.elcr_mask) };
            self.imr = 0;
            self.irr = lines & elcr;
            self.expects = Expects::Icw2;
        } else if value & OCW3 != 0 {
            self.poll = value & 4 != 0;
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.ocw2(value >> 5, value & 7);
        }
    }

    fn ocw2(&mut self, operation: u8, input: u8) {
        let served = self.priority(self.isr);
        let highest = (served < 8).then(|| (served + self.first) & 7);
        match (operation, highest) {
            (0, _) => self.rotate_on_auto_eoi = false,
            (4, _) => self.rotate_on_auto_eoi = true,
            (1, Some(highest)) => self.end(highest),
            (5, Some(highest)) => {
                self.end(highest);
                self.first = (highest + 1) & 7;
            }
            (3, _) => self.end(input),
            (6, _) => self.first = (input + 1) & 7,
            (7, _) => {
                self.end(input);
                self.first = (input + 1) & 7;
            }
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        self.expects = match self.expects {
            Expects::Mask => {
                self.imr = value;
                Expects::Mask
            }
            Expects::Icw2 => {
                self.base = value & 0xf8;
                if self.icw1 & ICW1_SINGLE == 0 {
                    Expects::Icw3
                } else if self.icw1 & ICW1_ICW4 != 0 {
                    Expects::Icw4
                } else {
                    Expects::Mask
                }
            }
            Expects::Icw3 if self.icw1 & ICW1_ICW4 != 0 => Expects::Icw4,
            Expects::Icw3 => Expects::Mask,
            Expects::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                Expects::Mask
            }
        };
    }

    fn read(&mut self, offset: u16) -> u8 {
        if core::mem::take(&mut self.poll) {
            let Some(input) = self.request() else { return 0 };
            self.acknowledge(input);
            return 0x80 | input;
        }
        match offset {
            0 if self.read_isr => self.isr,
            0 => self.irr,
            _ => self.imr,
        }
    }
}

/// Both chips.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pic {
    master: Chip,
    slave: Chip,
}

impl Pic {
    /// As a BIOS leaves it: vectors 8 and 0x70, all inputs masked.
    pub(crate) const fn new() -> Self {
        Self { master: Chip::new(8, 0xf8), slave: Chip::new(0x70, 0xde) }
    }

    pub(crate) fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set_line(irq, level),
            8..16 => self.slave.set_line(irq - 8, level),
            _ => {}
        }
        self.cascade();
    }

    /// The vector that an acknowledge would give; `None` while INT is low.
    pub(crate) fn pending(&self) -> Option<u8> {
        let input = self.master.request()?;
        Some(if input == CASCADE {
            self.slave.base | self.slave.request().unwrap_or(SPURIOUS)
        } else {
            self.master.base | input
        })
    }

    /// The two INTA cycles: the vector of the request, which is in service now.
    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        let input = self.master.request()?;
        self.master.acknowledge(input);
        if input == CASCADE
            && let Some(input) = self.slave.request()
        {
            self.slave.acknowledge(input);
        }
        self.cascade();
        Some(vector)
    }

    pub(crate) fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            ELCR => self.master.elcr,
            ELCR_SLAVE => self.slave.elcr,
            _ => self.chip(port).read(port & 1),
        };
        self.cascade();
        value
    }

    pub(crate) fn write(&mut self, port: u16, value: u8) {
        match port {
            ELCR => self.master.elcr = value & self.master.elcr_mask,
            ELCR_SLAVE => self.slave.elcr = value & self.slave.elcr_mask,
            _ if port & 1 == 0 => self.chip(port).command(value),
            _ => self.chip(port).data(value),
        }
        self.cascade();
    }

    fn chip(&mut self, port: u16) -> &mut Chip {
        if port & 0xfffe == SLAVE { &mut self.slave } else { &mut self.master }
    }

    fn cascade(&mut self) {
        let asks = self.slave.request().is_some();
        // The slave's INT is a level that the master sees in IRR; its acknowledge does not clear it while
        // the slave has more.
        let bit = 1 << CASCADE;
        self.master.irr = if asks { self.master.irr | bit } else { self.master.irr & !bit };
    }
}

#[cfg(test)]
mod tests {
    use super::{ELCR, MASTER, Pic, SLAVE};

    fn started() -> Pic {
        let mut pic = Pic::new();
        for (port, base, cascade) in [(MASTER, 0x20, 4), (SLAVE, 0x28, 2)] {
            pic.write(port, 0x11);
            for value in [base, cascade, 1, 0] {
                pic.write(port + 1, value);
            }
        }
        pic
    }

    #[test]
    fn delivers_by_priority_and_waits_for_eoi() {
        let mut pic = started();
        for irq in [4, 0] {
            pic.set_line(irq, true);
        }
        assert_eq!(pic.pending(), Some(0x20));
        assert_eq!(pic.acknowledge(), Some(0x20));
        assert_eq!(pic.pending(), None);
        pic.write(MASTER, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x24));
        pic.write(MASTER, 0x20);
        assert_eq!(pic.acknowledge(), None, "edges come once");
    }

    #[test]
    fn the_slave_goes_through_the_cascade() {
        let mut pic = started();
        pic.set_line(9, true);
        pic.set_line(12, true);
        assert_eq!(pic.acknowledge(), Some(0x29));
        for port in [SLAVE, MASTER] {
            pic.write(port, 0x20);
        }
        assert_eq!(pic.acknowledge(), Some(0x2c));
        pic.write(SLAVE, 0x0b);
        assert_eq!(pic.read(SLAVE), 1 << 4);
    }

    #[test]
    fn masks_and_level_triggers() {
        let mut pic = started();
        pic.write(ELCR, 1 << 5);
        pic.write(MASTER + 1, 1 << 5);
        pic.set_line(5, true);
        assert_eq!(pic.pending(), None);
        pic.write(MASTER + 1, 0);
        assert_eq!(pic.acknowledge(), Some(0x25));
        pic.write(MASTER, 0x20);
        assert_eq!(pic.pending(), Some(0x25), "the level is still there");
        pic.set_line(5, false);
        assert_eq!(pic.pending(), None);
    }

    #[test]
    fn automatic_eoi_leaves_nothing_in_service() {
        let mut pic = started();
        pic.write(MASTER, 0x11);
        for value in [0x20, 4, 3] {
            pic.write(MASTER + 1, value);
        }
        for _ in 0..2 {
            pic.set_line(3, true);
            assert_eq!(pic.acknowledge(), Some(0x23));
            pic.set_line(3, false);
        }
        pic.write(MASTER, 0x0b);
        assert_eq!(pic.read(MASTER), 0);
    }

    #[test]
    fn a_specific_eoi_ends_that_one() {
        let mut pic = started();
        pic.set_line(6, true);
        assert_eq!(pic.acknowledge(), Some(0x26));
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), Some(0x21), "more urgent ones nest");
        pic.write(MASTER, 0x66);
        pic.write(MASTER, 0x0b);
        assert_eq!(pic.read(MASTER), 1 << 1);
    }

    #[test]
    fn priorities_rotate() {
        let mut pic = started();
        pic.write(MASTER, 0xc4);
        for irq in [0, 5] {
            pic.set_line(irq, true);
        }
        assert_eq!(pic.acknowledge(), Some(0x25), "input 4 has become the least urgent");
    }

    #[test]
    fn the_special_mask_lets_less_urgent_ones_through() {
        let mut pic = started();
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), Some(0x21));
        pic.set_line(5, true);
        assert_eq!(pic.pending(), None);
        pic.write(MASTER + 1, 1 << 1);
        pic.write(MASTER, 0x68);
        assert_eq!(pic.acknowledge(), Some(0x25));
    }

    #[test]
    fn polling_is_an_acknowledge() {
        let mut pic = started();
        pic.set_line(7, true);
        pic.write(MASTER, 0x0c);
        assert_eq!(pic.read(MASTER), 0x87);
        assert_eq!(pic.pending(), None);
    }

    #[test]
    fn linux_finds_its_mask() {
        let mut pic = Pic::new();
        pic.write(SLAVE + 1, 0xff);
        pic.write(MASTER + 1, 0xfb);
        assert_eq!(pic.read(MASTER + 1), 0xfb);
    }
}
