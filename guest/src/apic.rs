//! The local APIC in either mode (SDM 3, 11.4 and 11.12) and the I/O APIC (82093AA data sheet).
//!
//! A register at offset N of the xAPIC page is MSR 0x800 + N/16 in x2APIC mode.

use crate::cpu::{self, APIC_BASE};
use core::ptr::with_exposed_provenance_mut;

/// Physical address of the local APIC's page after reset.
pub const LOCAL_BASE: usize = 0xfee0_0000;
/// Physical address of the I/O APIC's page.
pub const IO_BASE: usize = 0xfec0_0000;

/// Identifier.
pub const ID: u32 = 0x20;
/// Version and number of LVT entries.
pub const VERSION: u32 = 0x30;
/// Task priority.
pub const TASK_PRIORITY: u32 = 0x80;
/// End of interrupt.
pub const END_OF_INTERRUPT: u32 = 0xb0;
/// In service, vectors 0 to 31; the others follow at steps of 16.
pub const IN_SERVICE: u32 = 0x100;
/// Errors, latched by a write.
pub const ERROR_STATUS: u32 = 0x280;
/// Interrupt to the CPU itself; x2APIC mode only.
pub const SELF_IPI: u32 = 0x3f0;
/// Spurious vector; bit 8 is the software enable.
pub const SPURIOUS: u32 = 0xf0;
/// Interrupt command, low half; in x2APIC mode all 64 bits.
pub const COMMAND: u32 = 0x300;
/// Interrupt command, high half, in xAPIC mode: the destination.
const COMMAND_HIGH: u32 = 0x310;
/// LVT: timer.
pub const LVT_TIMER: u32 = 0x320;
/// LVT: LINT0, where the PIC is.
pub const LVT_LINT0: u32 = 0x350;
/// Timer: initial count.
pub const TIMER_INITIAL: u32 = 0x380;
/// Timer: current count.
pub const TIMER_CURRENT: u32 = 0x390;
/// Timer: divisor.
pub const TIMER_DIVIDE: u32 = 0x3e0;

/// LVT: masked.
pub const MASKED: u32 = 1 << 16;
/// LVT timer: one-shot.
pub const ONE_SHOT: u32 = 0;
/// LVT timer: periodic.
pub const PERIODIC: u32 = 1 << 17;
/// LVT timer: when the TSC reaches `IA32_TSC_DEADLINE`.
pub const DEADLINE: u32 = 1 << 18;
/// LVT LINT0: the PIC gives the vector.
pub const EXTERNAL: u32 = 0b111 << 8;
/// Interrupt command: to the sender itself.
pub const TO_SELF: u32 = 1 << 18;
/// `TIMER_DIVIDE`: one tick each bus clock.
pub const DIVIDE_BY_1: u32 = 0b1011;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const SPURIOUS_VECTOR: u32 = 0xff;
const X2APIC_MSR: u32 = 0x800;
/// `IA32_APIC_BASE`: x2APIC mode.
const X2APIC: u64 = 1 << 10;
/// `IA32_APIC_BASE`: the local APIC is on.
const ENABLE: u64 = 1 << 11;

/// This CPU's local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalApic {
    /// Registers in memory.
    Xapic,
    /// Registers as MSRs.
    X2apic,
}

impl LocalApic {
    /// In the mode in which it is.
    #[must_use]
    pub fn current() -> Self {
        if cpu::rdmsr(APIC_BASE) & X2APIC == 0 { Self::Xapic } else { Self::X2apic }
    }

    /// Switches to x2APIC mode. There is no way back but through "off".
    #[must_use]
    pub fn enter_x2apic() -> Self {
        let base = cpu::rdmsr(APIC_BASE);
        // SAFETY: this register is the APIC's alone.
        unsafe { cpu::wrmsr(APIC_BASE, base | ENABLE | X2APIC) };
        Self::current()
    }

    /// Reads a register.
    #[must_use]
    pub fn read(self, register: u32) -> u32 {
        match self {
            // SAFETY: the page is identity-mapped and holds registers only.
            Self::Xapic => unsafe {
                with_exposed_provenance_mut::<u32>(LOCAL_BASE + register as usize).read_volatile()
            },
            Self::X2apic => cpu::rdmsr(X2APIC_MSR + register / 16) as u32,
        }
    }

    /// Writes a register.
    pub fn write(self, register: u32, value: u32) {
        match self {
            // SAFETY: as for `read`. An interrupt that this causes finds its handler.
            Self::Xapic => unsafe {
                with_exposed_provenance_mut::<u32>(LOCAL_BASE + register as usize).write_volatile(value);
            },
            // SAFETY: the registers of the APIC's MSR range are the APIC's alone.
            Self::X2apic => unsafe { cpu::wrmsr(X2APIC_MSR + register / 16, value.into()) },
        }
    }

    /// Software-enables it, all priorities let in, LINT0 masked or open for the PIC.
    pub fn enable(self, lint0: u32) {
        self.write(SPURIOUS, SOFTWARE_ENABLE | SPURIOUS_VECTOR);
        self.write(TASK_PRIORITY, 0);
        self.write(LVT_LINT0, lint0);
    }

    /// The CPU's APIC id.
    #[must_use]
    pub fn id(self) -> u32 {
        match self {
            Self::Xapic => self.read(ID) >> 24,
            Self::X2apic => self.read(ID),
        }
    }

    /// Sends what the low half of the command says to the CPU with this id.
    pub fn send(self, id: u32, command: u32) {
        match self {
            Self::Xapic => {
                self.write(COMMAND_HIGH, id << 24);
                self.write(COMMAND, command);
            }
            // SAFETY: what is sent finds a handler, or starts a CPU where the caller wants it.
            Self::X2apic => unsafe {
                cpu::wrmsr(X2APIC_MSR + COMMAND / 16, u64::from(id) << 32 | u64::from(command));
            },
        }
    }

    /// Ends the interrupt in service.
    pub fn acknowledge(self) {
        self.write(END_OF_INTERRUPT, 0);
    }
}

/// How an I/O APIC pin asks for an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Once, when the line rises.
    Edge,
    /// For as long as the line is high.
    Level,
}

/// I/O APIC: index of its version register.
pub const IO_VERSION: u32 = 1;
const IO_REDIRECTION: u32 = 0x10;
const IO_LEVEL: u32 = 1 << 15;

/// Reads an I/O APIC register: index into one, value out of the other.
#[must_use]
pub fn io_read(index: u32) -> u32 {
    // SAFETY: the page is identity-mapped and holds registers only.
    unsafe {
        with_exposed_provenance_mut::<u32>(IO_BASE).write_volatile(index);
        with_exposed_provenance_mut::<u32>(IO_BASE + 0x10).read_volatile()
    }
}

/// Writes an I/O APIC register.
pub fn io_write(index: u32, value: u32) {
    // SAFETY: as for `io_read`.
    unsafe {
        with_exposed_provenance_mut::<u32>(IO_BASE).write_volatile(index);
        with_exposed_provenance_mut::<u32>(IO_BASE + 0x10).write_volatile(value);
    }
}

/// Sends pin `pin` to this CPU (APIC ID 0) at `vector`.
pub fn io_route(pin: u8, vector: u8, trigger: Trigger) {
    let level = if trigger == Trigger::Level { IO_LEVEL } else { 0 };
    let entry = IO_REDIRECTION + u32::from(pin) * 2;
    io_write(entry + 1, 0);
    io_write(entry, u32::from(vector) | level);
}

/// Masks pin `pin`.
pub fn io_mask(pin: u8) {
    io_write(IO_REDIRECTION + u32::from(pin) * 2, MASKED);
}
