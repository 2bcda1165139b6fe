//! Round trips, and what each check refuses.

use crate::handoff::{HandOff, HandOffError, Loader, REGION_USABLE, Region};
use crate::package::{Entry, Kind, MAGIC, PackageError, PackageHeader, Table, VERSION, checksum};
use crate::swapdisk::{Label, LabelError, SLOT_BYTES};
use crate::{config, link, swapdisk};
use alloc::vec::Vec;
use zerocopy::IntoBytes;

fn package(count: u32, offset: u64, len: u64) -> Vec<u8> {
    let entry = Entry {
        kind: (Kind::Kernel as u32).into(),
        reserved: 0.into(),
        offset: offset.into(),
        len: len.into(),
        name: [0; 40],
    };
    let mut header = PackageHeader {
        magic: MAGIC,
        version: VERSION.into(),
        count: count.into(),
        total_len: 8192.into(),
        checksum: 0.into(),
        reserved: [0; 36],
    };
    header.checksum = checksum(&header, &[entry]).into();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(entry.as_bytes());
    bytes.resize(8192, 0);
    bytes
}

#[test]
fn a_package_is_checked_before_it_is_believed() {
    let good = package(1, 4096, 4096);
    let table = Table::parse(&good).expect("good package");
    assert_eq!(table.find(Kind::Kernel).expect("kernel").payload(&good).map(<[u8]>::len), Some(4096));
    assert!(matches!(Table::parse(&good[..100]), Err(PackageError::Truncated { .. })));
    let outside = package(1, 4096, 4097);
    assert!(matches!(Table::parse(&outside), Err(PackageError::Entry { index: 0, .. })));
    let wraps = package(1, u64::MAX - 4095, 8192);
    assert!(matches!(Table::parse(&wraps), Err(PackageError::Entry { .. })));
    let mut flipped = good.clone();
    flipped[70] ^= 1;
    assert!(matches!(Table::parse(&flipped), Err(PackageError::Checksum { .. })));
}

#[test]
fn a_hand_off_is_sealed() {
    let mut handoff = HandOff::new(Loader::Bios);
    assert!(handoff.push_region(Region { start: 0, len: 4096, kind: REGION_USABLE, reserved: 0 }));
    handoff.seal();
    assert_eq!(handoff.check(), Ok(()));
    assert_eq!(handoff.regions().len(), 1);
    handoff.rsdp = 1;
    assert!(matches!(handoff.check(), Err(HandOffError::Checksum { .. })));
}

#[test]
fn frames_survive_noise() {
    let mut bytes = b"BIOS says hello".to_vec();
    bytes.extend(link::header(link::Channel::Log as u8, 2).expect("short"));
    bytes.extend(b"hi");
    bytes.push(link::SYNC);
    let (frame, used) = link::decode(&bytes);
    assert_eq!(frame.map(|frame| frame.payload), Some(&b"hi"[..]));
    let (partial, more) = link::decode(&bytes[used..]);
    assert_eq!((partial, more), (None, 0));
    assert_eq!(link::header(1, link::MAX_PAYLOAD + 1), None);
}

#[test]
fn the_configuration_round_trips() {
    let mut vms = heapless::Vec::new();
    vms.push(config::VmConfig {
        name: "tiny",
        kernel: 2,
        initrd: Some(3),
        append: "console=ttyS0",
        memory: 256 << 20,
        vcpus: 1,
        weight: 100,
        balloon: None,
        memory_max: Some(64 << 20),
        memory_weight: 300,
        merge: true,
    })
    .expect("room");
    let config = config::BootConfig {
        vms,
        paging: config::Paging::Ept,
        backing: config::Backing::Anonymous,
        ept_ad: true,
        apic_virtualisation: true,
        zero_ahead: true,
        swap: config::Swap { ram: 1 << 30, disk: 2 << 30 },
        proactive: 20,
        merge_share: 5,
        snapshot: config::Snapshot::Restore,
        log: config::LogLevel::Info,
        oracle: false,
        telemetry_rate: 0,
        inject: config::Inject::default(),
        tsc_hz: 0,
    };
    let mut buffer = [0u8; 512];
    let bytes = postcard::to_slice(&config, &mut buffer).expect("fits");
    assert_eq!(postcard::from_bytes::<config::BootConfig<'_>>(bytes), Ok(config));
}

#[test]
fn a_disk_is_heralds_only_with_a_good_label() {
    let bytes = 64 << 20;
    let good = Label::new(swapdisk::room(bytes));
    assert_eq!(good.check(bytes), Ok(16_383));
    assert_eq!(good.check(bytes - 1), Err(LabelError::Slots { slots: 16_383, room: 16_382 }));
    assert_eq!(Label { magic: [0; 8], ..good }.check(bytes), Err(LabelError::Magic([0; 8])));
    assert_eq!(Label { version: 2.into(), ..good }.check(bytes), Err(LabelError::Version(2)));
    let mut changed = good;
    changed.reserved[487] = 1;
    assert!(matches!(changed.check(bytes), Err(LabelError::Checksum { .. })));
    assert_eq!(Label::new(0).check(bytes), Err(LabelError::Slots { slots: 0, room: 16_383 }));
    assert!(matches!(Label::new(u64::MAX).check(u64::MAX), Err(LabelError::Slots { .. })));
}

#[test]
fn the_label_takes_a_slots_room() {
    let rooms = [0, 1, SLOT_BYTES, 2 * SLOT_BYTES - 1, 2 * SLOT_BYTES].map(swapdisk::room);
    assert_eq!(rooms, [0, 0, 0, 0, 1]);
    assert_eq!(swapdisk::slot_at(0), 4096);
}
