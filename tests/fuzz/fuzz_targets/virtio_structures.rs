//! A virtio device's configuration space from an enemy, and a BAR.
//!
//! ```text
//!   input = start and bytes of the BAR, a queue's offset │ 64 words
//! ```
//!
//! What is accepted lies in its BAR, has each kind of structure once, and is what the first capability of its kind says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use startup::virtio::{Structure, StructureError, Structures, WORDS};
use std::collections::BTreeSet;

fuzz_target!(|input: (u64, u64, u16, [u32; WORDS])| {
    let (bar_start, bar_bytes, queue_offset, configuration) = input;
    let structures = match Structures::find(&configuration) {
        Ok(structures) => structures,
        Err(error) => return check_error(&error),
    };
    for structure in &structures.all {
        assert_eq!(
            Some((structure.bar, structure.offset, structure.len)),
            first_of(&configuration, structure)
        );
        match structure.place(bar_start, bar_bytes) {
            Ok(range) => {
                let (start, end) = (range.start().as_u64(), range.end().as_u64());
                assert!(bar_start != 0 && start == bar_start + u64::from(structure.offset), "{range}");
                assert!(end - bar_start <= bar_bytes, "{range}");
            }
            Err(error) => check_error(&error),
        }
    }
    if let Err(error) = structures.check_notify(queue_offset) {
        check_error(&error);
    }
});

fn check_error(error: &StructureError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
}

/// BAR, offset and length in the first capability of this kind, by a second reader.
fn first_of(configuration: &[u32; WORDS], structure: &Structure) -> Option<(u8, u32, u32)> {
    let byte = |at: u8| (configuration[usize::from(at / 4)] >> (8 * (at % 4))) as u8;
    let number = structure.kind as u8 + 1;
    let (mut at, mut seen) = (byte(0x34) & !3, BTreeSet::new());
    while at >= 64 && seen.insert(at) {
        let least = if number == 2 { 20 } else { 16 };
        if byte(at) == 9 && byte(at + 3) == number && byte(at + 2) >= least {
            let word = usize::from(at / 4);
            return Some((byte(at + 4), configuration[word + 2], configuration[word + 3]));
        }
        at = byte(at + 1);
    }
    None
}
