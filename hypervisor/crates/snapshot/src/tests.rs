//! Snapshots in a vector: what was written is read; what was changed, cut off or never finished is refused.

mod chain;

use crate::error::room_for;
use crate::layout::CHUNK;
use crate::{
    Blocks, Features, Header, Machine, OpenError, PAGE_BYTES, Page, PageError, Processor, Range, Sink,
    Snapshot, WorkingSet, Writer, most_bytes,
};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use proptest::prelude::{Strategy, any, proptest};
use std::collections::BTreeMap;

extern crate std;

/// A disk of pages.
struct Disk(RefCell<Vec<u8>>);

/// A page that a disk does not have.
#[derive(PartialEq, Eq, Debug)]
struct Beyond(u64);

impl Disk {
    fn for_memory(pages: u64) -> Self {
        let bytes = most_bytes(pages * PAGE_BYTES as u64);
        let mut disk = vec![0; bytes as usize];
        disk[..PAGE_BYTES].copy_from_slice(&*Header::empty(bytes).to_page());
        Self(RefCell::new(disk))
    }

    fn flip(&self, byte: usize) {
        self.0.borrow_mut()[byte] ^= 0x10;
    }
}

impl Sink for &Disk {
    type Error = Beyond;

    fn write(&mut self, page: u64, bytes: &Page) -> Result<(), Beyond> {
        let start = page as usize * PAGE_BYTES;
        let mut disk = self.0.borrow_mut();
        let place = disk.get_mut(start..start + PAGE_BYTES).ok_or(Beyond(page))?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Beyond> {
        Ok(())
    }
}

impl Blocks for Disk {
    type Error = Beyond;

    fn bytes(&self) -> u64 {
        self.0.borrow().len() as u64
    }

    fn read(&self, page: u64, bytes: &mut Page) -> Result<(), Beyond> {
        let start = page as usize * PAGE_BYTES;
        bytes.copy_from_slice(self.0.borrow().get(start..start + PAGE_BYTES).ok_or(Beyond(page))?);
        Ok(())
    }
}

fn machine(pages: u64) -> Machine {
    let processor = Processor {
        fields: vec![(0x681e, 0x1234), (0x6800, u64::MAX)],
        general: [7; 16],
        cr2: 8,
        vectors: vec![9; 832],
        xcr0: 7,
        msrs: vec![(0xc000_0102, 1)],
        debug: [1, 2, 3, 4, 5],
        activity: 1,
        pending: None,
        nmi_waits: true,
        serves: false,
        apic: Some(vec![3; 256]),
    };
    Machine {
        ranges: vec![Range { start: 0, bytes: pages * PAGE_BYTES as u64 }],
        tsc_hz: 20_000_000,
        tsc: 1 << 40,
        boot_seconds: 1_700_000_000,
        features: Features { leaf7: 1 << 5, ..Features::default() },
        digest: Some(77),
        processors: vec![processor.clone(), processor],
    }
}

fn contents(key: u8) -> Page {
    core::array::from_fn(|index| key.wrapping_mul(31).wrapping_add(index as u8) | 1)
}

/// A snapshot of these pages of so many.
fn written(memory: u64, pages: &BTreeMap<u64, u8>) -> (Disk, u64) {
    let disk = Disk::for_memory(memory);
    let mut writer = Writer::new(&disk, memory);
    for index in 0..memory {
        let page = pages.get(&index).map_or([0; PAGE_BYTES], |&key| contents(key));
        let checksum = writer.page(index, &page).expect("there is room");
        assert_eq!(checksum.is_some(), pages.contains_key(&index));
    }
    let header = writer.finish(&machine(memory), b"the board").expect("there is room");
    (disk, header.bytes.get())
}

fn page(disk: &Disk, snapshot: &Snapshot, index: u64) -> Result<Page, PageError<Beyond>> {
    let mut page = [0; PAGE_BYTES];
    if let Some(place) = snapshot.place(index) {
        let sums = snapshot.sums(disk, &place)?;
        disk.read(place.page, &mut page).map_err(PageError::Blocks)?;
        place.check(&sums, &page)?;
    }
    Ok(page)
}

fn some_pages() -> BTreeMap<u64, u8> {
    [(0, 1), (1, 2), (17, 3), (63, 4), (64, 5), (99, 6)].into()
}

#[test]
fn what_was_written_is_read() {
    let (disk, bytes) = written(100, &some_pages());
    disk.0.borrow_mut().truncate(bytes as usize);
    let snapshot = Snapshot::open(&disk).expect("good");
    assert_eq!(snapshot.machine, machine(100));
    assert_eq!(snapshot.board, b"the board");
    for index in 0..100 {
        let wanted = some_pages().get(&index).map_or([0; PAGE_BYTES], |&key| contents(key));
        assert_eq!(page(&disk, &snapshot, index), Ok(wanted), "page {index}");
    }
    assert_eq!(snapshot.place(100), None);
}

#[test]
fn chunks_follow_each_other() {
    let memory = 2 * CHUNK + 2;
    let pages = (0..memory).map(|index| (index, index as u8)).collect();
    let (disk, _) = written(memory, &pages);
    let snapshot = Snapshot::open(&disk).expect("good");
    for index in [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, memory - 1] {
        assert_eq!(page(&disk, &snapshot, index), Ok(contents(index as u8)), "page {index}");
    }
}

#[test]
fn memory_of_zeros_takes_no_room() {
    let (disk, bytes) = written(1 << 16, &BTreeMap::new());
    let snapshot = Snapshot::open(&disk).expect("good");
    assert!(bytes < 1 << 20 && (0..1 << 16).all(|index| snapshot.place(index).is_none()));
}

#[test]
fn every_truncation_is_refused() {
    let (disk, bytes) = written(100, &some_pages());
    for left in (0..bytes).step_by(511) {
        disk.0.borrow_mut().resize(bytes as usize, 0);
        let cut = Disk(RefCell::new(disk.0.borrow()[..left as usize].to_vec()));
        let refused = Snapshot::open(&cut).expect_err("cut off");
        assert!(
            matches!(refused, OpenError::Truncated { bytes, .. } if bytes == left),
            "{left}: {refused:?}"
        );
    }
}

#[test]
fn an_unfinished_one_is_refused() {
    let disk = Disk::for_memory(100);
    Writer::new(&disk, 100).page(5, &contents(1)).expect("there is room");
    assert_eq!(Snapshot::open(&disk), Err(OpenError::Unfinished));
}

#[test]
fn a_disk_that_is_too_short_is_said_to_be_so() {
    let (whole, bytes) = written(100, &some_pages());
    let header = Snapshot::open(&whole).expect("good").header;
    for pages in header.working_set.get() + 1..bytes / PAGE_BYTES as u64 {
        let short = pages * PAGE_BYTES as u64;
        let disk = Disk(RefCell::new(vec![0; short as usize]));
        disk.0.borrow_mut()[..PAGE_BYTES].copy_from_slice(&*Header::empty(short).to_page());
        let mut writer = Writer::new(&disk, 100);
        for (index, key) in some_pages() {
            writer.page(index, &contents(key)).expect("there is room");
        }
        assert!(writer.finish(&machine(100), b"the board").is_err(), "{short} of {bytes} bytes");
        assert_eq!(Snapshot::open(&disk), Err(OpenError::Unfinished));
    }
}

#[test]
fn any_changed_byte_is_found() {
    let (disk, bytes) = written(100, &some_pages());
    let good = Snapshot::open(&disk).expect("good");
    let end = good.header.working_set.get() as usize * PAGE_BYTES;
    assert!(end < bytes as usize);
    let used = |byte: usize| match byte / PAGE_BYTES {
        0 => byte < size_of::<Header>(),
        // Behind a section's bytes nothing is anybody's.
        page => good.header.sections.iter().all(|section| {
            let offset = (byte as u64).checked_sub(section.page.get() * PAGE_BYTES as u64);
            page < section.page.get() as usize
                || offset.is_some_and(|offset| offset < section.bytes.get())
                || section.end().is_some_and(|end| page as u64 >= end)
        }),
    };
    for byte in (0..end).step_by(7).filter(|&byte| used(byte)) {
        disk.flip(byte);
        let found = match Snapshot::open(&disk) {
            Err(_) => true,
            Ok(snapshot) => (0..100).any(|index| page(&disk, &snapshot, index).is_err()),
        };
        disk.flip(byte);
        assert!(found, "byte {byte:#x}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let (disk, _) = written(100, &some_pages());
    let refusal = |byte: usize| {
        disk.flip(byte);
        let refused = Snapshot::open(&disk).expect_err("changed");
        disk.flip(byte);
        match refused {
            OpenError::Blocks(error) => panic!("{error:?}"),
            OpenError::Magic(_) => "magic".into(),
            OpenError::Version(version) => OpenError::<u8>::Version(version).to_string(),
            OpenError::Header { stored, computed } => {
                OpenError::<u8>::Header { stored, computed }.to_string()
            }
            OpenError::Section { name, stored, computed } => {
                OpenError::<u8>::Section { name, stored, computed }.to_string()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal(0), "magic");
    assert_eq!(refusal(8), "a snapshot of version 18, this build reads 2");
    assert!(refusal(16).contains("the header's checksum is"));
    let header = Snapshot::open(&disk).expect("good").header;
    for (section, name) in header.sections.iter().zip(["machine", "board", "page map"]) {
        let said = refusal(section.page.get() as usize * PAGE_BYTES);
        assert!(said.contains(&std::format!("the checksum of its {name} is")), "{said}");
    }
}

#[test]
fn a_header_that_lies_is_refused_though_its_checksum_is_right() {
    let (disk, _) = written(100, &some_pages());
    let good = Snapshot::open(&disk).expect("good").header;
    let with_length = |section: usize, bytes: u64| {
        let mut sections = good.sections;
        sections[section].bytes = bytes.into();
        Header { sections, ..good }
    };
    let lies = [
        Header { stored: u64::MAX.into(), ..good },
        Header { memory: u64::MAX.into(), ..good },
        Header { working_set: u64::MAX.into(), ..good },
        Header { bytes: 0.into(), ..good },
        // No room for the working set, which who restores it writes.
        Header { bytes: ((good.working_set.get() + 7) * PAGE_BYTES as u64).into(), ..good },
        Header { first: 1.into(), ..good },
        Header { first: u64::MAX.into(), number: 1.into(), ..good },
        Header { number: u32::MAX.into(), ..good },
        with_length(0, (1 << 22) + 1),
        with_length(1, u64::MAX),
        with_length(2, 24),
    ];
    for lie in lies {
        disk.0.borrow_mut()[..PAGE_BYTES].copy_from_slice(&*lie.sealed().to_page());
        assert_eq!(Snapshot::open(&disk), Err(OpenError::Contents("header")), "{lie:?}");
    }
}

#[test]
fn what_does_not_fit_into_memory_is_refused() {
    let refused = room_for::<u64, u8>(usize::MAX / 16, "page map").expect_err("nobody has that");
    assert_eq!(refused, OpenError::TooLarge("page map"));
    assert_eq!(refused.to_string(), "there is no memory for its page map");
}

#[test]
fn missing_features_are_named() {
    let wanted = Features { leaf1: [1 << 12 | 1 << 28, 0], leaf7: 1 << 5 | 1 << 30, ..Features::default() };
    let here = Features { leaf1: [1 << 28, u32::MAX], ..Features::default() };
    let missing = wanted.check(&here).expect_err("some are missing");
    assert_eq!(missing.to_string(), "FMA, AVX2, CPUID.7:EBX 0x40000000");
    assert_eq!(wanted.check(&wanted), Ok(()));
}

#[test]
fn a_working_set_is_read_or_none() {
    let set = WorkingSet { pages: vec![3, 1, 2] };
    let bytes = set.encode();
    assert_eq!(WorkingSet::decode(&bytes), set);
    for byte in 0..28 {
        let mut changed = bytes.clone();
        changed[byte] ^= 1;
        assert_eq!(WorkingSet::decode(&changed), WorkingSet::default(), "byte {byte}");
    }
    assert_eq!(WorkingSet::decode(&[]), WorkingSet::default());
}

fn any_pages() -> impl Strategy<Value = BTreeMap<u64, u8>> {
    proptest::collection::btree_map(0..3000_u64, any::<u8>(), 0..40)
}

proptest! {
    #[test]
    fn any_memory_comes_back(pages in any_pages()) {
        let (disk, bytes) = written(3000, &pages);
        disk.0.borrow_mut().truncate(bytes as usize);
        let snapshot = Snapshot::open(&disk).expect("good");
        for index in 0..3000 {
            let wanted = pages.get(&index).map_or([0; PAGE_BYTES], |&key| contents(key));
            assert_eq!(page(&disk, &snapshot, index), Ok(wanted));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(mut first in proptest::collection::vec(any::<u8>(), 512), good in 0..512_usize) {
        let (disk, _) = written(100, &some_pages());
        first[..good].copy_from_slice(&disk.0.borrow()[..good]);
        let header: [u8; 512] = first.try_into().expect("512 bytes");
        let header: Header = zerocopy::transmute!(header);
        disk.0.borrow_mut()[..PAGE_BYTES].copy_from_slice(&*header.sealed().to_page());
        // Whatever it says: no panic.
        let _ = Snapshot::open(&disk);
    }
}
