//! Configuration spaces, from QEMU's to an enemy's.

use super::{Kind, Structure, StructureError, Structures, WORDS};
use addr::{Hpa, HpaRange};
use alloc::string::ToString;

/// What QEMU's virtio-blk has: MSI-X, then access by configuration space (kind 5), then the four, last one first.
fn qemu() -> [u32; WORDS] {
    let mut words = [0; WORDS];
    words[1] = 0x0010_0507;
    words[0x34 / 4] = 0x98;
    let mut put = |at: usize, values: &[u32]| words[at / 4..][..values.len()].copy_from_slice(values);
    put(0x98, &[0x8001_8411, 0x1, 0x801]);
    put(0x84, &[0x0514_7009, 0, 0, 0, 0]);
    put(0x70, &[0x0214_6009, 4, 0x3000, 0x1000, 4]);
    put(0x60, &[0x0410_5009, 4, 0x2000, 0x1000]);
    put(0x50, &[0x0310_4009, 4, 0x1000, 0x1000]);
    put(0x40, &[0x0110_0009, 4, 0, 0x1000]);
    words
}

fn changed(at: usize, value: u32) -> Result<Structures, StructureError> {
    let mut words = qemu();
    words[at / 4] = value;
    Structures::find(&words)
}

#[test]
fn qemus_structures_are_found() {
    let found = Structures::find(&qemu()).expect("as QEMU has it");
    let at = |kind, offset| Structure { kind, bar: 4, offset, len: 0x1000 };
    let all =
        [at(Kind::Common, 0), at(Kind::Notify, 0x3000), at(Kind::Isr, 0x1000), at(Kind::Device, 0x2000)];
    assert_eq!(found, Structures { all, notify_multiplier: 4 });
}

#[test]
fn the_first_of_a_kind_counts() {
    // The first capability of all becomes another common structure.
    let mut words = qemu();
    words[0x98 / 4..][..4].copy_from_slice(&[0x0110_8409, 2, 0x40, 0x38]);
    let found = Structures::find(&words).expect("two are no error");
    assert_eq!(found.all[0], Structure { kind: Kind::Common, bar: 2, offset: 0x40, len: 0x38 });
}

#[test]
fn a_list_that_is_none() {
    assert_eq!(changed(0x40, 0x0110_9809), Err(StructureError::Endless));
    assert_eq!(changed(0x40, 0x0110_3c09), Err(StructureError::Next { offset: 0x3c }));
    assert_eq!(changed(0x40, 0x0110_4109), Err(StructureError::Next { offset: 0x41 }));
    assert_eq!(changed(0x34, 0x10), Err(StructureError::Next { offset: 0x10 }));
    assert_eq!(changed(0x84, 0x05ff_7009), Err(StructureError::Long { offset: 0x84, len: 0xff }));
    assert_eq!(changed(0x04, 0), Err(StructureError::Missing(Kind::Common)));
    assert_eq!(changed(0x60, 0x0610_5009), Err(StructureError::Missing(Kind::Device)));
    // Too short for its multiplier: no such structure.
    assert_eq!(changed(0x70, 0x0210_6009), Err(StructureError::Missing(Kind::Notify)));
}

#[test]
fn a_capability_at_the_end_stays_inside() {
    let mut words = qemu();
    words[0x40 / 4] = 0x0110_fc09;
    words[0xfc / 4] = 0x0114_0009;
    assert_eq!(Structures::find(&words), Err(StructureError::Long { offset: 0xfc, len: 0x14 }));
    words[0xfc / 4] = 0x0104_0009;
    assert!(Structures::find(&words).is_ok());
}

#[test]
fn structures_that_cannot_be() {
    let odd = |result| matches!(result, Err(StructureError::Odd(_)));
    assert!(odd(changed(0x44, 6)), "BARs are 0 to 5");
    assert!(odd(changed(0x4c, 55)), "a short common structure");
    assert!(odd(changed(0x6c, 7)), "no room for a capacity");
    assert!(odd(changed(0x7c, u32::MAX)), "longer than anybody needs");
    assert!(odd(changed(0x78, u32::MAX)), "an end beyond 32 bits");
}

#[test]
fn a_structure_lies_in_its_bar() {
    let structure = Structure { kind: Kind::Device, bar: 4, offset: 0x2000, len: 0x1000 };
    let range = HpaRange::new(Hpa::new(0xfe00_2000), Hpa::new(0xfe00_3000));
    assert_eq!(structure.place(0xfe00_0000, 0x3000), Ok(range));
    for (bar_start, bar_bytes) in
        [(0xfe00_0000, 0x2fff), (0, 0x4000), (u64::MAX - 0xfff, 0x4000), ((1 << 52) - 0x2000, 0x4000)]
    {
        let outside = StructureError::Outside { structure, bar_start, bar_bytes };
        assert_eq!(structure.place(bar_start, bar_bytes), Err(outside));
    }
    let last = Structure { offset: u32::MAX, len: u32::MAX, ..structure };
    assert!(last.place(1, u64::MAX).is_ok());
}

#[test]
fn a_queue_is_told_inside_the_structure() {
    let mut found = Structures::find(&qemu()).expect("as QEMU has it");
    assert_eq!(found.check_notify(0x3ff), Ok(()));
    let error = StructureError::Notify { queue_offset: 0x400, multiplier: 4, len: 0x1000 };
    assert_eq!(found.check_notify(0x400), Err(error));
    found.notify_multiplier = u32::MAX;
    assert!(found.check_notify(u16::MAX).is_err());
    assert_eq!(found.check_notify(0), Ok(()));
}

/// Each byte of configuration space with each value: nothing panics, errors have words, structures are possible ones.
#[test]
fn any_byte_may_be_wrong() {
    for index in 0..WORDS * 4 {
        for value in 0..=u8::MAX {
            let mut words = qemu();
            let mut bytes = words[index / 4].to_le_bytes();
            bytes[index % 4] = value;
            words[index / 4] = u32::from_le_bytes(bytes);
            match Structures::find(&words) {
                Ok(found) => assert!(found.all.iter().all(|structure| structure.bar < 6)),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}
