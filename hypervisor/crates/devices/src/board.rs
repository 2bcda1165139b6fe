//! The board: which device answers which port, address or MSR, and what an access asks of the host.
//!
//! ISA devices are 8 bits wide: a wider access to them is one access to each port in turn. Ports where
//! nothing is read all ones and ignore writes.

use crate::balloon::{self, Balloon, BalloonState, Work};
use crate::interrupts::Interrupts;
use crate::lapic::Startup;
use crate::pic;
use crate::pit::{self, Pit};
use crate::pm::{self, Pm, Power};
use crate::rtc::{self, Rtc};
use crate::serial::{self, Serial};
use crate::testdev::{self, Facts, TestDevice};
use crate::virtual_apic::Loan;
use crate::{GeneralProtection, Ticks};
use addr::Gpa;
use serde::{Deserialize, Serialize};

/// A virtual processor, by number; its APIC ID is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u32);

/// What a board is built from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Processors, at least 1.
    pub vcpus: u32,
    /// Frequency of the guest's time-stamp counter.
    pub tsc_hz: u64,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// The guest-physical address after the last byte of RAM, as fw_cfg tells it.
    pub ram_end: u64,
    /// Time of day at tick 0, in seconds since 1970 UTC.
    pub boot_seconds: u64,
    /// Fewest ticks between two interrupts of a periodic timer. Shorter rounds are counted, but merged: a guest that
    /// is interrupted again before it gets on would never end, and its host with it. Some exits of the machine.
    pub shortest_period: u64,
    /// There is a balloon, which is to hold so many pages of 4 KiB.
    pub balloon: Option<u32>,
}

/// What a guest's access asks of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// End the guest with this code.
    Exit(u32),
    /// The guest has switched itself off.
    PowerOff,
    /// The guest has reset itself.
    Reset,
    /// mprotect(NONE) and back on the page that holds the address.
    ProtectPage(Gpa),
    /// The balloon has to be served ([`Board::lend_balloon`]).
    Balloon,
}

const RESET_CONTROL: u16 = 0xcf9;
/// Reset CPU, on its rising edge in the reset control register.
const RESET_CPU: u8 = 1 << 2;
const PORT_92: u16 = 0x92;
const PORT_92_RESET: u8 = 1 << 0;
const PORT_92_A20: u8 = 1 << 1;
const KEYBOARD_COMMAND: u16 = 0x64;
/// The keyboard controller's command that pulses the reset line.
const PULSE_RESET: u8 = 0xfe;
/// IRQ line of the timer.
const PIT_IRQ: u8 = 0;
/// The UART's interrupt line among all lines.
const SERIAL_LINE: u32 = 1 << serial::IRQ;
/// The balloon's.
const BALLOON_LINE: u32 = 1 << balloon::IRQ;

/// All devices of a guest. Saved and loaded it is what it was: time is the guest's own time-stamp counter (`docs/snapshots.md`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Board {
    interrupts: Interrupts,
    pit: Pit,
    rtc: Rtc,
    serial: Serial,
    pm: Pm,
    test: TestDevice,
    balloon: Option<Balloon>,
    /// Levels of the interrupt lines, a bit each.
    lines: u32,
    reset_control: u8,
    /// Somebody has set the PIT, whose deadline is the first processor's.
    pit_set: bool,
}

/// The processor that fires the timers which are no processor's own.
const BOOT: VcpuId = VcpuId(0);

impl Board {
    /// The devices as a BIOS leaves them.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let facts = Facts { vcpus: config.vcpus, ram_bytes: config.ram_bytes, ram_end: config.ram_end };
        Self {
            interrupts: Interrupts::new(config.vcpus, config.shortest_period),
            pit: Pit::new(config.tsc_hz, config.shortest_period),
            rtc: Rtc::new(config.tsc_hz, config.boot_seconds, config.ram_bytes),
            serial: Serial::new(),
            pm: Pm::new(config.tsc_hz),
            test: TestDevice::new(facts),
            balloon: config.balloon.map(Balloon::new),
            lines: 0,
            reset_control: 0,
            pit_set: false,
        }
    }

    /// IN of `width` bytes (1, 2 or 4). The upper bits of the result are 0.
    #[must_use]
    pub fn port_read(&mut self, port: u16, width: u8, now: Ticks) -> u32 {
        let mut bytes = [0; 4];
        for (offset, byte) in (0..).zip(bytes.iter_mut().take(usize::from(width))) {
            *byte = port.checked_add(offset).map_or(0xff, |port| self.read_byte(port, now));
        }
        self.update_lines();
        u32::from_le_bytes(bytes)
    }

    fn read_byte(&mut self, port: u16, now: Ticks) -> u8 {
        match port {
            pic::MASTER..=0x21 | pic::SLAVE..=0xa1 | pic::ELCR..=pic::ELCR_SLAVE => {
                self.interrupts.pic.read(port)
            }
            pit::BASE..=0x43 => self.pit.read(port, now),
            pit::SPEAKER => self.pit.read_speaker(now),
            rtc::DATA => self.rtc.read(now),
            PORT_92 => PORT_92_A20,
            serial::BASE..serial::END => self.serial.read(port - serial::BASE),
            testdev::FW_CFG_DATA => self.test.read_data(),
            pm::EVENT..pm::END => self.pm.read(port, now),
            RESET_CONTROL => self.reset_control,
            _ if TestDevice::is_scratch(port) => self.test.read_scratch(port),
            _ => 0xff,
        }
    }

    /// OUT of `width` bytes (1, 2 or 4).
    pub fn port_write(&mut self, port: u16, width: u8, value: u32, now: Ticks) -> Effect {
        let effect = match (port, width) {
            (abi::testdev::EXIT, _) => Effect::Exit(low_bytes(value, width)),
            (abi::testdev::PROTECT, 4) => Effect::ProtectPage(Gpa::new(u64::from(value))),
            (testdev::FW_CFG_SELECTOR, 2) => {
                self.test.select(value as u16);
                Effect::None
            }
            _ => self.write_bytes(port, width, value, now),
        };
        self.update_lines();
        effect
    }

    fn write_bytes(&mut self, port: u16, width: u8, value: u32, now: Ticks) -> Effect {
        if let Some(line) = TestDevice::line_of(port) {
            self.test.set_line(line, low_bytes(value, width) != 0);
            return Effect::None;
        }
        // The PCI host bridge, which a guest may look for here, takes 32 bits whole.
        if width == 4 && port & !3 == RESET_CONTROL & !3 {
            return Effect::None;
        }
        for (offset, byte) in (0..).zip(value.to_le_bytes().into_iter().take(usize::from(width))) {
            let Some(port) = port.checked_add(offset) else { break };
            let effect = self.write_byte(port, byte, now);
            if effect != Effect::None {
                return effect;
            }
        }
        Effect::None
    }

    fn write_byte(&mut self, port: u16, value: u8, now: Ticks) -> Effect {
        match port {
            pic::MASTER..=0x21 | pic::SLAVE..=0xa1 | pic::ELCR..=pic::ELCR_SLAVE => {
                self.interrupts.pic.write(port, value)
            }
            pit::BASE..=0x43 => {
                self.pit.write(port, value, now);
                self.pit_set = true;
            }
            pit::SPEAKER => self.pit.write_speaker(value, now),
            rtc::INDEX => self.rtc.select(value),
            rtc::DATA => self.rtc.write(value),
            serial::BASE..serial::END => self.serial.write(port - serial::BASE, value),
            pm::EVENT..pm::END if self.pm.write(port, value) == Power::Off => return Effect::PowerOff,
            KEYBOARD_COMMAND if value == PULSE_RESET => return Effect::Reset,
            PORT_92 if value & PORT_92_RESET != 0 => return Effect::Reset,
            RESET_CONTROL => {
                let rises = value & !self.reset_control & RESET_CPU != 0;
                self.reset_control = value & !RESET_CPU;
                if rises {
                    return Effect::Reset;
                }
            }
            _ if TestDevice::is_scratch(port) => self.test.write_scratch(port, value),
            _ => {}
        }
        Effect::None
    }

    /// A load of `width` bytes (1, 2, 4 or 8); `None` where no device is.
    #[must_use]
    pub fn mmio_read(&mut self, vcpu: VcpuId, gpa: Gpa, width: u8, now: Ticks) -> Option<u64> {
        let aligned = gpa.as_u64() & !3;
        if let Some(value) = self.interrupts.mmio_read(vcpu, aligned, now) {
            let value = value >> ((gpa.as_u64() & 3) * 8);
            return Some(u64::from(low_bytes(value, width)));
        }
        Some(self.balloon.as_ref()?.read(balloon_offset(gpa)?, width))
    }

    /// A store of `width` bytes (1, 2, 4 or 8); `None` where no device is. The APICs take aligned 32-bit
    /// stores; what other stores do is undefined (SDM vol. 3A 11.4.1), and here it is that of the low bytes.
    pub fn mmio_write(
        &mut self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: u8,
        value: u64,
        now: Ticks,
    ) -> Option<Effect> {
        let value = low_bytes(value as u32, width);
        if self.interrupts.mmio_write(vcpu, gpa.as_u64(), value, now).is_some() {
            return Some(Effect::None);
        }
        let waits = self.balloon.as_mut()?.write(balloon_offset(gpa)?, width, value);
        self.update_lines();
        Some(if waits { Effect::Balloon } else { Effect::None })
    }

    /// Lends what the balloon has to do, if it has, and nobody does it. Whoever gets it performs it and returns it, and asks
    /// again.
    #[must_use]
    pub fn lend_balloon(&mut self) -> Option<Work> {
        self.balloon.as_mut()?.lend()
    }

    /// Takes back what [`Self::lend_balloon`] has lent.
    pub fn return_balloon(&mut self, work: &Work) {
        if let Some(balloon) = &mut self.balloon {
            balloon.give_back(work);
        }
        self.update_lines();
    }

    /// What the balloon is like; all zeros where there is none.
    #[must_use]
    pub fn balloon_state(&self) -> BalloonState {
        self.balloon.as_ref().map(Balloon::state).unwrap_or_default()
    }

    /// RDMSR of 0x1b, 0x6e0 or 0x800-0x8ff.
    ///
    /// # Errors
    /// [`GeneralProtection`]: the guest gets #GP(0).
    pub fn msr_read(&mut self, vcpu: VcpuId, msr: u32, now: Ticks) -> Result<u64, GeneralProtection> {
        self.interrupts.msr_read(vcpu, msr, now)
    }

    /// WRMSR of 0x1b, 0x6e0 or 0x800-0x8ff.
    ///
    /// # Errors
    /// [`GeneralProtection`]: the guest gets #GP(0).
    pub fn msr_write(
        &mut self,
        vcpu: VcpuId,
        msr: u32,
        value: u64,
        now: Ticks,
    ) -> Result<Effect, GeneralProtection> {
        self.interrupts.msr_write(vcpu, msr, value, now)?;
        Ok(Effect::None)
    }

    /// CR8, 0 to 15.
    #[must_use]
    pub fn tpr(&self, vcpu: VcpuId) -> u8 {
        self.interrupts.tpr(vcpu)
    }

    /// Writes CR8; only the low 4 bits count.
    pub fn set_tpr(&mut self, vcpu: VcpuId, cr8: u8) {
        self.interrupts.set_tpr(vcpu, cr8);
    }

    /// Lends a local APIC to the processor, which then delivers its interrupts by itself; asked again before each entry that
    /// follows news. `None`: the model delivers them, since the guest uses it in xAPIC mode, or not at all.
    pub fn lend_apic(&mut self, vcpu: VcpuId) -> Option<Loan> {
        self.interrupts.lend(vcpu)
    }

    /// The processor has ended an interrupt of a local APIC that is on loan to it.
    pub fn end_of_interrupt(&mut self, vcpu: VcpuId, vector: u8) {
        self.interrupts.ended(vcpu, vector);
    }

    /// Fires the timers that are due.
    pub fn advance(&mut self, now: Ticks) {
        if self.pit.take_edge(now) {
            self.interrupts.set_irq(PIT_IRQ, false);
            self.interrupts.set_irq(PIT_IRQ, true);
        }
        self.interrupts.advance(now);
    }

    /// When the next timer is due that this processor has to fire: its own, and the first one's also the board's.
    #[must_use]
    pub fn next_deadline(&self, vcpu: VcpuId) -> Option<Ticks> {
        let board = self.pit.deadline().filter(|_| vcpu == BOOT);
        [board, self.interrupts.deadline(vcpu)].into_iter().flatten().min()
    }

    /// The processors that have to look here, a bit each: a message has come for them since the last call, or their next
    /// deadline may be another. Whatever a processor does itself to its own local APIC is not told.
    #[must_use]
    pub fn take_news(&mut self) -> u64 {
        self.interrupts.take_news() | u64::from(core::mem::take(&mut self.pit_set)) << BOOT.0
    }

    /// The vector that the processor would get now, but for those of an APIC that is on loan; nothing changes.
    #[must_use]
    pub fn pending_interrupt(&self, vcpu: VcpuId) -> Option<u8> {
        self.interrupts.pending(vcpu)
    }

    /// Takes the pending interrupt: it is in service from now on.
    #[must_use]
    pub fn acknowledge(&mut self, vcpu: VcpuId) -> Option<u8> {
        self.interrupts.acknowledge(vcpu)
    }

    /// Whether an NMI waits.
    #[must_use]
    pub fn has_nmi(&self, vcpu: VcpuId) -> bool {
        self.interrupts.has_nmi(vcpu)
    }

    /// Takes an NMI, if one waits.
    #[must_use]
    pub fn take_nmi(&mut self, vcpu: VcpuId) -> bool {
        self.interrupts.take_nmi(vcpu)
    }

    /// Input for the guest's console. Returns how many bytes were taken; the rest has to wait.
    #[must_use]
    pub fn console_input(&mut self, bytes: &[u8]) -> usize {
        let accepted = self.serial.input(bytes);
        self.update_lines();
        accepted
    }

    /// Takes an INIT or start-up message from another processor (or itself), in the order of their coming.
    #[must_use]
    pub fn take_startup(&mut self, vcpu: VcpuId) -> Option<Startup> {
        self.interrupts.take_startup(vcpu)
    }

    /// Bytes of input that would be taken now.
    #[must_use]
    pub fn console_room(&self) -> usize {
        self.serial.room()
    }

    /// Hands out what the guest has written to its console since the last call. Without calls the guest's
    /// UART fills up, after 64 KiB, and says so to the guest.
    pub fn console_output(&mut self, sink: &mut dyn FnMut(&[u8])) {
        self.serial.output(sink);
        self.update_lines();
    }

    fn update_lines(&mut self) {
        let serial = if self.serial.line() { SERIAL_LINE } else { 0 };
        let balloon = if self.balloon.as_ref().is_some_and(Balloon::line) { BALLOON_LINE } else { 0 };
        let lines = serial | balloon | self.test.lines();
        let mut changed = lines ^ self.lines;
        self.lines = lines;
        while changed != 0 {
            let line = changed.trailing_zeros() as u8;
            changed &= changed - 1;
            self.interrupts.set_irq(line, lines >> line & 1 != 0);
        }
    }
}

/// Where in the balloon's registers an address lies.
fn balloon_offset(gpa: Gpa) -> Option<u64> {
    gpa.as_u64().checked_sub(balloon::BASE).filter(|offset| *offset < balloon::BYTES)
}

/// The low `width` bytes of a value.
fn low_bytes(value: u32, width: u8) -> u32 {
    match width {
        0 => 0,
        1..4 => value & ((1 << (8 * width)) - 1),
        _ => value,
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
