//! Queues of good drivers, and of bad ones.

use super::Broken;
use super::queue::{Buffer, Places, Queue};
use super::rig::{AVAILABLE, BUFFERS, Ram, USED, places, queue};
use alloc::vec::Vec;

const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const INDIRECT: u16 = 4;

/// All buffers of the next chain, which goes back.
fn serve(queue: &mut Queue, ram: &Ram) -> Result<Option<(Vec<Buffer>, bool)>, Broken> {
    let Some(mut chain) = queue.take(ram)? else { return Ok(None) };
    let mut buffers = Vec::new();
    while let Some(buffer) = queue.next(&mut chain, ram)? {
        buffers.push(buffer);
    }
    Ok(Some((buffers, queue.put(&chain, ram)?)))
}

#[test]
fn chains_come_in_order_and_go_back() {
    let (ram, mut queue) = (Ram::new(8), queue(4));
    assert_eq!(serve(&mut queue, &ram), Ok(None));
    ram.describe(3, BUFFERS, 7, NEXT, 1);
    ram.describe(1, BUFFERS + 8, 9, DEVICE_WRITES, 0xffff);
    // More often than the indices have values: they wrap.
    for round in 0..70_000u32 {
        ram.offer(4, 3);
        let (buffers, interrupt) = serve(&mut queue, &ram).unwrap().unwrap();
        assert_eq!(buffers[0], Buffer { gpa: BUFFERS, len: 7, device_writes: false });
        assert_eq!(buffers[1], Buffer { gpa: BUFFERS + 8, len: 9, device_writes: true });
        assert_eq!((buffers.len(), interrupt), (2, true));
        assert_eq!(ram.get_u16(USED + 2), (round + 1) as u16);
        assert_eq!(ram.get_u16(USED + 4 + 8 * u64::from(round % 4)), 3);
    }
    ram.put_u16(AVAILABLE, 1);
    ram.offer(4, 3);
    assert_eq!(serve(&mut queue, &ram).map(|chain| chain.unwrap().1), Ok(false), "no interrupt was wanted");
}

#[test]
fn a_chain_may_have_as_many_descriptors_as_the_queue_and_no_more() {
    let (ram, mut queue) = (Ram::new(8), queue(4));
    (0..3).for_each(|number| ram.describe(number, BUFFERS, 1, NEXT, number + 1));
    ram.describe(3, BUFFERS, 1, 0, 0);
    ram.offer(4, 0);
    assert_eq!(serve(&mut queue, &ram).unwrap().unwrap().0.len(), 4);
    // In a circle.
    ram.describe(3, BUFFERS, 1, NEXT, 0);
    ram.offer(4, 0);
    assert_eq!(serve(&mut queue, &ram), Err(Broken));
}

#[test]
fn what_lies_beyond_the_queue_is_refused() {
    for (head, flags, next) in [(4, 0, 0), (0xffff, 0, 0), (0, NEXT, 4), (0, INDIRECT, 0)] {
        let (ram, mut queue) = (Ram::new(8), queue(4));
        ram.describe(0, BUFFERS, 1, flags, next);
        ram.offer(4, head);
        assert_eq!(serve(&mut queue, &ram), Err(Broken), "{head} {flags} {next}");
    }
    for (index, expected) in [(4, Ok(())), (5, Err(Broken)), (0x8000, Err(Broken)), (0xffff, Err(Broken))] {
        let (ram, mut queue) = (Ram::new(8), queue(4));
        ram.put_u16(AVAILABLE + 2, index);
        assert_eq!(queue.take(&ram).map(|chain| assert!(chain.is_some())), expected, "{index}");
    }
}

#[test]
fn rings_outside_of_ram_are_refused_when_they_are_used() {
    let ram = Ram::new(8);
    let end = 8 * 4096;
    for places in [
        Places { descriptors: end, ..places(4) },
        Places { available: end - 4, ..places(4) },
        Places { used: end - 8, ..places(4) },
    ] {
        let mut queue = Queue::new(&places).unwrap();
        ram.put_u16(places.available + 2, 1);
        assert_eq!(serve(&mut queue, &ram), Err(Broken), "{places:x?}");
    }
}

#[test]
fn impossible_queues_are_none() {
    for size in [0, 3, 256, 0x1_0000, u32::MAX] {
        assert_eq!(Queue::new(&Places { size, ..places(4) }), Err(Broken), "{size}");
    }
    for bad in [
        Places { descriptors: 8, ..places(4) },
        Places { available: 1, ..places(4) },
        Places { used: 2, ..places(4) },
        Places { descriptors: !15, ..places(4) },
        Places { used: (1 << 52) - 4, ..places(4) },
    ] {
        assert_eq!(Queue::new(&bad), Err(Broken), "{bad:x?}");
    }
}

#[test]
fn a_saved_queue_is_one_that_a_driver_may_have() {
    let saved = postcard::to_stdvec(&queue(4)).expect("encodes");
    assert_eq!(postcard::from_bytes(&saved), Ok(queue(4)));
    for size in [0, 3, 127] {
        let mut changed = saved.clone();
        changed[0] = size;
        assert!(postcard::from_bytes::<Queue>(&changed).is_err(), "{size}");
    }
}
