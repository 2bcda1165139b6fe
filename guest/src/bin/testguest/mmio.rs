//! Device registers in memory: each instruction form of `mmio_forms` reads or writes what it should, and the
//! registers of both APICs behave.

use crate::Guest;
use crate::mmio_forms::{CHANGES, READS, WRITES};
use crate::report::{Failure, same, within};
use guest::apic::{
    self, IO_VERSION, LOCAL_BASE, LVT_TIMER, LocalApic, MASKED, TASK_PRIORITY, TIMER_INITIAL, VERSION,
};
use guest::println;

/// A register of 32 bits that can be read and written, and does nothing while the timer is masked.
const REGISTER: usize = LOCAL_BASE + TIMER_INITIAL as usize;

pub(crate) fn run(_: &mut Guest) -> Result<(), Failure> {
    let local = LocalApic::current();
    local.enable(MASKED);
    local.write(LVT_TIMER, MASKED);
    forms(local)?;
    registers(local)
}

fn forms(local: LocalApic) -> Result<(), Failure> {
    let mut value = 0x8234_5671u32;
    for (name, write) in WRITES {
        value = value.rotate_left(5);
        let expected = write(REGISTER, value);
        same(name, 0, expected.into(), local.read(TIMER_INITIAL).into())?;
    }
    for (name, read) in READS {
        value = value.rotate_left(5);
        local.write(TIMER_INITIAL, value);
        same(name, 0, value.into(), read(REGISTER).into())?;
    }
    for (name, change, expected) in CHANGES {
        value = value.rotate_left(5);
        local.write(TIMER_INITIAL, value);
        change(REGISTER);
        same(name, 0, expected(value).into(), local.read(TIMER_INITIAL).into())?;
    }
    println!("mmio: {} instruction forms", WRITES.len() + READS.len() + CHANGES.len());
    Ok(())
}

fn registers(local: LocalApic) -> Result<(), Failure> {
    // An integrated APIC: version 0x10 to 0x15 (SDM 3, 11.4.8).
    within("local APIC version", 0x10, 0x15, (local.read(VERSION) & 0xff).into())?;
    for priority in [0xf0, 0x21, 0] {
        local.write(TASK_PRIORITY, priority);
        same("task priority", priority.into(), priority.into(), local.read(TASK_PRIORITY).into())?;
    }
    let pins = (apic::io_read(IO_VERSION) >> 16 & 0xff) + 1;
    same("I/O APIC pins", 0, 24, pins.into())?;
    for pin in 0..24u8 {
        let entry = 0x10 + u32::from(pin) * 2;
        apic::io_write(entry, MASKED | u32::from(0x30 + pin));
        apic::io_write(entry + 1, u32::from(pin % 8) << 24);
    }
    for pin in 0..24u8 {
        let entry = 0x10 + u32::from(pin) * 2;
        let low = MASKED | u32::from(0x30 + pin);
        same("redirection entry", pin.into(), low.into(), apic::io_read(entry).into())?;
        let high = u64::from(pin % 8) << 24;
        same("redirection destination", pin.into(), high, apic::io_read(entry + 1).into())?;
    }
    Ok(())
}
