//! The balloon with a driver that behaves, and with some that do not.

use super::{ACTUAL, Balloon, DEFLATE, Given, INFLATE, REPORT, REPORT_DENSE};
use crate::virtio::rig::{AVAILABLE, BUFFERS, DESCRIPTORS, PAGE, Ram, USED};
use crate::virtio::transport::{CONFIG, status};
use alloc::vec::Vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

const STATUS: u64 = 0x70;
const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const SIZE: u16 = 64;
const PAGES: u64 = 2048;

fn write(balloon: &mut Balloon, offset: u64, value: u32) -> bool {
    balloon.write(offset, 4, value)
}

fn read(balloon: &Balloon, offset: u64) -> u64 {
    balloon.read(offset, 4)
}

/// A driver that has set one queue up, and works.
fn drive(balloon: &mut Balloon, queue: usize) {
    for (offset, value) in
        [(STATUS, 0), (STATUS, 1), (STATUS, 3), (0x24, 0), (0x20, 0x24), (0x24, 1), (0x20, 1)]
    {
        assert!(!write(balloon, offset, value));
    }
    let places = [(0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED)].map(|(at, gpa)| (at, gpa as u32));
    let queue = [(STATUS, 0xb), (0x30, queue as u32), (0x38, SIZE.into())];
    for (offset, value) in queue.into_iter().chain(places).chain([(0x44, 1), (STATUS, 0xf)]) {
        assert!(!write(balloon, offset, value));
    }
    assert_eq!(read(balloon, STATUS), 0xf);
}

fn driven(queue: usize) -> (Balloon, Ram) {
    let mut balloon = Balloon::new(0);
    drive(&mut balloon, queue);
    (balloon, Ram::new(PAGES))
}

/// Notifies, and serves until nothing waits.
fn notify(balloon: &mut Balloon, queue: usize, ram: &Ram) {
    if !write(balloon, 0x50, queue as u32) {
        return;
    }
    serve(balloon, ram);
}

fn serve(balloon: &mut Balloon, ram: &Ram) -> usize {
    let mut served = 0;
    while let Some(mut work) = balloon.lend() {
        work.perform(ram);
        balloon.give_back(&work);
        served += 1;
    }
    served
}

fn send_numbers(balloon: &mut Balloon, queue: usize, ram: &Ram, numbers: impl IntoIterator<Item = u32>) {
    let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
    ram.put(BUFFERS, &bytes);
    ram.describe(0, BUFFERS, bytes.len() as u32, 0, 0);
    ram.offer(SIZE, 0);
    notify(balloon, queue, ram);
}

#[test]
fn numbers_in_any_order_are_discarded_in_few_ranges() {
    let (mut balloon, ram) = driven(INFLATE);
    // As Linux has them: 256, here from two places, one going up, one going down, and one of them twice.
    let up = 100..200;
    let down = (300..455).rev().chain([300]);
    send_numbers(&mut balloon, INFLATE, &ram, up.chain(down));
    assert_eq!(ram.take_discarded(), [(100, 200), (300, 455)]);
    assert_eq!(balloon.state().given, Given { inflated: 255, reported: 0, ranges: 2 });
    assert_eq!((balloon.line(), ram.get_u16(USED + 2)), (true, 1));
    // Every second page: no two join, and what waits is discarded in between.
    send_numbers(&mut balloon, INFLATE, &ram, (0..200).map(|number| 500 + 2 * number));
    assert_eq!(ram.take_discarded().len(), 200);
}

#[test]
fn what_is_no_ram_stays() {
    let (mut balloon, ram) = driven(INFLATE);
    send_numbers(&mut balloon, INFLATE, &ram, [7, PAGES as u32, u32::MAX, 9]);
    assert_eq!(ram.take_discarded(), [(7, 8), (9, 10)]);
    assert_eq!((balloon.state().given.inflated, read(&balloon, STATUS)), (2, 0xf));
}

#[test]
fn what_is_taken_back_comes_when_it_is_touched() {
    let (mut balloon, ram) = driven(DEFLATE);
    send_numbers(&mut balloon, DEFLATE, &ram, 0..256);
    assert!(ram.take_discarded().is_empty() && balloon.line());
    assert_eq!(balloon.state().given, Given::default());
}

#[test]
fn a_report_of_neighbours_is_one_range() {
    for queue in [REPORT_DENSE, REPORT] {
        let (mut balloon, ram) = driven(queue);
        let block = 64 * PAGE;
        for number in 0..16 {
            // Two runs of eight blocks, backwards.
            let place = u64::from(15 - number) + if number < 8 { 4 } else { 0 };
            let flags = DEVICE_WRITES | if number < 15 { NEXT } else { 0 };
            ram.describe(number, place * block, block as u32, flags, number + 1);
        }
        ram.offer(SIZE, 0);
        notify(&mut balloon, queue, &ram);
        assert_eq!(ram.take_discarded(), [(0, 512), (768, 1280)]);
        assert_eq!(balloon.state().given, Given { inflated: 0, reported: 1024, ranges: 2 });
    }
}

#[test]
fn only_whole_pages_of_a_report_count() {
    let (mut balloon, ram) = driven(REPORT);
    ram.describe(0, PAGE - 1, 2 * PAGE as u32 + 2, DEVICE_WRITES | NEXT, 1);
    ram.describe(1, 5 * PAGE + 1, PAGE as u32, DEVICE_WRITES | NEXT, 2);
    ram.describe(2, 9 * PAGE, 0, DEVICE_WRITES, 0);
    ram.offer(SIZE, 0);
    notify(&mut balloon, REPORT, &ram);
    assert_eq!(ram.take_discarded(), [(1, 3)]);
}

#[test]
fn drivers_that_break_the_protocol_need_a_reset_and_can_go_on_then() {
    let cases = [
        // Buffers of the wrong direction, of no whole numbers, of too many, outside RAM, beyond all addresses.
        (INFLATE, BUFFERS, 8, DEVICE_WRITES),
        (INFLATE, BUFFERS, 7, 0),
        (INFLATE, BUFFERS, u32::MAX - 3, 0),
        (INFLATE, PAGES * PAGE - 4, 8, 0),
        (INFLATE, u64::MAX - 3, 8, 0),
        (REPORT, BUFFERS, PAGE as u32, 0),
        (REPORT, u64::MAX - 1, 4096, DEVICE_WRITES),
    ];
    for (queue, gpa, len, flags) in cases {
        let (mut balloon, ram) = driven(queue);
        ram.describe(0, gpa, len, flags, 0);
        ram.offer(SIZE, 0);
        notify(&mut balloon, queue, &ram);
        assert_eq!(read(&balloon, STATUS), u64::from(0xf | status::NEEDS_RESET), "{gpa:#x} {len:#x} {flags}");
        assert!(!write(&mut balloon, 0x50, queue as u32));
        assert!(ram.take_discarded().is_empty());
        ram.put(AVAILABLE, &[0; 8]);
        drive(&mut balloon, INFLATE);
        send_numbers(&mut balloon, INFLATE, &ram, [17]);
        assert_eq!(ram.take_discarded(), [(17, 18)]);
    }
}

#[test]
fn a_driver_that_takes_pages_back_by_itself_is_not_asked_again() {
    let mut balloon = Balloon::new(1000);
    drive(&mut balloon, INFLATE);
    let actual = |balloon: &mut Balloon, pages| assert!(!write(balloon, CONFIG + ACTUAL, pages));
    assert_eq!((read(&balloon, CONFIG), read(&balloon, CONFIG + ACTUAL)), (1000, 0));
    for pages in [256, 512, 768, 1000] {
        actual(&mut balloon, pages);
    }
    assert_eq!((balloon.state().target, balloon.line()), (1000, false));
    actual(&mut balloon, 744);
    assert_eq!((balloon.state().target, read(&balloon, CONFIG), balloon.line()), (744, 744, true));
    // Not because it was asked to give less.
    balloon.set_target(200);
    actual(&mut balloon, 300);
    assert_eq!(balloon.state().target, 200);
}

#[test]
fn registers_take_words_and_the_configuration_any_width() {
    let mut balloon = Balloon::new(0x0012_3456);
    assert_eq!((balloon.read(0, 2), balloon.read(2, 4), balloon.read(0, 8)), (0, 0, 0));
    assert_eq!((balloon.read(CONFIG + 1, 1), balloon.read(CONFIG, 8)), (0x34, 0x0012_3456));
    assert_eq!((balloon.read(CONFIG + 8, 4), balloon.read(0xfff, 1)), (0, 0));
    assert!(!balloon.write(STATUS, 2, 1) && !balloon.write(STATUS + 1, 4, 1));
    assert!(!balloon.write(CONFIG, 4, 7), "num_pages is not the driver's");
    assert_eq!((read(&balloon, STATUS), read(&balloon, CONFIG)), (0, 0x0012_3456));
}

/// What a driver that has gone mad does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Register(u64, u32),
    /// Anywhere near the rings and descriptors.
    Memory(u64, u16),
    Describe(u16, u64, u32, u16, u16),
    Offer(u16),
    Notify(usize),
    /// Serves what waits while a step of another processor's happens.
    ServeAcross(u64, u32),
}

fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(bits, shift)| bits >> shift)
}

fn step() -> impl Strategy<Value = Step> {
    let register = (0u64..0x44).prop_map(|number| 4 * number);
    prop_oneof![
        2 => (register.clone(), number()).prop_map(|(at, value)| Step::Register(at, value as u32)),
        2 => (0u64..0x1800, any::<u16>()).prop_map(|(at, value)| Step::Memory(DESCRIPTORS + 2 * at, value)),
        4 => (0u16..SIZE + 2, number(), number(), 0u16..8, 0u16..SIZE + 2)
            .prop_map(|(at, gpa, len, flags, next)| Step::Describe(at, gpa, len as u32, flags, next)),
        4 => (0u16..SIZE + 2).prop_map(Step::Offer),
        6 => (0usize..6).prop_map(Step::Notify),
        1 => (register, number()).prop_map(|(at, value)| Step::ServeAcross(at, value as u32)),
    ]
}

fn perform(balloon: &mut Balloon, ram: &Ram, step: Step) {
    match step {
        Step::Register(at, value) => {
            let _ = balloon.write(at, 4, value);
        }
        Step::Memory(at, value) => ram.put_u16(at, value),
        Step::Describe(number, gpa, len, flags, next) => ram.describe(number, gpa, len, flags, next),
        Step::Offer(head) => ram.offer(SIZE, head),
        Step::Notify(queue) => notify(balloon, queue, ram),
        Step::ServeAcross(at, value) => {
            let Some(mut work) = balloon.lend() else { return };
            assert!(balloon.lend().is_none());
            work.perform(ram);
            let _ = balloon.write(at, 4, value);
            balloon.give_back(&work);
        }
    }
}

proptest! {
    /// No driver makes the device panic, or serve without end; and after a reset a good one works.
    #[test]
    fn any_driver_is_survived(
        queue in 0usize..5,
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let (mut balloon, ram) = driven(INFLATE);
        drive(&mut balloon, queue % 3);
        for step in steps {
            perform(&mut balloon, &ram, step);
            // At most what a queue holds, an empty look, and what other queues hold.
            prop_assert!(serve(&mut balloon, &ram) <= 5 * (usize::from(SIZE) + 1) * 2);
        }
        ram.take_discarded();
        ram.put(AVAILABLE, &[0; 8]);
        drive(&mut balloon, INFLATE);
        send_numbers(&mut balloon, INFLATE, &ram, [17]);
        prop_assert_eq!(ram.take_discarded(), [(17, 18)]);
    }
}
