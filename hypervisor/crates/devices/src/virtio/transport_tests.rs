//! The registers, as drivers use them and as they must not.

use super::Broken;
use super::queue::LARGEST;
use super::rig::{AVAILABLE, DESCRIPTORS, USED};
use super::transport::{Identity, Served, Transport, status};

const IDENTITY: Identity<2> = Identity { device: 5, features: 1 << 2 | 1 << 40, sizes: [LARGEST, 0] };
const STATUS: u64 = 0x70;
const INTERRUPT: u64 = 0x60;
const CHAIN: Result<Served, Broken> = Ok(Served::Chain { interrupt: true });

fn write(transport: &mut Transport<2>, writes: &[(u64, u32)]) {
    for &(offset, value) in writes {
        assert!(!transport.write(offset, value), "{offset:#x} is no notification");
    }
}

/// Up to FEATURES_OK.
fn negotiated() -> Transport<2> {
    let mut transport = Transport::new(IDENTITY);
    write(&mut transport, &[(STATUS, 1), (STATUS, 3), (0x24, 0), (0x20, 1 << 2), (0x24, 1), (0x20, 1)]);
    write(&mut transport, &[(STATUS, 0xb)]);
    transport
}

fn set_queue_up(transport: &mut Transport<2>) {
    let places =
        [(0x80, DESCRIPTORS as u32), (0x90, AVAILABLE as u32), (0xa0, USED as u32), (0x84, 0), (0x94, 0)];
    write(transport, &[(0x30, 0), (0x38, 8)]);
    write(transport, &places);
    write(transport, &[(0xa4, 0), (0x44, 1)]);
}

fn driven() -> Transport<2> {
    let mut transport = negotiated();
    set_queue_up(&mut transport);
    write(&mut transport, &[(STATUS, 0xf)]);
    transport
}

#[test]
fn who_it_is() {
    let mut transport = Transport::new(IDENTITY);
    assert_eq!([0, 4, 8].map(|offset| transport.read(offset)), [0x7472_6976, 2, 5]);
    assert_eq!(transport.read(0x10), 1 << 2);
    write(&mut transport, &[(0x14, 1)]);
    assert_eq!(transport.read(0x10), 1 << 8 | 1, "VIRTIO_F_VERSION_1, and one of the device's");
    write(&mut transport, &[(0x14, 2)]);
    assert_eq!(transport.read(0x10), 0);
    assert_eq!(transport.read(0x34), LARGEST.into());
    for missing in [1, 2, u32::MAX] {
        write(&mut transport, &[(0x30, missing), (0x38, 8), (0x44, 1)]);
        assert_eq!([0x34, 0x44, STATUS].map(|offset| transport.read(offset)), [0; 3], "queue {missing}");
    }
    assert_eq!([0xb0, 0xbc].map(|offset| transport.read(offset)), [u32::MAX; 2], "no shared memory");
}

#[test]
fn features_are_accepted_only_as_offered_and_with_version_1() {
    assert_eq!(negotiated().read(STATUS), 0xb);
    for (low, high) in [(1 << 2, 0), (1 << 3, 1), (0, 1 | 1 << 9)] {
        let mut transport = Transport::new(IDENTITY);
        write(&mut transport, &[(STATUS, 3), (0x20, low), (0x24, 1), (0x20, high), (STATUS, 0xb)]);
        assert_eq!(transport.read(STATUS), 3, "{low:#x} {high:#x}");
    }
    // Not any more afterwards.
    let mut transport = negotiated();
    write(&mut transport, &[(0x20, 0), (STATUS, 0xf)]);
    assert_eq!(transport.read(STATUS), 0xf);
}

#[test]
fn a_notification_is_served_once_the_driver_works() {
    let mut transport = negotiated();
    assert!(!transport.write(0x50, 0), "no queue yet");
    set_queue_up(&mut transport);
    assert!(!transport.write(STATUS, 0xf), "nobody has notified");
    assert!(transport.lend().is_none());
    assert!(transport.write(0x50, 0));
    assert!(!transport.write(0x50, 1) && !transport.write(0x50, u32::MAX), "no such queue");
    let loan = transport.lend().unwrap();
    assert!(transport.lend().is_none(), "it is out");
    assert!(transport.give_back(&loan, CHAIN));
    assert_eq!((transport.line(), transport.read(INTERRUPT)), (true, 1));
    write(&mut transport, &[(0x64, 1)]);
    assert!(!transport.line());
    let loan = transport.lend().expect("there may be more");
    assert!(transport.give_back(&loan, Ok(Served::Nothing)));
    assert!(transport.lend().is_none() && !transport.line());
    assert!(!transport.give_back(&loan, CHAIN), "it is not out");
}

#[test]
fn a_notification_before_driver_ok_is_not_lost() {
    let mut transport = negotiated();
    set_queue_up(&mut transport);
    assert!(!transport.write(0x50, 0) && transport.lend().is_none(), "the driver does not work yet");
    assert!(transport.write(STATUS, 0xf));
    let loan = transport.lend().unwrap();
    assert!(transport.give_back(&loan, CHAIN) && transport.line());
    // A reset forgets it.
    write(&mut transport, &[(STATUS, 0), (0x20, 0), (0x24, 1), (0x20, 1), (STATUS, 0xb)]);
    set_queue_up(&mut transport);
    assert!(!transport.write(STATUS, 0xf) && transport.lend().is_none());
}

#[test]
fn a_notification_while_the_queue_is_out_is_not_lost() {
    let mut transport = driven();
    assert!(transport.write(0x50, 0));
    let loan = transport.lend().unwrap();
    assert!(transport.write(0x50, 0));
    assert!(transport.give_back(&loan, Ok(Served::Nothing)));
    assert!(transport.lend().is_some());
}

#[test]
fn a_reset_is_complete_once_the_queue_is_back() {
    let mut transport = driven();
    assert!(transport.write(0x50, 0));
    let loan = transport.lend().unwrap();
    write(&mut transport, &[(STATUS, 0)]);
    assert_eq!(transport.read(STATUS), 0xf, "buffers are in use");
    write(&mut transport, &[(STATUS, 1)]);
    assert!(!transport.give_back(&loan, CHAIN));
    assert_eq!((transport.read(STATUS), transport.read(0x44), transport.line()), (0, 0, false));
    assert!(transport.lend().is_none());
}

#[test]
fn a_queue_that_was_reset_while_it_was_out_begins_anew() {
    let mut transport = driven();
    assert!(transport.write(0x50, 0));
    let mut loan = transport.lend().unwrap();
    let fresh = loan.queue;
    let ram = super::rig::Ram::new(8);
    ram.offer(8, 0);
    assert!(loan.queue.take(&ram).unwrap().is_some());
    write(&mut transport, &[(0x44, 0), (0x44, 1)]);
    assert!(!transport.give_back(&loan, CHAIN) && !transport.line());
    assert!(transport.write(0x50, 0));
    assert_eq!(transport.lend().unwrap().queue, fresh);
}

#[test]
fn whoever_breaks_the_protocol_needs_a_reset() {
    let mut transport = driven();
    assert!(transport.write(0x50, 0));
    let loan = transport.lend().unwrap();
    assert!(transport.give_back(&loan, Err(Broken)));
    assert_eq!(transport.read(STATUS), 0xf | status::NEEDS_RESET);
    assert_eq!(transport.read(INTERRUPT), 2, "the driver hears of it");
    assert!(!transport.write(0x50, 0) && transport.lend().is_none());
    write(&mut transport, &[(STATUS, 0)]);
    assert_eq!((transport.read(STATUS), transport.line()), (0, false));
    // A queue that cannot be.
    let mut transport = negotiated();
    write(&mut transport, &[(0x30, 0), (0x38, 7), (0x44, 1)]);
    assert_eq!((transport.read(0x44), transport.read(STATUS)), (0, 0xb | status::NEEDS_RESET));
}

#[test]
fn a_queue_that_is_ready_stays_as_it_is() {
    let mut transport = driven();
    write(&mut transport, &[(0x38, 4), (0x80, 0x7000)]);
    assert!(transport.write(0x50, 0));
    assert_eq!(transport.lend().unwrap().queue, super::rig::queue(8));
}

#[test]
fn generations_survive_resets() {
    let mut transport = driven();
    transport.configuration_changed();
    assert_eq!((transport.read(0xfc), transport.read(INTERRUPT)), (1, 2));
    write(&mut transport, &[(STATUS, 0)]);
    assert_eq!(transport.read(0xfc), 1);
    transport.configuration_changed();
    assert_eq!((transport.read(0xfc), transport.line()), (2, false), "nobody listens");
}
