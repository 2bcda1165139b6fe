//! The board as a whole: who answers where, what reaches the host, and that nothing a guest does panics.

use super::{Board, Config, Effect, VcpuId};
use crate::Ticks;
use addr::Gpa;
use alloc::vec::Vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;

const T0: Ticks = Ticks(0);

fn board(vcpus: u32) -> Board {
    let ram = 256 << 20;
    Board::new(&Config {
        vcpus,
        tsc_hz: 1_000_000,
        ram_bytes: ram,
        ram_end: ram,
        boot_seconds: 0,
        shortest_period: 119,
        balloon: Some(0),
    })
}

#[test]
fn ports_without_a_device_read_all_ones() {
    let mut board = board(1);
    assert_eq!(board.port_read(0x60, 1, T0), 0xff);
    assert_eq!(board.port_read(0x64, 1, T0), 0xff);
    assert_eq!(board.port_read(0x1234, 2, T0), 0xffff);
    assert_eq!(board.port_read(0xcf8, 4, T0) | 0xff00, u32::MAX);
    assert_eq!(board.port_read(0xffff, 4, T0), u32::MAX);
    assert_eq!(board.port_write(0xffff, 4, 0, T0), Effect::None);
    assert_eq!(board.port_write(0xcf8, 4, 0x8000_0600, T0), Effect::None);
}

#[test]
fn effects_reach_the_host() {
    let cases = [
        (0xf4, 1, 0x1_07, Effect::Exit(7)),
        (0xf4, 4, 0x12345, Effect::Exit(0x12345)),
        (0xe4, 4, 0x9_1234, Effect::ProtectPage(Gpa::new(0x9_1234))),
        (0x604, 2, 0x3401, Effect::PowerOff),
        (0xcf9, 1, 6, Effect::Reset),
        (0x64, 1, 0xfe, Effect::Reset),
        (0x92, 1, 1, Effect::Reset),
        (0x80, 1, 1, Effect::None),
    ];
    for (port, width, value, effect) in cases {
        assert_eq!(board(1).port_write(port, width, value, T0), effect, "{port:#x}");
    }
}

#[test]
fn processors_hear_of_what_comes_for_them() {
    let mut board = board(3);
    let x2apic = |board: &mut Board, cpu| board.msr_write(VcpuId(cpu), 0x1b, 0xfee0_0c00, T0);
    (0..3).for_each(|cpu| assert_eq!(x2apic(&mut board, cpu), Ok(Effect::None)));
    assert_eq!(board.take_news(), 0, "a processor knows what it does to its own APIC");
    // A fixed interrupt, an NMI, INIT to all but the sender.
    for (icr, news) in [(2 << 32 | 0x4040, 0b100), (1 << 32 | 0x4400, 0b010), (0xc_4500, 0b110)] {
        assert_eq!(board.msr_write(VcpuId(0), 0x830, icr, T0), Ok(Effect::None));
        assert_eq!((board.take_news(), board.take_news()), (news, 0), "{icr:#x}");
    }
    // The PIT's deadline is the first processor's, whoever has set it.
    assert_eq!(board.port_write(0x43, 1, 0x30, T0), Effect::None);
    assert_eq!(board.take_news(), 0b001);
    for byte in [10, 0] {
        assert_eq!(board.port_write(0x40, 1, byte, T0), Effect::None);
    }
    assert!(board.next_deadline(VcpuId(0)).is_some());
    assert_eq!(board.next_deadline(VcpuId(1)), None);
}

#[test]
fn the_pic_is_news_once_until_it_was_served() {
    let mut board = board(2);
    // Vectors from 0x20 on, all lines let through.
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0)] {
        assert_eq!(board.port_write(port, 1, value, T0), Effect::None);
    }
    assert_eq!(board.take_news(), 0);
    let raise = |board: &mut Board, level| board.port_write(0x2005, 1, level, T0);
    assert_eq!(raise(&mut board, 1), Effect::None);
    assert_eq!((board.take_news(), board.take_news()), (0b01, 0));
    assert_eq!(board.acknowledge(VcpuId(0)), Some(0x25));
    assert_eq!(board.port_write(0x20, 1, 0x20, T0), Effect::None);
    assert_eq!(board.take_news(), 0);
    (0..2).rev().for_each(|level| assert_eq!(raise(&mut board, level ^ 1), Effect::None));
    assert_eq!(board.take_news(), 0b01, "again");
}

#[test]
fn scratch_and_fw_cfg() {
    let mut board = board(3);
    assert_eq!(board.port_write(0xe0, 4, 0x1234_5678, T0), Effect::None);
    assert_eq!(board.port_write(0xe1, 1, 0xff, T0), Effect::None);
    assert_eq!(board.port_read(0xe0, 4, T0), 0x1234_ff78);
    assert_eq!(board.port_read(0xe2, 2, T0), 0x1234);
    assert_eq!(board.port_write(0x510, 2, 5, T0), Effect::None);
    assert_eq!(board.port_read(0x511, 1, T0), 3);
}

#[test]
fn lines_and_the_timer_interrupt() {
    let mut board = board(1);
    let cpu = VcpuId(0);
    assert_eq!(board.port_write(0x21, 1, 0xde, T0), Effect::None);
    assert_eq!(board.port_write(0x2005, 1, 1, T0), Effect::None);
    assert_eq!(board.acknowledge(cpu), Some(13));
    assert_eq!(board.port_write(0x2005, 1, 0, T0), Effect::None);
    assert_eq!(board.port_write(0x20, 1, 0x20, T0), Effect::None);
    for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 0)] {
        assert_eq!(board.port_write(port, 1, value, T0), Effect::None);
    }
    let due = board.next_deadline(VcpuId(0)).unwrap();
    for round in 1..4 {
        board.advance(Ticks(due.0 * round));
        assert_eq!(board.acknowledge(cpu), Some(8));
        assert_eq!(board.port_write(0x20, 1, 0x20, T0), Effect::None);
        assert_eq!(board.pending_interrupt(cpu), None);
    }
}

#[test]
fn console_bytes_go_both_ways() {
    let mut board = board(1);
    assert_eq!(board.port_write(0x3f8, 1, 0x41, T0), Effect::None);
    let mut out = Vec::new();
    board.console_output(&mut |bytes| out.extend_from_slice(bytes));
    assert_eq!(out, b"A");
    for (port, value) in [(0x21, 0xef), (0x3fc, 8), (0x3f9, 1)] {
        assert_eq!(board.port_write(port, 1, value, T0), Effect::None);
    }
    assert_eq!(board.console_input(b"z"), 1);
    assert_eq!(board.acknowledge(VcpuId(0)), Some(12));
    assert_eq!(board.port_read(0x3f8, 1, T0), 0x7a);
}

/// One access of a guest, or of the host in its name.
#[derive(Clone, Copy, Debug)]
enum Access {
    In(u16),
    Out(u16, u32),
    Load(u64),
    Store(u64, u64),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Console,
    Priority(u8),
}

/// A time that passes, and what happens then.
#[derive(Clone, Copy, Debug)]
struct Step {
    pause: u64,
    vcpu: VcpuId,
    width: u8,
    access: Access,
}

fn port() -> impl Strategy<Value = u16> {
    const BASES: [u16; 14] =
        [0x20, 0xa0, 0x40, 0x60, 0x70, 0x3f8, 0x4d0, 0x510, 0x600, 0x608, 0xcf8, 0xe0, 0x2000, 0xfffc];
    prop_oneof![
        9 => (select(&BASES[..]), 0u16..8).prop_map(|(base, offset)| base.saturating_add(offset)),
        1 => any::<u16>(),
    ]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..0x40).prop_map(|number| 0xfee0_0000 + (number << 4)),
        4 => select(&[0xfec0_0000u64, 0xfec0_0010][..]),
        1 => 0xfee0_0000u64..0xfee0_1000,
        1 => 0xfec0_0000u64..0xfec0_2000,
    ]
}

fn msr() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0x800u32..0x840, 1 => Just(0x1b), 1 => Just(0x6e0), 1 => any::<u32>()]
}

/// Numbers of all magnitudes.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(bits, shift)| bits >> shift)
}

fn step() -> impl Strategy<Value = Step> {
    let access = prop_oneof![
        2 => port().prop_map(Access::In),
        4 => (port(), number()).prop_map(|(port, value)| Access::Out(port, value as u32)),
        1 => address().prop_map(Access::Load),
        3 => (address(), number()).prop_map(|(address, value)| Access::Store(address, value)),
        1 => msr().prop_map(Access::ReadMsr),
        3 => (msr(), number()).prop_map(|(msr, value)| Access::WriteMsr(msr, value)),
        1 => Just(Access::Console),
        1 => any::<u8>().prop_map(Access::Priority),
    ];
    (number(), select(&[0, 1, 2, u32::MAX][..]), select(&[1u8, 2, 4, 8, 0][..]), access).prop_map(
        |(pause, vcpu, width, access)| Step { pause: pause >> 20, vcpu: VcpuId(vcpu), width, access },
    )
}

fn perform(board: &mut Board, step: Step, now: Ticks) {
    let Step { vcpu, width, .. } = step;
    // What comes out does not matter here: it is that the call returns.
    match step.access {
        Access::In(port) => {
            let _ = board.port_read(port, width, now);
        }
        Access::Out(port, value) => {
            let _ = board.port_write(port, width, value, now);
        }
        Access::Load(address) => {
            let _ = board.mmio_read(vcpu, Gpa::new(address), width, now);
        }
        Access::Store(address, value) => {
            let _ = board.mmio_write(vcpu, Gpa::new(address), width, value, now);
        }
        Access::ReadMsr(msr) => {
            let _ = board.msr_read(vcpu, msr, now);
        }
        Access::WriteMsr(msr, value) => {
            let _ = board.msr_write(vcpu, msr, value, now);
        }
        Access::Console => {
            let _ = board.console_input(&[0; 17]);
        }
        Access::Priority(cr8) => board.set_tpr(vcpu, cr8),
    }
}

proptest! {
    /// No access panics; after each, timers lie ahead, an interrupt that is announced can be taken, and no
    /// queue grows without end.
    #[test]
    fn any_guest_is_survived(
        start in prop_oneof![Just(0), Just(u64::MAX - (1 << 40))],
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        let mut board = board(3);
        let mut now = start;
        for step in steps {
            now = u64::saturating_add(now, step.pause);
            perform(&mut board, step, Ticks(now));
            board.advance(Ticks(now));
            if now < u64::MAX - (1 << 50) {
                prop_assert!((0..4).filter_map(|vcpu| board.next_deadline(VcpuId(vcpu))).all(|due| due > Ticks(now)));
            }
            let pending = board.pending_interrupt(step.vcpu);
            prop_assert_eq!(board.acknowledge(step.vcpu), pending);
            let _ = board.take_nmi(step.vcpu);
            let _ = board.take_startup(step.vcpu);
            prop_assert!(board.console_room() <= 4096);
        }
        let mut bytes = 0;
        board.console_output(&mut |part| bytes += part.len());
        prop_assert!(bytes <= 1 << 16);
    }
}

#[test]
fn a_saved_board_goes_on_where_it_was() {
    let mut board = board(2);
    let _ = board.port_write(0x43, 1, 0x34, Ticks(10));
    let _ = board.port_write(0x40, 1, 0x10, Ticks(20));
    let _ = board.port_write(0x40, 1, 0x10, Ticks(30));
    let _ = board.port_write(0x3f8, 1, u32::from(b'x'), Ticks(40));
    let _ = board.console_input(b"input");
    let saved = postcard::to_stdvec(&board).expect("encodes");
    let mut loaded: Board = postcard::from_bytes(&saved).expect("decodes");
    assert_eq!(postcard::to_stdvec(&loaded).expect("encodes"), saved);
    assert_eq!(loaded.next_deadline(VcpuId(0)), board.next_deadline(VcpuId(0)));
    let mut output = Vec::new();
    loaded.console_output(&mut |bytes| output.extend_from_slice(bytes));
    assert_eq!(output, b"x");
    assert_eq!(loaded.port_read(0x3f8, 1, Ticks(50)), board.port_read(0x3f8, 1, Ticks(50)));
    // Cut off anywhere it is none.
    assert!((0..saved.len()).all(|len| postcard::from_bytes::<Board>(&saved[..len]).is_err()));
}

#[test]
fn a_board_of_any_file_is_refused_or_works() {
    // Numbers of one byte, each of which becomes 0 once.
    let ram = 64;
    let mut good = Board::new(&Config {
        vcpus: 2,
        tsc_hz: 100,
        ram_bytes: ram,
        ram_end: ram,
        boot_seconds: 0,
        shortest_period: 1,
        balloon: Some(0),
    });
    for (port, value) in [(0x43, 0x14), (0x40, 0x10), (0x43, 0x90), (0x42, 9), (0x70, 4)] {
        let _ = good.port_write(port, 1, value, Ticks(10));
    }
    let saved = postcard::to_stdvec(&good).expect("encodes");
    for (place, value) in
        (0..saved.len()).flat_map(|place| [0, 1, 0x55, 0x7f, 0xff].map(|value| (place, value)))
    {
        let mut changed = saved.clone();
        changed[place] = value;
        let Ok(mut loaded) = postcard::from_bytes::<Board>(&changed) else { continue };
        for now in [Ticks(50), Ticks(1 << 40), Ticks(1 << 62)] {
            loaded.advance(now);
            for port in
                (0x20..0x24).chain(0x40..0x44).chain(0x60..0x72).chain(0x3f8..0x400).chain(0x600..0x60c)
            {
                let _ = loaded.port_read(port, 1, now);
                let _ = loaded.port_write(port, 1, 0x5a, now);
            }
            for vcpu in [VcpuId(0), VcpuId(1)] {
                let _ = loaded.lend_apic(vcpu);
                let _ =
                    (loaded.pending_interrupt(vcpu), loaded.acknowledge(vcpu), loaded.next_deadline(vcpu));
                let _ = (loaded.take_startup(vcpu), loaded.take_nmi(vcpu), loaded.take_news());
            }
        }
    }
}
