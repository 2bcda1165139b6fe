//! Local APICs through both doors, several processors, and the I/O APIC's end-of-interrupt.

use super::Interrupts;
use crate::{GeneralProtection, Startup, Ticks, VcpuId};

const BSP: VcpuId = VcpuId(0);
const AP: VcpuId = VcpuId(1);
const T0: Ticks = Ticks(0);
const APIC: u64 = 0xfee0_0000;

fn write(all: &mut Interrupts, vcpu: VcpuId, offset: u64, value: u32) {
    assert_eq!(all.mmio_write(vcpu, APIC + offset, value, T0), Some(()));
}

fn read(all: &mut Interrupts, vcpu: VcpuId, offset: u64) -> u32 {
    all.mmio_read(vcpu, APIC + offset, T0).unwrap()
}

fn set_pin(all: &mut Interrupts, pin: u32, low: u32) {
    for (index, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, low)] {
        assert!(all.mmio_write(BSP, 0xfec0_0000, index, T0).is_some());
        assert!(all.mmio_write(BSP, 0xfec0_0010, value, T0).is_some());
    }
}

/// No period is too short here.
fn interrupts(vcpus: u32) -> Interrupts {
    Interrupts::new(vcpus, 0)
}

#[test]
fn priorities_nest() {
    let mut all = interrupts(1);
    for vector in [0x31, 0x52] {
        write(&mut all, BSP, 0x300, 0x4_0000 | vector);
    }
    assert_eq!(all.acknowledge(BSP), Some(0x52));
    assert_eq!(all.pending(BSP), None);
    assert_eq!(read(&mut all, BSP, 0xa0), 0x50);
    write(&mut all, BSP, 0xb0, 0);
    assert_eq!(all.pending(BSP), Some(0x31));
    all.set_tpr(BSP, 3);
    assert_eq!((all.pending(BSP), read(&mut all, BSP, 0x80)), (None, 0x30));
    all.set_tpr(BSP, 2);
    assert_eq!(all.acknowledge(BSP), Some(0x31));
}

#[test]
fn ipis_reach_their_destinations() {
    let mut all = interrupts(3);
    write(&mut all, BSP, 0x300, 0xc_0041);
    assert_eq!([0, 1, 2].map(|id| all.pending(VcpuId(id))), [None, Some(0x41), Some(0x41)]);
    write(&mut all, BSP, 0x310, 2 << 24);
    write(&mut all, BSP, 0x300, 0x62);
    assert_eq!([0, 1, 2].map(|id| all.pending(VcpuId(id))), [None, Some(0x41), Some(0x62)]);
    write(&mut all, AP, 0xd0, 2 << 24);
    write(&mut all, BSP, 0x310, 3 << 24);
    write(&mut all, BSP, 0x300, 0x873);
    assert_eq!([0, 1, 2].map(|id| all.pending(VcpuId(id))), [None, Some(0x73), Some(0x62)]);
    write(&mut all, BSP, 0x300, 0x8_0400);
    assert!(all.take_nmi(BSP) && all.take_nmi(AP) && !all.take_nmi(AP));
}

#[test]
fn a_level_is_ended_at_the_io_apic() {
    let mut all = interrupts(1);
    set_pin(&mut all, 9, 0x8059);
    all.set_irq(9, true);
    assert_eq!(all.acknowledge(BSP), Some(0x59));
    write(&mut all, BSP, 0xb0, 0);
    assert_eq!(all.acknowledge(BSP), Some(0x59), "the line is still high");
    all.set_irq(9, false);
    write(&mut all, BSP, 0xb0, 0);
    assert_eq!(all.pending(BSP), None);
}

#[test]
fn the_timer_is_on_pin_2() {
    let mut all = interrupts(1);
    set_pin(&mut all, 2, 0x30);
    all.set_irq(0, true);
    assert_eq!(all.acknowledge(BSP), Some(0x30));
}

#[test]
fn the_pic_comes_through_lint0_or_pin_0() {
    let mut all = interrupts(2);
    all.pic.write(0x21, 0xfe);
    all.set_irq(0, true);
    assert_eq!((all.pending(BSP), all.pending(AP)), (Some(8), None));
    write(&mut all, BSP, 0x350, 0x1_0700);
    assert_eq!(all.pending(BSP), None);
    set_pin(&mut all, 0, 0x700);
    assert_eq!(all.acknowledge(BSP), Some(8));
}

#[test]
fn apic_base_goes_round_its_states_only() {
    let mut all = interrupts(1);
    let base = |mode: u64| APIC | 0x100 | mode;
    assert_eq!(all.msr_read(BSP, 0x1b, T0), Ok(base(0x800)));
    assert_eq!(all.msr_read(BSP, 0x802, T0), Err(GeneralProtection));
    assert_eq!(all.msr_write(BSP, 0x1b, base(0x400), T0), Err(GeneralProtection));
    assert_eq!(all.msr_write(BSP, 0x1b, base(0xc00), T0), Ok(()));
    assert_eq!(all.mmio_read(BSP, APIC + 0x20, T0), None);
    assert_eq!(all.msr_write(BSP, 0x1b, base(0x800), T0), Err(GeneralProtection));
    assert_eq!(all.msr_write(BSP, 0x1b, base(0), T0), Ok(()));
    assert_eq!(all.msr_write(BSP, 0x1b, base(0xc00), T0), Err(GeneralProtection));
    assert_eq!(all.msr_write(BSP, 0x1b, base(0x800), T0), Ok(()));
    assert_eq!(all.msr_write(BSP, 0x1b, base(0x801), T0), Err(GeneralProtection));
}

#[test]
fn x2apic_sends_and_refuses() {
    let mut all = interrupts(2);
    for vcpu in [BSP, AP] {
        let base = all.msr_read(vcpu, 0x1b, T0).unwrap();
        all.msr_write(vcpu, 0x1b, base | 0x400, T0).unwrap();
    }
    assert_eq!(all.msr_read(AP, 0x802, T0), Ok(1));
    assert_eq!(all.msr_read(AP, 0x80d, T0), Ok(2));
    all.msr_write(BSP, 0x830, 1 << 32 | 0x45, T0).unwrap();
    assert_eq!(all.acknowledge(AP), Some(0x45));
    assert_eq!(all.msr_read(BSP, 0x830, T0), Ok(1 << 32 | 0x45));
    all.msr_write(BSP, 0x830, 3 << 32 | 0x876, T0).unwrap();
    assert_eq!((all.pending(BSP), all.pending(AP)), (Some(0x76), Some(0x76)));
    all.msr_write(AP, 0x83f, 0x99, T0).unwrap();
    assert_eq!(all.acknowledge(AP), Some(0x99));
    for (msr, value) in [(0x80b, 1), (0x80e, 0), (0x802, 0), (0x831, 0), (0x808, 0x100), (0x8ff, 0)] {
        assert_eq!(all.msr_write(BSP, msr, value, T0), Err(GeneralProtection), "{msr:#x}");
    }
}

#[test]
fn errors_are_latched_by_a_write() {
    let mut all = interrupts(1);
    write(&mut all, BSP, 0x370, 0xfe);
    write(&mut all, BSP, 0x300, 0x4_0005);
    assert_eq!((all.pending(BSP), read(&mut all, BSP, 0x280)), (Some(0xfe), 0));
    write(&mut all, BSP, 0x280, 0);
    assert_eq!(read(&mut all, BSP, 0x280), 0x20);
    read(&mut all, BSP, 0x3f0);
    write(&mut all, BSP, 0x280, 0);
    assert_eq!(read(&mut all, BSP, 0x280), 0x80);
}

#[test]
fn software_disable_masks_and_timers_fire() {
    let mut all = interrupts(1);
    write(&mut all, BSP, 0xf0, 0xff);
    assert_eq!(read(&mut all, BSP, 0x350), 0x1_0700);
    write(&mut all, BSP, 0xf0, 0x1ff);
    write(&mut all, BSP, 0x320, 0x4_0033);
    all.msr_write(BSP, 0x6e0, 500, T0).unwrap();
    assert_eq!(all.deadline(BSP), Some(Ticks(500)));
    all.advance(Ticks(499));
    assert_eq!(all.pending(BSP), None);
    all.advance(Ticks(500));
    assert_eq!(all.acknowledge(BSP), Some(0x33));
    assert_eq!((all.msr_read(BSP, 0x6e0, T0), all.deadline(BSP)), (Ok(0), None));
}

#[test]
fn a_level_shared_by_two_pins_is_ended_for_both() {
    let mut all = interrupts(1);
    for pin in [9, 10] {
        set_pin(&mut all, pin, 0x8059);
        all.set_irq(pin as u8, true);
    }
    assert_eq!(all.acknowledge(BSP), Some(0x59));
    all.set_irq(9, false);
    write(&mut all, BSP, 0xb0, 0);
    assert_eq!(all.acknowledge(BSP), Some(0x59), "pin 10 is still high");
    all.set_irq(10, false);
    write(&mut all, BSP, 0xb0, 0);
    assert_eq!(all.pending(BSP), None);
}

#[test]
fn linux_ends_a_level_on_an_old_io_apic() {
    // Version 0x11 has no EOI register: Linux masks the pin, makes it edge and then level again.
    let mut all = interrupts(1);
    set_pin(&mut all, 9, 0x8059);
    all.set_irq(9, true);
    assert_eq!(all.acknowledge(BSP), Some(0x59));
    all.set_irq(9, false);
    set_pin(&mut all, 9, 0x1_0059);
    set_pin(&mut all, 9, 0x8059);
    write(&mut all, BSP, 0xb0, 0);
    all.set_irq(9, true);
    assert_eq!(all.acknowledge(BSP), Some(0x59));
}

#[test]
fn an_edge_is_not_ended_at_the_io_apic() {
    let mut all = interrupts(1);
    set_pin(&mut all, 4, 0x34);
    all.set_irq(4, true);
    assert_eq!(all.acknowledge(BSP), Some(0x34));
    assert_eq!(read(&mut all, BSP, 0x190), 0, "TMR");
    write(&mut all, BSP, 0xb0, 0);
    assert_eq!(all.pending(BSP), None, "the line is high, but it has not risen");
}

#[test]
fn the_least_urgent_processor_takes_a_lowest_priority_interrupt() {
    let mut all = interrupts(2);
    for vcpu in [BSP, AP] {
        write(&mut all, vcpu, 0xd0, 1 << (24 + vcpu.0));
    }
    set_pin(&mut all, 4, 0x934);
    assert!(all.mmio_write(BSP, 0xfec0_0000, 0x19, T0).is_some());
    assert!(all.mmio_write(BSP, 0xfec0_0010, 3 << 24, T0).is_some());
    all.set_tpr(BSP, 2);
    all.set_irq(4, true);
    assert_eq!((all.pending(BSP), all.pending(AP)), (None, Some(0x34)));
}

#[test]
fn clusters_are_addressed_by_number_and_member() {
    let mut all = interrupts(3);
    for (id, ldr) in [(0, 0x11), (1, 0x12), (2, 0x21)] {
        write(&mut all, VcpuId(id), 0xe0, 0x0fff_ffff);
        write(&mut all, VcpuId(id), 0xd0, ldr << 24);
    }
    let mut send = |destination: u32, vector: u32| {
        write(&mut all, BSP, 0x310, destination << 24);
        write(&mut all, BSP, 0x300, 0x800 | vector);
        [0, 1, 2].map(|id| all.acknowledge(VcpuId(id)))
    };
    assert_eq!(send(0x12, 0x40), [None, Some(0x40), None]);
    assert_eq!(send(0x21, 0x50), [None, None, Some(0x50)]);
    assert_eq!(send(0xf1, 0x60), [Some(0x60), None, Some(0x60)]);
}

#[test]
fn a_masked_timer_runs_out_unheard() {
    let mut all = interrupts(1);
    write(&mut all, BSP, 0x3e0, 0xb);
    write(&mut all, BSP, 0x320, 0x1_0040);
    write(&mut all, BSP, 0x380, 100);
    all.advance(Ticks(100));
    assert_eq!((all.pending(BSP), all.deadline(BSP)), (None, None));
    write(&mut all, BSP, 0x320, 0x40);
    write(&mut all, BSP, 0x380, 100);
    all.advance(Ticks(100));
    assert_eq!(all.pending(BSP), Some(0x40));
}

#[test]
fn a_deadline_in_the_past_fires_at_once() {
    let mut all = interrupts(1);
    write(&mut all, BSP, 0x320, 0x4_0041);
    let now = Ticks(1000);
    all.msr_write(BSP, 0x6e0, 1, now).unwrap();
    all.advance(now);
    assert_eq!(all.acknowledge(BSP), Some(0x41));
    assert_eq!(all.msr_read(BSP, 0x6e0, now), Ok(0));
}

#[test]
fn apic_base_moves_the_page() {
    let mut all = interrupts(1);
    all.msr_write(BSP, 0x1b, 0xd000_0900, T0).unwrap();
    assert_eq!(all.mmio_read(BSP, APIC + 0x30, T0), None);
    assert_eq!(all.mmio_read(BSP, 0xd000_0030, T0), Some(0x5_0014));
}

#[test]
fn global_disable_forgets_all_and_leaves_the_pic() {
    let mut all = interrupts(1);
    write(&mut all, BSP, 0x300, 0x4_0077);
    write(&mut all, BSP, 0x350, 0x1_0000);
    all.msr_write(BSP, 0x1b, APIC | 0x100, T0).unwrap();
    assert_eq!(all.pending(BSP), None);
    all.pic.write(0x21, 0xef);
    all.set_irq(4, true);
    assert_eq!(all.acknowledge(BSP), Some(12));
}

#[test]
fn one_processor_starts_another() {
    let mut all = interrupts(2);
    write(&mut all, AP, 0x80, 0x50);
    write(&mut all, BSP, 0x310, 1 << 24);
    write(&mut all, BSP, 0x300, 0x8500);
    assert_eq!(all.take_startup(AP), None, "INIT, level, not asserted");
    for command in [0xc500, 0x8500, 0x069f] {
        write(&mut all, BSP, 0x300, command);
    }
    assert_eq!(all.take_startup(AP), Some(Startup::Init));
    assert_eq!(read(&mut all, AP, 0x80), 0, "INIT resets the APIC");
    assert_eq!(all.take_startup(AP), Some(Startup::StartUp { page: 0x9f }));
    assert_eq!((all.take_startup(AP), all.take_startup(BSP)), (None, None));
}

/// Switches to x2APIC mode.
fn x2apic(vcpus: u32) -> Interrupts {
    let mut all = interrupts(vcpus);
    for vcpu in (0..vcpus).map(VcpuId) {
        let base = all.msr_read(vcpu, 0x1b, T0).unwrap();
        assert_eq!(all.msr_write(vcpu, 0x1b, base | 1 << 10, T0), Ok(()));
    }
    all
}

#[test]
fn an_apic_is_lent_in_x2apic_mode_only() {
    assert_eq!(interrupts(1).lend(BSP), None);
    let mut all = x2apic(1);
    assert!(all.lend(BSP).is_some_and(|loan| loan.begins.is_some()));
    assert!(all.lend(BSP).is_some_and(|loan| loan.begins.is_none()), "it goes on");
    assert_eq!(all.msr_write(BSP, 0x1b, 0xfee0_0000, T0), Ok(()));
    assert_eq!(all.lend(BSP), None, "switched off");
}

#[test]
fn what_comes_for_a_lent_apic_waits_for_its_processor() {
    let mut all = x2apic(2);
    assert_eq!(all.msr_write(AP, 0x83f, 0x61, T0), Ok(()));
    let loan = all.lend(AP).expect("x2APIC");
    assert!(loan.begins.is_some() && loan.came.has(0x61));
    assert_eq!(all.msr_write(BSP, 0x830, 1 << 32 | 0x52, T0), Ok(()));
    assert_eq!(all.take_news() >> 1 & 1, 1);
    assert_eq!((all.pending(AP), all.acknowledge(AP)), (None, None), "the model delivers nothing");
    let loan = all.lend(AP).expect("x2APIC");
    assert!(loan.came.has(0x52) && !loan.came.has(0x61));
    assert_eq!(all.lend(AP).expect("x2APIC").came.highest(), None, "taken");
}

#[test]
fn an_init_ends_a_loan_and_the_mode_begins_another() {
    let mut all = x2apic(2);
    let _ = all.lend(AP);
    assert_eq!(all.msr_write(BSP, 0x830, 1 << 32 | 0x4500, T0), Ok(()));
    assert_eq!(all.take_startup(AP), Some(Startup::Init));
    assert!(all.lend(AP).is_some_and(|loan| loan.begins.is_some()));
}

#[test]
fn a_level_is_ended_at_the_io_apic_by_a_lent_apic_too() {
    let mut all = x2apic(1);
    set_pin(&mut all, 5, 0x8045);
    all.set_irq(5, true);
    let loan = all.lend(BSP).expect("x2APIC");
    assert!(loan.came.has(0x45) && loan.eoi_exits() == [0, 1 << 5, 0, 0]);
    all.ended(BSP, 0x44);
    assert_eq!(all.lend(BSP).expect("x2APIC").came.highest(), None);
    all.ended(BSP, 0x45);
    assert!(all.lend(BSP).expect("x2APIC").came.has(0x45), "the line is still up");
}
