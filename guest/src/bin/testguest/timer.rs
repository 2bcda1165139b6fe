//! Timers: each interrupt arrives, not before its time, as often as it should, both in a running and in a
//! sleeping guest. 8254 channel 0 through the PIC, and the local APIC's timer in its three modes, in
//! xAPIC mode and, where CPUID shows it, x2APIC mode.

use crate::Guest;
use crate::report::{Failure, same, within};
use core::arch::x86_64::__cpuid;
use guest::apic::{
    self, DEADLINE, DIVIDE_BY_1, LVT_TIMER, LocalApic, MASKED, ONE_SHOT, PERIODIC, TIMER_CURRENT,
    TIMER_DIVIDE, TIMER_INITIAL,
};
use guest::pic::{self, TimerMode};
use guest::{cpu, println, trap};

/// TSC ticks after which an interrupt is lost.
const PATIENCE: u64 = 1_000_000_000;
/// TSC ticks in which an interrupt that must not come would have come.
const QUIET: u64 = 2_000_000;
/// 8254 ticks: 2 ms.
const PIT_COUNT: u16 = 2386;
/// Local APIC timer ticks.
const APIC_COUNT: u32 = 100_000;
/// Steps of a program that a timer interrupts without end.
const STEPS: u32 = 20_000;
/// TSC ticks from now to a deadline.
const DEADLINE_TICKS: u64 = 500_000;

/// What the guest does until an interrupt comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It runs.
    Spin,
    /// It halts.
    Sleep,
}

/// Lets interrupts in until `vector` has come `count` times in all.
pub(crate) fn wait_for(what: &'static str, vector: u8, count: u32, how: Wait) -> Result<(), Failure> {
    if how == Wait::Sleep {
        while trap::count(vector) < count {
            cpu::wait_for_interrupt();
        }
        return Ok(());
    }
    let start = cpu::rdtsc();
    cpu::enable_interrupts();
    while trap::count(vector) < count && cpu::rdtsc() - start < PATIENCE {
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
    if trap::count(vector) < count { Err(Failure::TimeOut { what, ticks: PATIENCE }) } else { Ok(()) }
}

/// Lets interrupts in for a while; `vector` must not come again.
pub(crate) fn stays_quiet(what: &'static str, vector: u8) -> Result<(), Failure> {
    let before = trap::count(vector);
    let start = cpu::rdtsc();
    cpu::enable_interrupts();
    while cpu::rdtsc() - start < QUIET {
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
    same(what, vector.into(), before.into(), trap::count(vector).into())
}

pub(crate) fn run(_: &mut Guest) -> Result<(), Failure> {
    let xapic = LocalApic::current();
    pit(xapic)?;
    local(xapic, 0x40)?;
    // CPUID.1:ECX bit 21.
    if __cpuid(1).ecx & 1 << 21 == 0 {
        println!("timer: no x2APIC here");
        return Ok(());
    }
    local(LocalApic::enter_x2apic(), 0x50)
}

fn pit(local: LocalApic) -> Result<(), Failure> {
    pic::start(1);
    local.enable(apic::EXTERNAL);
    let vector = pic::TIMER_VECTOR;
    pic::start_timer(TimerMode::Once, PIT_COUNT);
    wait_for("8254, mode 0", vector, 1, Wait::Spin)?;
    stays_quiet("8254, mode 0, a second time", vector)?;
    pic::start_timer(TimerMode::Rate, PIT_COUNT);
    wait_for("8254, mode 2", vector, 4, Wait::Spin)?;
    wait_for("8254, mode 2, asleep", vector, 8, Wait::Sleep)?;
    within("8254, count in mode 2", 0, PIT_COUNT.into(), pic::timer_count().into())?;
    pic::start(0);
    same("PIC masks", 0, 0xffff, pic::masks().into())?;
    stays_quiet("8254 behind a masked PIC", vector)?;
    local.enable(MASKED);
    Ok(())
}

fn local(local: LocalApic, vector: u8) -> Result<(), Failure> {
    local.enable(MASKED);
    local.write(TIMER_DIVIDE, DIVIDE_BY_1);
    one_shot(local, vector)?;
    periodic(local, vector + 1)?;
    storm(local, vector + 3)?;
    // CPUID.1:ECX bit 24.
    if __cpuid(1).ecx & 1 << 24 == 0 {
        println!("timer: no TSC deadline here");
        return Ok(());
    }
    deadline(local, vector + 2)
}

fn one_shot(local: LocalApic, vector: u8) -> Result<(), Failure> {
    for (round, how) in [Wait::Spin, Wait::Sleep].into_iter().enumerate() {
        local.write(LVT_TIMER, ONE_SHOT | u32::from(vector));
        local.write(TIMER_INITIAL, APIC_COUNT);
        let first = local.read(TIMER_CURRENT);
        within("local timer, current count", 0, APIC_COUNT.into(), first.into())?;
        within("local timer, count later", 0, first.into(), local.read(TIMER_CURRENT).into())?;
        wait_for("local timer, one-shot", vector, round as u32 + 1, how)?;
        same("local timer, count at the end", 0, 0, local.read(TIMER_CURRENT).into())?;
    }
    stays_quiet("local timer, one-shot, once more", vector)?;
    local.write(LVT_TIMER, MASKED | ONE_SHOT | u32::from(vector));
    local.write(TIMER_INITIAL, APIC_COUNT);
    stays_quiet("local timer, masked", vector)
}

fn periodic(local: LocalApic, vector: u8) -> Result<(), Failure> {
    local.write(LVT_TIMER, PERIODIC | u32::from(vector));
    local.write(TIMER_INITIAL, APIC_COUNT);
    wait_for("local timer, periodic", vector, 3, Wait::Spin)?;
    wait_for("local timer, periodic, asleep", vector, 6, Wait::Sleep)?;
    // A zero count stops it.
    local.write(TIMER_INITIAL, 0);
    let so_far = trap::count(vector);
    stays_quiet("local timer, stopped", vector).or_else(|late| {
        // One may have been on its way.
        if trap::count(vector) == so_far + 1 {
            stays_quiet("local timer, stopped", vector)
        } else {
            Err(late)
        }
    })
}

/// A round of one tick: however long an interrupt takes, the program that it interrupts gets on.
fn storm(local: LocalApic, vector: u8) -> Result<(), Failure> {
    local.write(LVT_TIMER, PERIODIC | u32::from(vector));
    local.write(TIMER_INITIAL, 1);
    let (start, mut steps) = (cpu::rdtsc(), 0);
    cpu::enable_interrupts();
    while steps < STEPS || trap::count(vector) < 3 && cpu::rdtsc() - start < PATIENCE {
        steps += 1;
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
    local.write(TIMER_INITIAL, 0);
    within("local timer, storm: interrupts", 3, steps.into(), trap::count(vector).into())
}

fn deadline(local: LocalApic, vector: u8) -> Result<(), Failure> {
    local.write(LVT_TIMER, DEADLINE | u32::from(vector));
    for (round, how) in [Wait::Spin, Wait::Sleep].into_iter().enumerate() {
        let deadline = cpu::rdtsc() + DEADLINE_TICKS;
        set_deadline(deadline);
        wait_for("TSC deadline", vector, round as u32 + 1, how)?;
        within("TSC at the deadline's interrupt", deadline, u64::MAX, trap::last_tsc())?;
        same("TSC deadline, once over", 0, 0, cpu::rdmsr(cpu::TSC_DEADLINE))?;
    }
    set_deadline(cpu::rdtsc() - 1);
    wait_for("TSC deadline in the past", vector, 3, Wait::Spin)?;
    set_deadline(cpu::rdtsc() + DEADLINE_TICKS);
    set_deadline(0);
    stays_quiet("TSC deadline, disarmed", vector)
}

fn set_deadline(tsc: u64) {
    // SAFETY: this register is the timer's alone.
    unsafe { cpu::wrmsr(cpu::TSC_DEADLINE, tsc) };
}
