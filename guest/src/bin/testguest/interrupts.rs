//! Interrupt controllers: lines through the PIC and the I/O APIC (edge and level), self-IPIs, priority, and
//! what is pending while the guest lets nothing in. In xAPIC mode, or, with `x2apic=1`, in x2APIC mode.

use crate::Guest;
use crate::report::{Failure, same};
use crate::timer::{Wait, stays_quiet, wait_for};
use core::sync::atomic::{AtomicU32, Ordering};
use guest::apic::{
    self, COMMAND, ERROR_STATUS, EXTERNAL, IN_SERVICE, LocalApic, MASKED, SELF_IPI, TASK_PRIORITY, TO_SELF,
    Trigger,
};
use guest::testdev::{Level, set_line};
use guest::{cpu, pic, trap};

/// A line that no device of the platform uses, on the second PIC.
const LINE: u8 = 12;
const EDGE_VECTOR: u8 = 0x51;
const LEVEL_VECTOR: u8 = 0x52;
const LOW_VECTOR: u8 = 0x61;
const MIDDLE_VECTOR: u8 = 0x71;
const HIGH_VECTOR: u8 = 0x81;
const SELF_VECTOR: u8 = 0x91;
/// No interrupt can have it.
const ILLEGAL_VECTOR: u32 = 5;
/// ERROR_STATUS: an illegal vector was received.
const RECEIVED_ILLEGAL: u32 = 1 << 6;
/// The level-triggered line is lowered in its third interrupt.
const LEVEL_COUNT: u32 = 3;

/// Vectors in the order of their arrival, the last in the lowest byte.
static ORDER: AtomicU32 = AtomicU32::new(0);
/// What was in service beside `SELF_VECTOR` in its handler.
static SERVED: AtomicU32 = AtomicU32::new(0);

fn hook(vector: u8) {
    ORDER.store(ORDER.load(Ordering::SeqCst) << 8 | u32::from(vector), Ordering::SeqCst);
    if vector == LEVEL_VECTOR && trap::count(vector) == LEVEL_COUNT {
        set_line(LINE, Level::Low);
    }
    if vector == SELF_VECTOR {
        let word = LocalApic::current().read(IN_SERVICE + u32::from(vector / 32) * 16);
        SERVED.store(word, Ordering::SeqCst);
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    trap::set_hook(hook);
    let x2apic = guest.argument("x2apic").is_some();
    let local = if x2apic { LocalApic::enter_x2apic() } else { LocalApic::current() };
    through_pic(local)?;
    local.enable(MASKED);
    edge()?;
    level()?;
    priority(local)?;
    if x2apic { to_itself(local) } else { Ok(()) }
}

fn through_pic(local: LocalApic) -> Result<(), Failure> {
    // Lines 8 to 15 reach the CPU through line 2 of the first controller.
    pic::start(1 << LINE | 1 << 2);
    local.enable(EXTERNAL);
    let vector = pic::VECTORS.start + LINE;
    set_line(LINE, Level::High);
    wait_for("line through the PIC", vector, 1, Wait::Spin)?;
    stays_quiet("line that stays high, PIC", vector)?;
    set_line(LINE, Level::Low);
    set_line(LINE, Level::High);
    wait_for("line through the PIC, again", vector, 2, Wait::Sleep)?;
    set_line(LINE, Level::Low);
    pic::start(0);
    Ok(())
}

fn edge() -> Result<(), Failure> {
    apic::io_route(LINE, EDGE_VECTOR, Trigger::Edge);
    set_line(LINE, Level::High);
    wait_for("edge through the I/O APIC", EDGE_VECTOR, 1, Wait::Spin)?;
    stays_quiet("line that stays high, edge", EDGE_VECTOR)?;
    set_line(LINE, Level::Low);
    set_line(LINE, Level::High);
    wait_for("edge through the I/O APIC, again", EDGE_VECTOR, 2, Wait::Sleep)?;
    set_line(LINE, Level::Low);
    apic::io_mask(LINE);
    set_line(LINE, Level::High);
    stays_quiet("masked pin", EDGE_VECTOR)?;
    set_line(LINE, Level::Low);
    Ok(())
}

/// A high line asks again after each end of interrupt.
fn level() -> Result<(), Failure> {
    apic::io_route(LINE, LEVEL_VECTOR, Trigger::Level);
    set_line(LINE, Level::High);
    wait_for("level through the I/O APIC", LEVEL_VECTOR, LEVEL_COUNT, Wait::Spin)?;
    stays_quiet("line that was lowered", LEVEL_VECTOR)?;
    apic::io_mask(LINE);
    Ok(())
}

/// Vectors are served from the highest down (SDM 3, 11.8.3.1), and only above the task priority.
fn priority(local: LocalApic) -> Result<(), Failure> {
    for vector in [LOW_VECTOR, HIGH_VECTOR, MIDDLE_VECTOR] {
        local.write(COMMAND, TO_SELF | u32::from(vector));
    }
    ORDER.store(0, Ordering::SeqCst);
    wait_for("self-IPI", LOW_VECTOR, 1, Wait::Spin)?;
    let expected = u32::from_be_bytes([0, HIGH_VECTOR, MIDDLE_VECTOR, LOW_VECTOR]);
    same("order of arrival", 0, expected.into(), ORDER.load(Ordering::SeqCst).into())?;

    local.write(TASK_PRIORITY, MIDDLE_VECTOR.into());
    local.write(COMMAND, TO_SELF | u32::from(MIDDLE_VECTOR));
    local.write(COMMAND, TO_SELF | u32::from(HIGH_VECTOR));
    wait_for("vector above the task priority", HIGH_VECTOR, 2, Wait::Spin)?;
    stays_quiet("vector at the task priority", MIDDLE_VECTOR)?;
    local.write(TASK_PRIORITY, 0);
    wait_for("task priority lowered", MIDDLE_VECTOR, 2, Wait::Spin)?;
    cpu::disable_interrupts();
    Ok(())
}

/// What x2APIC mode has more: a register for interrupts to oneself. CR8 is the task priority's upper half in any mode.
fn to_itself(local: LocalApic) -> Result<(), Failure> {
    local.write(SELF_IPI, SELF_VECTOR.into());
    wait_for("interrupt to itself", SELF_VECTOR, 1, Wait::Spin)?;
    let served = 1_u64 << (SELF_VECTOR % 32);
    same("in service, in the handler", 0, served, SERVED.load(Ordering::SeqCst).into())?;
    let after = local.read(IN_SERVICE + u32::from(SELF_VECTOR / 32) * 16);
    same("in service, afterwards", 0, 0, after.into())?;

    cpu::set_cr8(u64::from(SELF_VECTOR >> 4));
    same("task priority by CR8", 0, u64::from(SELF_VECTOR & 0xf0), local.read(TASK_PRIORITY).into())?;
    local.write(SELF_IPI, SELF_VECTOR.into());
    stays_quiet("vector at the priority of CR8", SELF_VECTOR)?;
    local.write(TASK_PRIORITY, 0);
    same("CR8", 0, 0, cpu::cr8())?;
    wait_for("task priority lowered", SELF_VECTOR, 2, Wait::Sleep)?;

    local.write(ERROR_STATUS, 0);
    local.write(SELF_IPI, ILLEGAL_VECTOR);
    local.write(ERROR_STATUS, 0);
    same("errors", 0, RECEIVED_ILLEGAL.into(), local.read(ERROR_STATUS).into())
}
