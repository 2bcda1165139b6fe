//! All CPUs: they start, know who they are, hear each other's interrupts, and lose no step of a common counter.

use crate::Guest;
use crate::cpus;
use crate::report::{Failure, same};
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::apic::LocalApic;
use guest::{cpu, println, trap};

/// Most CPUs that are looked at.
const MOST: usize = 32;
/// The vector of the messages.
const VECTOR: u8 = 0x70;
/// Steps of each CPU.
const STEPS: u64 = 1000;

/// What each has seen of itself: its number by CPUID, and by its local APIC.
static IDS: [(AtomicU64, AtomicU64); MOST] = [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MOST];
/// Set once a CPU has been woken from HLT by a message.
static WOKEN: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static COUNTER: AtomicU64 = AtomicU64::new(0);

fn look_at_myself(number: u64) {
    let apic = LocalApic::current();
    let id = apic.id();
    let (by_cpuid, by_apic) = &IDS[number as usize];
    by_cpuid.store(u64::from(__cpuid(1).ebx >> 24), Ordering::Relaxed);
    by_apic.store(u64::from(id), Ordering::Release);
    (0..STEPS).for_each(|_| {
        COUNTER.fetch_add(1, Ordering::Relaxed);
    });
}

fn work(number: u64) {
    look_at_myself(number);
    WOKEN[number as usize].store(1, Ordering::Release);
    // Sleeps until the first CPU's message, which may have come before.
    cpu::wait_for_interrupt();
    WOKEN[number as usize].store(2, Ordering::Release);
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    LocalApic::current().enable(0x1_0000);
    let count = cpus::start_all(&mut guest.memory, work)?;
    same("CPUs", 0, guest.argument("cpus").unwrap_or(1), count)?;
    look_at_myself(0);
    for number in 1..count {
        let state = &WOKEN[number as usize];
        cpus::wait("a CPU to fall asleep", || state.load(Ordering::Acquire) == 1)?;
        let before = trap::count(VECTOR);
        cpus::send(number as u32, u32::from(VECTOR));
        cpus::wait("a CPU to wake", || state.load(Ordering::Acquire) == 2)?;
        same("interrupts of one message", number, 1, u64::from(trap::count(VECTOR) - before))?;
    }
    cpus::join(count)?;
    for number in 0..count {
        let (by_cpuid, by_apic) = &IDS[number as usize];
        same("APIC id by CPUID", number, number, by_cpuid.load(Ordering::Acquire))?;
        same("APIC id by the APIC", number, number, by_apic.load(Ordering::Acquire))?;
    }
    same("steps", 0, count * STEPS, COUNTER.load(Ordering::Acquire))?;
    println!("smp: {count} CPUs");
    Ok(())
}
