//! What separately built programs hand each other, damaged: boot package, hand-off, a disk's label, configuration,
//! frames of the link.
//!
//! Nothing panics; what is accepted is what it claims to be. Checksums are mended in half of the inputs, or nothing
//! would get past them.
#![no_main]

use abi::config::BootConfig;
use abi::handoff::{self, HandOff, MAX_REGIONS};
use abi::link;
use abi::package::{self, Entry, MAX_ENTRIES, PackageHeader, Table};
use abi::swapdisk::{self, Label};
use abi::telemetry::Telemetry;
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};
use zerocopy::{FromBytes, IntoBytes};

#[derive(Arbitrary, Debug)]
enum What {
    Package { sealed: bool },
    HandOff { sealed: bool },
    Config,
    Telemetry,
    Link { piece: u8 },
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    what: What,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    match input.what {
        What::Package { sealed } => open_package(input.bytes, sealed),
        What::HandOff { sealed } => {
            take_hand_off(input.bytes, sealed);
            read_label(input.bytes, sealed);
        }
        What::Config => read_config(input.bytes),
        What::Telemetry => same_again::<Telemetry>(input.bytes),
        What::Link { piece } => follow_link(input.bytes, usize::from(piece) + 1),
    }
});

fn open_package(bytes: &[u8], sealed: bool) {
    let mut bytes = bytes.to_vec();
    if sealed {
        seal_package(&mut bytes);
    }
    match Table::parse(&bytes) {
        Ok(table) => {
            assert!(table.entries().len() <= MAX_ENTRIES);
            for entry in table.entries() {
                assert!(entry.name().len() <= entry.name.len());
                assert!(entry.kind().is_none_or(|kind| kind as u32 == entry.kind.get()));
                assert!(entry.offset.get() + entry.len.get() <= table.total_len());
                let payload = entry.payload(&bytes);
                // The package may be cut short; what is handed out is whole.
                assert!(payload.is_none_or(|payload| payload.len() as u64 == entry.len.get()));
                assert!(payload.is_some() || table.total_len() > bytes.len() as u64);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Gives a package the right magic, version and checksum.
fn seal_package(bytes: &mut [u8]) {
    let Ok((header, rest)) = PackageHeader::mut_from_prefix(bytes) else { return };
    header.magic = package::MAGIC;
    header.version = package::VERSION.into();
    let count = header.count.get() as usize % (MAX_ENTRIES + 2);
    header.count = (count as u32).into();
    if let Ok((entries, _)) = <[Entry]>::ref_from_prefix_with_elems(rest, count.min(MAX_ENTRIES)) {
        header.checksum = package::checksum(header, entries).into();
    }
}

fn take_hand_off(bytes: &[u8], sealed: bool) {
    let mut hand_off = HandOff::new(handoff::Loader::Bios);
    let len = bytes.len().min(size_of::<HandOff>());
    hand_off.as_mut_bytes()[..len].copy_from_slice(&bytes[..len]);
    if sealed {
        (hand_off.magic, hand_off.version) = (handoff::MAGIC, handoff::VERSION);
        hand_off.region_count %= MAX_REGIONS as u32 + 2;
        hand_off.seal();
    }
    match hand_off.check() {
        Ok(()) => assert_eq!(hand_off.regions().len(), hand_off.region_count as usize),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The label, then the size of its disk.
fn read_label(bytes: &[u8], sealed: bool) {
    let Ok((label, rest)) = Label::read_from_prefix(bytes) else { return };
    let mut label = label;
    if sealed {
        (label.magic, label.version) = (swapdisk::MAGIC, swapdisk::VERSION.into());
        label.checksum = label.computed_checksum().into();
    }
    let disk_bytes = u64::read_from_prefix(rest).map_or(0, |(bytes, _)| bytes);
    match label.check(disk_bytes) {
        // Every slot lies on the disk.
        Ok(slots) => assert!((slots + 1) * swapdisk::SLOT_BYTES <= disk_bytes),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A configuration borrows its names; it comes out as it went in.
fn read_config(bytes: &[u8]) {
    let Ok(config) = postcard::from_bytes::<BootConfig<'_>>(bytes) else { return };
    let again = postcard::to_allocvec(&config).expect("it was read");
    assert_eq!(postcard::from_bytes::<BootConfig<'_>>(&again).as_ref(), Ok(&config));
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(value) = postcard::from_bytes::<T>(bytes) else { return };
    let again = postcard::to_allocvec(&value).expect("it was read");
    assert_eq!(postcard::from_bytes::<T>(&again).as_ref(), Ok(&value));
}

/// The same frames come out whether the bytes come at once or piece by piece.
fn follow_link(bytes: &[u8], piece: usize) {
    let mut whole = Vec::new();
    let rest = take_frames(bytes, &mut whole);
    let (mut pieces, mut held) = (Vec::new(), Vec::new());
    for part in bytes.chunks(piece) {
        held.extend_from_slice(part);
        held = take_frames(&held, &mut pieces);
    }
    assert_eq!((whole, rest), (pieces, held));
}

/// Whether more bytes could make this a frame.
fn is_begun(bytes: &[u8]) -> bool {
    match *bytes {
        [sync, _, low, high, ..] => {
            let len = usize::from(u16::from_le_bytes([low, high]));
            sync == link::SYNC && len <= link::MAX_PAYLOAD && bytes.len() < 4 + len
        }
        [sync, ..] => sync == link::SYNC,
        [] => false,
    }
}

/// Takes whole frames out of the front; what is left for when more has come.
fn take_frames(mut bytes: &[u8], frames: &mut Vec<(u8, Vec<u8>)>) -> Vec<u8> {
    loop {
        let (frame, used) = link::decode(bytes);
        if let Some(frame) = frame {
            assert!(frame.payload.len() <= link::MAX_PAYLOAD && used >= 4 + frame.payload.len());
            frames.push((frame.channel, frame.payload.to_vec()));
        }
        bytes = &bytes[used..];
        if used == 0 {
            assert!(bytes.is_empty() || is_begun(bytes), "{bytes:02x?} is never done with");
            return bytes.to_vec();
        }
    }
}
