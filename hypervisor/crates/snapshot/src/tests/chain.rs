//! Parts that build on others: the newest instant is read, whichever part has a page; what is wrong with an older one is said.

use super::std::collections::BTreeMap;
use super::{Beyond, Disk, contents, machine, page, written};
use crate::{Blocks, Chain, Found, Header, OpenError, PAGE_BYTES, Page, Sink, Snapshot, Writer, most_bytes};
use alloc::string::ToString;
use alloc::vec::Vec;
use proptest::prelude::{Strategy, any, proptest};

const MEMORY: u64 = 100;

type Pages = BTreeMap<u64, u8>;

/// A disk for the first part and more, and the first.
fn begun(pages: &Pages) -> (Disk, Chain) {
    let (disk, _) = written(MEMORY, pages);
    let len = disk.bytes() as usize;
    disk.0.borrow_mut().resize(len + 4 * most_bytes(MEMORY << 12) as usize, 0);
    let header = Snapshot::open(&disk).expect("good").header;
    (disk, Chain::of(header))
}

/// What holds key 0 holds zeros.
fn bytes_of(key: u8) -> Page {
    if key == 0 { [0; PAGE_BYTES] } else { contents(key) }
}

/// Writes a part of these pages; they are what has changed.
fn add(disk: impl Sink<Error = Beyond>, chain: &mut Chain, pages: &Pages) -> Result<(), Beyond> {
    pages.keys().for_each(|&index| chain.note(index));
    let base = chain.newest().expect("there is one");
    let mut writer = Writer::behind(disk, base)?;
    let wanted = chain.wanted().expect("not all");
    let mut next = wanted.next(0);
    while let Some(index) = next {
        writer.page(index, &bytes_of(pages.get(&index).copied().unwrap_or(0)))?;
        next = wanted.next(index + 1);
    }
    chain.add(writer.finish(&machine(MEMORY), b"the board")?);
    Ok(())
}

/// Cut off behind its newest part, as it is kept.
fn kept(disk: &Disk) -> Disk {
    let bytes = Snapshot::open(disk).expect("good").header.bytes.get();
    Disk(disk.0.borrow()[..bytes as usize].to_vec().into())
}

fn has(disk: &Disk, pages: &Pages) {
    let snapshot = Snapshot::open(disk).expect("good");
    let mut stored = Vec::new();
    for index in 0..MEMORY {
        let key = pages.get(&index).copied().unwrap_or(0);
        assert_eq!(page(disk, &snapshot, index), Ok(bytes_of(key)), "page {index}");
        stored.extend((key != 0).then_some(index));
    }
    let next = |&index: &u64| snapshot.next_stored(index + 1);
    let found: Vec<u64> = core::iter::successors(snapshot.next_stored(0), next).collect();
    assert_eq!(found, stored);
}

fn three() -> [Pages; 3] {
    [
        [(0, 1), (1, 2), (17, 3), (64, 5)].into(),
        // One that was not there, one anew, one that holds zeros now.
        [(2, 6), (17, 7), (64, 0)].into(),
        [(17, 8), (64, 9), (99, 0)].into(),
    ]
}

fn all_of(parts: &[Pages]) -> Pages {
    parts.iter().flatten().map(|(&index, &key)| (index, key)).collect()
}

/// A file of three instants.
fn file() -> Disk {
    let [first, second, third] = three();
    let (disk, mut chain) = begun(&first);
    add(&disk, &mut chain, &second).expect("there is room");
    add(&disk, &mut chain, &third).expect("there is room");
    kept(&disk)
}

#[test]
fn the_newest_instant_is_read() {
    let parts = three();
    let (disk, mut chain) = begun(&parts[0]);
    has(&disk, &parts[0]);
    for count in 2..=3 {
        add(&disk, &mut chain, &parts[count - 1]).expect("there is room");
        let disk = kept(&disk);
        has(&disk, &all_of(&parts[..count]));
        assert_eq!(Snapshot::open(&disk).expect("good").instants(), count);
    }
    assert!(chain.wanted().is_some_and(|wanted| wanted.count() == 0));
}

/// A disk that fails with the write of this number, or the flush of that.
struct Failing<'a>(&'a Disk, u32, u32);

impl Sink for Failing<'_> {
    type Error = Beyond;

    fn write(&mut self, page: u64, bytes: &Page) -> Result<(), Beyond> {
        self.1 = self.1.checked_sub(1).ok_or(Beyond(page))?;
        self.0.write(page, bytes)
    }

    fn flush(&mut self) -> Result<(), Beyond> {
        self.2 = self.2.checked_sub(1).ok_or(Beyond(0))?;
        Ok(())
    }
}

impl Disk {
    fn write(&self, page: u64, bytes: &Page) -> Result<(), Beyond> {
        Sink::write(&mut &*self, page, bytes)
    }
}

#[test]
fn a_part_that_fails_at_any_write_leaves_the_instant_before() {
    let [first, second, third] = three();
    for writes in 0.. {
        let (disk, mut chain) = begun(&first);
        if add(Failing(&disk, writes, u32::MAX), &mut chain, &second).is_ok() {
            assert!(writes > 8);
            return;
        }
        chain.fail();
        has(&disk, &first);
        // What had changed has changed.
        add(&disk, &mut chain, &all_of(&[second.clone(), third.clone()])).expect("there is room");
        has(&disk, &all_of(&three()));
    }
}

/// Its header may be on the disk, or not: no later part may write over what that names before it is gone.
#[test]
fn a_part_whose_last_flush_fails_is_there_or_not_whatever_comes_of_the_next_one() {
    let [first, second, third] = three();
    for writes in 0.. {
        let (disk, mut chain) = begun(&first);
        let flushes = (0..).find(|&flushes| {
            let failed = add(Failing(&disk, u32::MAX, flushes), &mut chain, &second).is_err();
            chain.fail();
            failed && Snapshot::open(&disk).is_ok_and(|snapshot| snapshot.instants() == 2)
        });
        assert!(flushes.is_some());
        let parts = all_of(&[second.clone(), third.clone()]);
        if add(Failing(&disk, writes, u32::MAX), &mut chain, &parts).is_ok() {
            return;
        }
        let instants = Snapshot::open(&disk).expect("one of the two").instants();
        has(&disk, &all_of(&three()[..instants]));
    }
}

#[test]
fn what_a_failed_part_was_to_have_the_next_one_has() {
    let [first, second, _] = three();
    let (disk, mut chain) = begun(&first);
    add(Failing(&disk, 3, u32::MAX), &mut chain, &second).expect_err("it fails");
    chain.fail();
    assert_eq!(chain.wanted().map(crate::PageMap::count), Some(second.len() as u64));
}

#[test]
fn every_truncation_of_a_chain_is_refused() {
    let disk = file();
    let whole = disk.bytes();
    for left in (0..whole).step_by(8191) {
        let cut = Disk(disk.0.borrow()[..left as usize].to_vec().into());
        let refused = Snapshot::open(&cut).expect_err("cut off");
        assert!(
            matches!(refused, OpenError::Truncated { bytes, .. } if bytes == left),
            "{left}: {refused:?}"
        );
    }
}

#[test]
fn any_changed_byte_of_any_part_is_found() {
    let disk = file();
    let parts = all_of(&three());
    let good = |disk: &Disk| {
        Snapshot::open(disk).is_ok_and(|snapshot| {
            (0..MEMORY).all(|index| {
                let key = parts.get(&index).copied().unwrap_or(0);
                match page(disk, &snapshot, index) {
                    Ok(found) => {
                        assert_eq!(found, bytes_of(key), "page {index} is another, and nobody says so");
                        true
                    }
                    Err(_) => false,
                }
            })
        })
    };
    for byte in (0..disk.bytes() as usize).step_by(331) {
        disk.flip(byte);
        // Not all of a file is used: what is wrong has to be found where it matters.
        let _ = good(&disk);
        disk.flip(byte);
    }
    let newest = Snapshot::open(&disk).expect("good").header;
    for byte in newest.first.get() as usize * PAGE_BYTES..newest.first.get() as usize * PAGE_BYTES + 512 {
        disk.flip(byte);
        assert!(Snapshot::open(&disk).is_err(), "byte {byte:#x}");
        disk.flip(byte);
    }
}

fn header_at(disk: &Disk, page: u64) -> Header {
    let mut bytes = [0; PAGE_BYTES];
    disk.read(page, &mut bytes).expect("is there");
    let sector: [u8; 512] = bytes[..512].try_into().expect("512 bytes");
    zerocopy::transmute!(sector)
}

fn refusal(disk: &Disk) -> (Found, alloc::string::String) {
    match Snapshot::open(disk).expect_err("refused") {
        OpenError::Base { number, found } => (found, OpenError::<u8>::Base { number, found }.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_base_that_is_missing_corrupt_or_another_is_said_to_be_so() {
    let disk = file();
    let newest = header_at(&disk, 0);
    let at = newest.first.get();
    let base = header_at(&disk, at);

    disk.write(at, &[0; PAGE_BYTES]).expect("is there");
    let (found, said) = refusal(&disk);
    assert_eq!(found, Found::Nothing);
    assert_eq!(said, "it builds on its instant 1, which is missing");

    disk.write(at, &Header { stored: 1.into(), ..base }.to_page()).expect("is there");
    let (found, said) = refusal(&disk);
    assert!(matches!(found, Found::Corrupt { .. }));
    assert!(said.starts_with("it builds on its instant 1, which is corrupt: "), "{said}");

    // Good, but not the one.
    let mut sections = base.sections;
    sections[0].checksum = 7.into();
    let other = Header { sections, ..base }.sealed();
    disk.write(at, &other.to_page()).expect("is there");
    let (found, said) = refusal(&disk);
    assert_eq!(found, Found::Another { found: other.checksum.get(), wanted: base.checksum.get() });
    assert!(said.starts_with("it builds on its instant 1, which is another one: "), "{said}");
}

#[test]
fn a_chain_that_lies_is_refused_though_its_checksums_are_right() {
    let disk = file();
    let newest = header_at(&disk, 0);
    let at = newest.first.get();
    let base = header_at(&disk, at);
    let lies = [
        Header { number: 2.into(), ..base },
        Header { number: 0.into(), ..base },
        Header { memory: (MEMORY + 1).into(), ..base },
        Header { bytes: newest.bytes, ..base },
        Header { first: at.into(), ..base },
        Header { stored: u64::MAX.into(), ..base },
    ];
    for lie in lies.map(Header::sealed) {
        disk.write(at, &lie.to_page()).expect("is there");
        disk.write(0, &Header { base: lie.checksum, ..newest }.sealed().to_page()).expect("is there");
        let refused = Snapshot::open(&disk).expect_err("refused");
        assert!(matches!(refused, OpenError::Base { .. } | OpenError::Contents(_)), "{refused:?}");
    }
}

#[test]
fn the_room_for_parts_has_an_end() {
    let (_, chain) = begun(&three()[0]);
    let newest = chain.newest().expect("there is one");
    assert!(newest.has_room());
    assert!(!Header { number: 63.into(), ..*newest }.has_room());
}

fn any_parts() -> impl Strategy<Value = Vec<Pages>> {
    let part = proptest::collection::btree_map(0..MEMORY, 0..9_u8, 0..12);
    proptest::collection::vec(part, 1..5)
}

proptest! {
    #[test]
    fn any_chain_comes_back(parts in any_parts()) {
        let first = parts[0].iter().filter(|&(_, &key)| key != 0).map(|(&index, &key)| (index, key)).collect();
        let (disk, mut chain) = begun(&first);
        for count in 1..=parts.len() {
            if count > 1 {
                add(&disk, &mut chain, &parts[count - 1]).expect("there is room");
            }
            has(&disk, &all_of(&parts[..count]));
        }
    }

    #[test]
    fn any_header_of_a_base_is_refused_or_read(mut first in proptest::collection::vec(any::<u8>(), 512), good in 0..512_usize) {
        let disk = file();
        let newest = header_at(&disk, 0);
        let at = newest.first.get() as usize * PAGE_BYTES;
        first[..good].copy_from_slice(&disk.0.borrow()[at..at + good]);
        let header: [u8; 512] = first.try_into().expect("512 bytes");
        let header: Header = zerocopy::transmute!(header);
        let header = header.sealed();
        disk.write(newest.first.get(), &header.to_page()).expect("is there");
        disk.write(0, &Header { base: header.checksum, ..newest }.sealed().to_page()).expect("is there");
        // Whatever it says: no panic.
        let _ = Snapshot::open(&disk);
    }
}
