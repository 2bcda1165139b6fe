//! COM1: a 16550A UART (National Semiconductor PC16550D) at 0x3f8, IRQ 4.
//!
//! Transmission takes no time, so THRE and TEMT read 1 unless the host is behind with what the guest
//! wrote. Received bytes wait in the host's queue and enter the UART only when the guest listens: it has
//! set IER.RDI, or it polls, which is [`POLLS`] reads of LSR in a row with IER 0. A driver's start-up
//! clears the FIFOs and reads RBR; a byte that came in before would be lost. For the same reason bytes
//! that the guest clears from its FIFO unread go back to the queue: they come in a little later. A driver
//! that has raised RTS and lowers it again, as Linux does with CRTSCTS when its own buffers are full, gets
//! nothing until it raises it.

use alloc::collections::VecDeque;
use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// First port.
pub(crate) const BASE: u16 = 0x3f8;
/// The port after the last.
pub(crate) const END: u16 = BASE + 8;
/// ISA interrupt line.
pub(crate) const IRQ: u8 = 4;

/// Reads of LSR in a row, without another access, that make a polling guest.
pub(crate) const POLLS: u32 = 64;
/// Bytes of host input that wait at most.
const INPUT_MAX: usize = 4096;
/// Bytes of output that wait for the host at most; then THRE reads 0.
const OUTPUT_MAX: usize = 64 * 1024;
const FIFO: usize = 16;

bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Ier: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMIT_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Mcr: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        /// Enables the interrupt line, on a PC.
        const OUT2 = 1 << 3;
        const LOOP = 1 << 4;
    }
}

const LCR_DLAB: u8 = 1 << 7;
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RX: u8 = 1 << 1;
const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_EMPTY: u8 = 1 << 5 | 1 << 6;
const IIR_NONE: u8 = 1;
const IIR_LINE: u8 = 6;
const IIR_DATA: u8 = 4;
const IIR_TIMEOUT: u8 = 0xc;
const IIR_EMPTY: u8 = 2;
const IIR_FIFO: u8 = 0xc0;
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// The UART and both queues of its host side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Serial {
    ier: Ier,
    lcr: u8,
    mcr: Mcr,
    scratch: u8,
    divisor: [u8; 2],
    fcr: u8,
    overrun: bool,
    /// THR has become empty, and the guest has not been told.
    empty_event: bool,
    /// The guest has raised RTS: when it falls, the guest wants a pause.
    rts_seen: bool,
    /// LSR reads in a row; once a poller, the guest stays one until it sets the UART up anew.
    polls: u32,
    rx: VecDeque<u8>,
    input: VecDeque<u8>,
    output: VecDeque<u8>,
}

impl Serial {
    pub(crate) fn new() -> Self {
        Self {
            ier: Ier::empty(),
            lcr: 3,
            mcr: Mcr::empty(),
            scratch: 0,
            divisor: [1, 0],
            fcr: 0,
            overrun: false,
            empty_event: false,
            rts_seen: false,
            polls: 0,
            rx: VecDeque::new(),
            input: VecDeque::new(),
            output: VecDeque::new(),
        }
    }

    pub(crate) fn read(&mut self, offset: u16) -> u8 {
        if offset == 5 {
            self.count_poll();
        } else if self.polls < POLLS {
            self.polls = 0;
        }
        let value = match offset {
            0 | 1 if self.lcr & LCR_DLAB != 0 => self.divisor[usize::from(offset)],
            0 => self.rx.pop_front().unwrap_or(0),
            1 => self.ier.bits(),
            2 => self.take_iir(),
            3 => self.lcr,
            4 => self.mcr.bits(),
            5 => self.take_lsr(),
            6 => self.msr(),
            _ => self.scratch,
        };
        self.feed();
        value
    }

    pub(crate) fn write(&mut self, offset: u16, value: u8) {
        if offset != 0 || self.polls < POLLS {
            self.polls = 0;
        }
        match offset {
            0 | 1 if self.lcr & LCR_DLAB != 0 => self.divisor[usize::from(offset)] = value,
            0 => self.transmit(value),
            1 => {
                let ier = Ier::from_bits_truncate(value);
                self.empty_event |= (ier - self.ier).contains(Ier::TRANSMIT_EMPTY);
                self.ier = ier;
            }
            2 => self.set_fcr(value),
            3 => self.lcr = value,
            4 => self.set_mcr(Mcr::from_bits_truncate(value)),
            7 => self.scratch = value,
            _ => {}
        }
        self.feed();
    }

    /// The level of the interrupt line.
    pub(crate) fn line(&self) -> bool {
        self.mcr.contains(Mcr::OUT2) && !self.looped() && self.cause() != IIR_NONE
    }

    /// Bytes of input that fit.
    pub(crate) fn room(&self) -> usize {
        INPUT_MAX.saturating_sub(self.input.len())
    }

    /// Takes what fits; returns how many bytes that is.
    pub(crate) fn input(&mut self, bytes: &[u8]) -> usize {
        let accepted = bytes.len().min(self.room());
        self.input.extend(bytes.iter().take(accepted));
        self.feed();
        accepted
    }

    /// Hands out what the guest wrote.
    pub(crate) fn output(&mut self, sink: &mut dyn FnMut(&[u8])) {
        let (first, second) = self.output.as_slices();
        for part in [first, second] {
            if !part.is_empty() {
                sink(part);
            }
        }
        // The transmitter is empty again: a driver that found it full waits for this interrupt.
        self.empty_event |= self.output.len() >= OUTPUT_MAX;
        self.output.clear();
    }

    fn looped(&self) -> bool {
        self.mcr.contains(Mcr::LOOP)
    }

    fn depth(&self) -> usize {
        if self.fcr & FCR_ENABLE != 0 { FIFO } else { 1 }
    }

    fn count_poll(&mut self) {
        // A guest that waits for a slow host to take its output does not wait for input.
        if self.ier.is_empty() && self.output.len() < OUTPUT_MAX {
            self.polls = self.polls.saturating_add(1);
        }
    }

    /// Whether the guest would see a byte that comes in now.
    fn listens(&self) -> bool {
        if self.looped() {
            return false;
        }
        if self.ier.contains(Ier::RECEIVED) {
            return self.mcr.contains(Mcr::RTS) || !self.rts_seen;
        }
        self.ier.is_empty() && self.polls >= POLLS
    }

    fn feed(&mut self) {
        if !self.listens() {
            return;
        }
        while self.rx.len() < self.depth() {
            let Some(byte) = self.input.pop_front() else { return };
            self.rx.push_back(byte);
        }
    }

    fn transmit(&mut self, byte: u8) {
        if !self.looped() && self.output.len() < OUTPUT_MAX {
            self.output.push_back(byte);
        }
        self.empty_event = self.output.len() < OUTPUT_MAX;
        if !self.looped() {
            return;
        }
        if self.rx.len() < self.depth() {
            self.rx.push_back(byte);
        } else {
            self.overrun = true;
        }
    }

    fn set_mcr(&mut self, mcr: Mcr) {
        if (self.mcr ^ mcr).contains(Mcr::LOOP) {
            self.clear_rx();
        }
        // In loop-back the outputs stay inactive, whatever MCR says.
        self.rts_seen |= mcr.contains(Mcr::RTS) && !mcr.contains(Mcr::LOOP);
        self.mcr = mcr;
    }

    /// Empties the receiver. In loop-back all of it is the guest's own; otherwise all came from the queue,
    /// so that the queue never grows by more than it gave.
    fn clear_rx(&mut self) {
        while let Some(byte) = self.rx.pop_back() {
            if !self.looped() {
                self.input.push_front(byte);
            }
        }
    }

    fn set_fcr(&mut self, value: u8) {
        let toggled = (self.fcr ^ value) & FCR_ENABLE != 0;
        if toggled || value & (FCR_ENABLE | FCR_CLEAR_RX) == FCR_ENABLE | FCR_CLEAR_RX {
            self.clear_rx();
        }
        self.fcr = if value & FCR_ENABLE != 0 { value & 0xc1 } else { 0 };
    }

    /// Bytes that raise the received-data interrupt.
    fn trigger(&self) -> usize {
        if self.fcr & FCR_ENABLE == 0 { 1 } else { [1, 4, 8, 14][usize::from(self.fcr >> 6)] }
    }

    /// The most urgent cause (PC16550D table III).
    fn cause(&self) -> u8 {
        if self.ier.contains(Ier::LINE_STATUS) && self.overrun {
            IIR_LINE
        } else if self.ier.contains(Ier::RECEIVED) && self.rx.len() >= self.trigger() {
            IIR_DATA
        } else if self.ier.contains(Ier::RECEIVED) && !self.rx.is_empty() {
            IIR_TIMEOUT
        } else if self.ier.contains(Ier::TRANSMIT_EMPTY) && self.empty_event {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn take_iir(&mut self) -> u8 {
        let cause = self.cause();
        if cause == IIR_EMPTY {
            self.empty_event = false;
        }
        cause | if self.fcr & FCR_ENABLE != 0 { IIR_FIFO } else { 0 }
    }

    fn take_lsr(&mut self) -> u8 {
        self.feed();
        let mut value = if self.output.len() < OUTPUT_MAX { LSR_EMPTY } else { 0 };
        if !self.rx.is_empty() {
            value |= LSR_DATA;
        }
        if core::mem::take(&mut self.overrun) {
            value |= LSR_OVERRUN;
        }
        value
    }

    /// A terminal that is there; in loop-back MCR's outputs are MSR's inputs.
    fn msr(&self) -> u8 {
        if !self.looped() {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        let wires = [(Mcr::RTS, MSR_CTS), (Mcr::DTR, MSR_DSR), (Mcr::OUT1, MSR_RI), (Mcr::OUT2, MSR_DCD)];
        wires.iter().filter(|(out, _)| self.mcr.contains(*out)).fold(0, |bits, (_, bit)| bits | bit)
    }
}

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;
