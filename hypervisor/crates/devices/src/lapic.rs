//! A local APIC (SDM vol. 3A chapter 11): one set of registers behind two doors, the xAPIC's page and the
//! x2APIC's MSRs. Register `r` is at offset `r << 4` of the page and at MSR 0x800 + `r`.
//!
//! ```text
//!              EN            EXTD
//!  disabled ◄──────► xAPIC ──────► x2APIC
//!      ▲                              │
//!      └──────────────────────────────┘   IA32_APIC_BASE (11.12.5); all else faults
//! ```
//!
//! It starts as a BIOS leaves it: enabled as xAPIC, and on the first processor LINT0 is "virtual wire",
//! the PIC's interrupt output.

use crate::GeneralProtection;
use crate::lapic_timer::{Mode, Timer};
use crate::message::{ASSERT, Delivery, Destination, LEVEL, LOWEST_VECTOR, MASKED, Message, Trigger};
use crate::time::Ticks;
use crate::vectors::Vectors;
use crate::virtual_apic::{Loan, Registers};
use serde::{Deserialize, Serialize};

/// Register numbers.
pub(crate) mod register {
    pub(crate) const ID: u8 = 0x02;
    pub(crate) const VERSION: u8 = 0x03;
    pub(crate) const TPR: u8 = 0x08;
    pub(crate) const APR: u8 = 0x09;
    pub(crate) const PPR: u8 = 0x0a;
    pub(crate) const EOI: u8 = 0x0b;
    pub(crate) const LDR: u8 = 0x0d;
    pub(crate) const DFR: u8 = 0x0e;
    pub(crate) const SVR: u8 = 0x0f;
    pub(crate) const ISR: u8 = 0x10;
    pub(crate) const TMR: u8 = 0x18;
    pub(crate) const IRR: u8 = 0x20;
    pub(crate) const ESR: u8 = 0x28;
    pub(crate) const ICR_LOW: u8 = 0x30;
    pub(crate) const ICR_HIGH: u8 = 0x31;
    pub(crate) const LVT_TIMER: u8 = 0x32;
    pub(crate) const LVT_ERROR: u8 = 0x37;
    pub(crate) const INITIAL_COUNT: u8 = 0x38;
    pub(crate) const CURRENT_COUNT: u8 = 0x39;
    pub(crate) const DIVIDE: u8 = 0x3e;
    pub(crate) const SELF_IPI: u8 = 0x3f;
}

/// Version 0x14 and six LVT entries.
const VERSION: u32 = 0x0005_0014;
const SVR_ENABLE: u32 = 1 << 8;
const SVR_BITS: u32 = 0x3ff;
const DFR_FLAT: u32 = u32::MAX;
/// Writable bits of the LVT entries: timer, thermal, performance, LINT0, LINT1, error.
const LVT_BITS: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
const LINT0: usize = 3;
const LINT1: usize = 4;
const EXT_INT: u32 = 7 << 8;
const NMI: u32 = 4 << 8;
/// ICR: vector, mode, logical, level, trigger and shorthand; not the delivery status.
const ICR_BITS: u32 = 0xc_cfff;

const BASE_BSP: u64 = 1 << 8;
const BASE_EXTD: u64 = 1 << 10;
const BASE_EN: u64 = 1 << 11;
/// Address bits of IA32_APIC_BASE.
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const BASE_START: u64 = 0xfee0_0000;

/// Bits of ESR (11.5.3).
pub(crate) mod error {
    pub(crate) const SEND_VECTOR: u32 = 1 << 5;
    pub(crate) const RECEIVE_VECTOR: u32 = 1 << 6;
    pub(crate) const REGISTER: u32 = 1 << 7;
}

/// How one processor starts another (SDM vol. 3A 9.4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup {
    /// Go to the state after INIT, and wait for a start-up message.
    Init,
    /// Begin in real mode at the start of this page, if waiting for that.
    StartUp {
        /// Guest-physical address, in units of 4 KiB; CS has 256 times it.
        page: u8,
    },
}

/// What a register write asks of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    None,
    /// Ends a level-triggered interrupt at the I/O APIC.
    EndOfInterrupt(u8),
    Send(Message),
}

/// No such register, or not for this access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRegister;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LocalApic {
    id: u32,
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    esr: u32,
    /// Errors since ESR was written last.
    errors: u32,
    icr: u32,
    icr_high: u32,
    lvt: [u32; 6],
    timer: Timer,
    nmi: bool,
    init: bool,
    /// Something has come that the processor has to look at.
    news: bool,
    /// The page that a start-up message names.
    start_up: Option<u8>,
    /// TPR and ISR are on loan, IRR has what came since (`virtual_apic`).
    lent: bool,
}

impl LocalApic {
    pub(crate) fn new(id: u32, shortest_period: u64) -> Self {
        let bsp = if id == 0 { BASE_BSP } else { 0 };
        let mut apic = Self::reset(id, BASE_START | BASE_EN | bsp, shortest_period);
        apic.svr |= SVR_ENABLE;
        apic.lvt[LINT1] = NMI;
        if id == 0 {
            apic.lvt[LINT0] = EXT_INT;
        }
        apic
    }

    /// The state after power-up (11.4.7.1).
    const fn reset(id: u32, base: u64, shortest_period: u64) -> Self {
        Self {
            id,
            base,
            tpr: 0,
            ldr: 0,
            dfr: DFR_FLAT,
            svr: 0xff,
            isr: Vectors::NONE,
            tmr: Vectors::NONE,
            irr: Vectors::NONE,
            esr: 0,
            errors: 0,
            icr: 0,
            icr_high: 0,
            lvt: [MASKED; 6],
            timer: Timer::new(shortest_period),
            nmi: false,
            init: false,
            news: false,
            start_up: None,
            lent: false,
        }
    }

    pub(crate) const fn enabled(&self) -> bool {
        self.base & BASE_EN != 0
    }

    pub(crate) const fn x2apic(&self) -> bool {
        self.base & BASE_EXTD != 0
    }

    /// The xAPIC page's address, where there is one.
    pub(crate) const fn page(&self) -> Option<u64> {
        if self.enabled() && !self.x2apic() { Some(self.base & BASE_ADDRESS) } else { None }
    }

    pub(crate) const fn base(&self) -> u64 {
        self.base
    }

    /// IA32_APIC_BASE.
    pub(crate) fn set_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        if value & !(BASE_ADDRESS | BASE_EN | BASE_EXTD | BASE_BSP) != 0 {
            return Err(GeneralProtection);
        }
        const MODE: u64 = BASE_EN | BASE_EXTD;
        match (self.base & MODE, value & MODE) {
            (_, BASE_EXTD) | (0, MODE) | (MODE, BASE_EN) => return Err(GeneralProtection),
            (_, 0) => *self = Self::reset(self.id, value, self.timer.shortest_period()),
            (BASE_EN, MODE) => (self.icr, self.icr_high) = (0, 0),
            _ => {}
        }
        self.base = value;
        Ok(())
    }

    pub(crate) const fn tpr(&self) -> u8 {
        self.tpr
    }

    pub(crate) fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
    }

    pub(crate) const fn timer(&self) -> &Timer {
        &self.timer
    }

    pub(crate) fn timer_mut(&mut self) -> &mut Timer {
        &mut self.timer
    }

    /// Fires the timer if it is due.
    pub(crate) fn advance(&mut self, now: Ticks) {
        if self.timer.take_expiry(now) {
            self.local(self.lvt[0]);
        }
    }

    /// Takes the interrupt that an LVT entry describes.
    fn local(&mut self, lvt: u32) {
        if lvt & MASKED == 0 {
            self.accept(Message::of(lvt & 0x7ff, Destination::Physical(self.id)));
        }
    }

    /// A message that is for this APIC.
    pub(crate) fn accept(&mut self, message: Message) {
        if !self.enabled() {
            return;
        }
        self.news = true;
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => self.accept_vector(message),
            Delivery::Nmi => self.nmi = true,
            Delivery::Init => (self.init, self.start_up) = (true, None),
            Delivery::StartUp => self.start_up = Some(message.vector),
            Delivery::ExtInt | Delivery::Other => {}
        }
    }

    fn accept_vector(&mut self, message: Message) {
        if self.svr & SVR_ENABLE == 0 {
            return;
        }
        if message.vector < LOWEST_VECTOR {
            self.raise_error(error::RECEIVE_VECTOR);
            return;
        }
        self.irr.set(message.vector);
        match message.trigger {
            Trigger::Level => self.tmr.set(message.vector),
            Trigger::Edge => self.tmr.clear(message.vector),
        }
    }

    pub(crate) fn raise_error(&mut self, bits: u32) {
        let news = bits & !self.errors != 0;
        self.errors |= bits;
        let lvt = self.lvt[usize::from(register::LVT_ERROR - register::LVT_TIMER)];
        // An illegal vector in the error entry itself would be an error again, and again.
        if news && (lvt as u8) >= LOWEST_VECTOR {
            self.local(lvt);
        }
    }

    /// Whether a message has come since the last call.
    pub(crate) fn take_news(&mut self) -> bool {
        core::mem::take(&mut self.news)
    }

    pub(crate) const fn has_nmi(&self) -> bool {
        self.nmi
    }

    pub(crate) fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }

    /// The next step of a start by another processor. INIT resets this APIC but for its base (11.4.7.3).
    pub(crate) fn take_startup(&mut self) -> Option<Startup> {
        if self.init {
            *self = Self {
                start_up: self.start_up,
                ..Self::reset(self.id, self.base, self.timer.shortest_period())
            };
            return Some(Startup::Init);
        }
        self.start_up.take().map(|page| Startup::StartUp { page })
    }

    /// Processor priority (11.8.3.1).
    pub(crate) fn ppr(&self) -> u8 {
        let served = self.isr.highest().unwrap_or(0);
        if self.tpr & 0xf0 >= served & 0xf0 { self.tpr } else { served & 0xf0 }
    }

    /// The vector that the processor would take; none of an APIC that is on loan.
    pub(crate) fn pending(&self) -> Option<u8> {
        let ppr = self.ppr();
        self.irr.highest().filter(|vector| self.enabled() && !self.lent && vector & 0xf0 > ppr & 0xf0)
    }

    /// Lends it to a processor that delivers its interrupts by itself, if it is in x2APIC mode, or goes on doing so. The loan
    /// ends with the mode, or by INIT.
    pub(crate) fn lend(&mut self) -> Option<Loan> {
        if !self.x2apic() {
            return None;
        }
        let begins = !core::mem::replace(&mut self.lent, true);
        let begins = begins.then_some(Registers { tpr: self.tpr, isr: self.isr });
        Some(Loan { begins, came: core::mem::replace(&mut self.irr, Vectors::NONE), level: self.tmr })
    }

    /// An interrupt has been ended: whom that concerns.
    pub(crate) fn ended(&self, vector: u8) -> Action {
        if self.tmr.has(vector) { Action::EndOfInterrupt(vector) } else { Action::None }
    }

    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.irr.clear(vector);
        self.isr.set(vector);
        Some(vector)
    }

    /// Whether the PIC's output at LINT0 reaches the processor.
    pub(crate) const fn takes_pic(&self) -> bool {
        !self.enabled() || self.lvt[LINT0] & (MASKED | EXT_INT) == EXT_INT
    }

    /// Whether a message is for this APIC (11.6.2).
    pub(crate) fn is_for(&self, destination: Destination) -> bool {
        match destination {
            Destination::All => true,
            Destination::AllBut(sender) => sender != self.id,
            Destination::Physical(id) => id == self.id,
            Destination::Logical(set) if self.x2apic() => {
                let own = self.ldr();
                (set >> 16 == own >> 16 || set == u32::MAX) && set & own & 0xffff != 0
            }
            Destination::Logical(set) => {
                let own = self.ldr >> 24;
                if self.dfr >> 28 == 0xf {
                    set & own & 0xff != 0
                } else {
                    let cluster = set >> 4 & 0xf;
                    (cluster == own >> 4 || cluster == 0xf) && set & own & 0xf != 0
                }
            }
        }
    }

    fn ldr(&self) -> u32 {
        if self.x2apic() { self.id >> 4 << 16 | 1 << (self.id & 15) } else { self.ldr }
    }

    /// A register's low 32 bits.
    pub(crate) fn read(&self, number: u8, now: Ticks) -> Result<u32, NoRegister> {
        Ok(match number {
            register::ID if self.x2apic() => self.id,
            register::ID => self.id << 24,
            register::VERSION => VERSION,
            register::TPR => u32::from(self.tpr),
            register::APR if !self.x2apic() => 0,
            register::PPR => u32::from(self.ppr()),
            register::LDR => self.ldr(),
            register::DFR if !self.x2apic() => self.dfr,
            register::SVR => self.svr,
            register::ISR..0x18 => self.isr.word(number - register::ISR),
            register::TMR..0x20 => self.tmr.word(number - register::TMR),
            register::IRR..0x28 => self.irr.word(number - register::IRR),
            register::ESR => self.esr,
            register::ICR_LOW => self.icr,
            register::ICR_HIGH if !self.x2apic() => self.icr_high,
            register::LVT_TIMER..=register::LVT_ERROR => self.lvt[usize::from(number - register::LVT_TIMER)],
            register::INITIAL_COUNT => self.timer.initial(),
            register::CURRENT_COUNT => self.timer.current(now),
            register::DIVIDE => self.timer.divide(),
            _ => return Err(NoRegister),
        })
    }

    /// ICR's upper half.
    pub(crate) const fn icr_high(&self) -> u32 {
        self.icr_high
    }

    /// Sets ICR's upper half, before a write of the lower sends.
    pub(crate) fn set_icr_high(&mut self, destination: u32) {
        self.icr_high = destination;
    }

    /// Bits of a register that may be written in x2APIC mode; the others fault there.
    pub(crate) const fn writable(number: u8) -> u64 {
        match number {
            register::TPR | register::SELF_IPI => 0xff,
            register::SVR => SVR_BITS as u64,
            register::ICR_LOW => 0xffff_ffff_0000_0000 | ICR_BITS as u64,
            register::LVT_TIMER..=register::LVT_ERROR => {
                LVT_BITS[(number - register::LVT_TIMER) as usize] as u64
            }
            register::INITIAL_COUNT => 0xffff_ffff,
            register::DIVIDE => 0b1011,
            _ => 0,
        }
    }

    /// Writes a register; ICR's high half has to be there before.
    pub(crate) fn write(&mut self, number: u8, value: u32, now: Ticks) -> Result<Action, NoRegister> {
        match number {
            register::TPR => self.tpr = value as u8,
            register::EOI => return Ok(self.end_of_interrupt()),
            register::LDR if !self.x2apic() => self.ldr = value & 0xff00_0000,
            register::DFR if !self.x2apic() => self.dfr = value | 0x0fff_ffff,
            register::ID if !self.x2apic() => {}
            register::SVR => self.set_svr(value),
            register::ESR => self.esr = core::mem::take(&mut self.errors),
            register::ICR_LOW => {
                self.icr = value & ICR_BITS;
                return Ok(self.send());
            }
            register::ICR_HIGH => self.set_icr_high(value),
            register::LVT_TIMER..=register::LVT_ERROR => {
                self.set_lvt(usize::from(number - register::LVT_TIMER), value)
            }
            register::INITIAL_COUNT => self.timer.set_initial(value, now),
            register::DIVIDE => self.timer.set_divide(value, now),
            register::SELF_IPI if self.x2apic() => self.accept(Message::of(value & 0xff, Destination::All)),
            _ => return Err(NoRegister),
        }
        Ok(Action::None)
    }

    fn set_svr(&mut self, value: u32) {
        self.svr = value & SVR_BITS;
        if self.svr & SVR_ENABLE == 0 {
            // 11.4.7.2: software disable masks all LVT entries.
            self.lvt = self.lvt.map(|lvt| lvt | MASKED);
        }
    }

    fn set_lvt(&mut self, index: usize, value: u32) {
        let masked = if self.svr & SVR_ENABLE == 0 { MASKED } else { 0 };
        self.lvt[index] = value & LVT_BITS[index] | masked;
        if index == 0 {
            self.timer.set_mode(Mode::of(value));
        }
    }

    fn end_of_interrupt(&mut self) -> Action {
        let Some(vector) = self.isr.highest() else { return Action::None };
        self.isr.clear(vector);
        self.ended(vector)
    }

    /// The message in ICR (11.6.1).
    fn send(&mut self) -> Action {
        let destination = match self.icr >> 18 & 3 {
            1 => Destination::Physical(self.id),
            2 => Destination::All,
            3 => Destination::AllBut(self.id),
            _ if self.x2apic() => Destination::of(self.icr, self.icr_high, u32::MAX),
            _ => Destination::of(self.icr, self.icr_high >> 24, 0xff),
        };
        let message = Message { trigger: Trigger::Edge, ..Message::of(self.icr, destination) };
        if message.delivery == Delivery::Init && self.icr & (LEVEL | ASSERT) == LEVEL {
            return Action::None;
        }
        if matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority)
            && message.vector < LOWEST_VECTOR
        {
            self.raise_error(error::SEND_VECTOR);
            return Action::None;
        }
        Action::Send(message)
    }
}
