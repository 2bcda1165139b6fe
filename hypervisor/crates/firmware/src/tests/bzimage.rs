//! The Linux boot protocol.

use super::images::{CODE_BYTES, bzimage, setup_header};
use super::{MIB, boot_on};
use crate::boot_params::BootParams;
use crate::image::Format;
use crate::layout::{ACPI, COMMAND_LINE, GDT, PML4, START_INFO};
use crate::{Error, Mode, Placement};
use addr::{Gpa, GpaRange};
use alloc::string::ToString;
use alloc::vec;

#[test]
fn kernel_starts_in_long_mode_at_its_preferred_address() {
    let (entry, memory) = boot_on(256 * MIB, &bzimage(&setup_header()), None, "quiet").unwrap();
    assert_eq!(entry.mode, Mode::Long64 { cr3: PML4 });
    assert_eq!((entry.rip, entry.rsi), (0x100_0200, START_INFO.as_u64()));
    assert_eq!(memory.bytes(0x100_0000, CODE_BYTES + 1), [vec![0x90; CODE_BYTES], vec![0]].concat());
    assert_eq!(memory.bytes(COMMAND_LINE.as_u64(), 6), b"quiet\0");

    let params: BootParams = memory.read(START_INFO.as_u64());
    assert_eq!(params.acpi_rsdp_addr.get(), ACPI.as_u64());
    assert_eq!(params.header.cmd_line_ptr.get(), COMMAND_LINE.as_u64() as u32);
    assert_eq!(params.header.ramdisk_size.get(), 0);
    assert_eq!(params.header.type_of_loader, 0xff);
    let last = params.e820[usize::from(params.e820_entries) - 1];
    assert_eq!((last.start.get(), last.bytes.get(), last.kind.get()), (MIB, 255 * MIB, 1));
}

#[test]
fn identity_map_covers_low_ram() {
    let (_, memory) = boot_on(1536 * MIB, &bzimage(&setup_header()), None, "").unwrap();
    let pdpt = memory.read::<u64>(PML4.as_u64()) & !0xfff;
    for gib in 0..2 {
        let directory = memory.read::<u64>(pdpt + gib * 8) & !0xfff;
        assert_eq!(memory.read::<u64>(directory + 511 * 8), ((gib << 30) + (511 << 21)) | 0x83);
    }
    assert_eq!(memory.read::<u64>(pdpt + 2 * 8), 0);
    // Flat 64-bit code at 0x10, flat data at 0x18: the descriptors that Linux's own boot code uses.
    assert_eq!(memory.read::<u64>(GDT.as_u64() + 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(memory.read::<u64>(GDT.as_u64() + 0x18), 0x00cf_9300_0000_ffff);
}

#[test]
fn kernel_without_a_64_bit_entry_starts_in_protected_mode() {
    let mut header = setup_header();
    header.xloadflags = 0.into();
    let (entry, memory) = boot_on(64 * MIB, &bzimage(&header), None, "").unwrap();
    assert_eq!((entry.mode, entry.rip), (Mode::Protected32, 0x100_0000));
    assert_eq!(memory.read::<u64>(GDT.as_u64() + 0x10), 0x00cf_9b00_0000_ffff);
}

#[test]
fn relocatable_kernel_moves_down_in_little_ram() {
    let (entry, _) = boot_on(16 * MIB, &bzimage(&setup_header()), None, "").unwrap();
    assert_eq!(entry.rip, 0x20_0200);
    let mut fixed = setup_header();
    fixed.relocatable_kernel = 0;
    let error = boot_on(16 * MIB, &bzimage(&fixed), None, "").err().unwrap();
    assert!(matches!(error, Error::Placement(Placement::KernelTooLarge { align: None, .. })));
    assert_eq!(
        error.to_string(),
        "the kernel needs 3145728 bytes at 0x1000000, the guest has RAM at 0x0..0x1000000"
    );
}

#[test]
fn initrd_goes_as_high_as_the_kernel_allows() {
    let initrd = vec![7; 5000];
    let image = bzimage(&setup_header());
    let placed = |ram: u64, image: &[u8]| {
        let (_, memory) = boot_on(ram, image, Some(&initrd), "").unwrap();
        let params: BootParams = memory.read(START_INFO.as_u64());
        assert_eq!(params.header.ramdisk_size.get(), 5000);
        let start = u64::from(params.header.ramdisk_image.get());
        assert_eq!(memory.bytes(start, 5000), initrd);
        start
    };
    assert_eq!(placed(256 * MIB, &image), 256 * MIB - 0x2000);
    assert_eq!(placed(3072 * MIB, &image), 2048 * MIB - 0x2000);
    let mut low = setup_header();
    low.initrd_addr_max = 0x37ff_ffff.into();
    assert_eq!(placed(2048 * MIB, &bzimage(&low)), 0x3800_0000 - 0x2000);
}

#[test]
fn initrd_that_does_not_fit_is_refused() {
    let initrd = vec![7; 15 << 20];
    let error = boot_on(16 * MIB, &bzimage(&setup_header()), Some(&initrd), "").err().unwrap();
    assert!(
        error.to_string().starts_with("the initial RAM disk has 15728640 bytes, guest memory has room for")
    );
}

#[test]
fn an_initrd_never_lies_over_the_firmwares_data() {
    let mut low = setup_header();
    (low.pref_address, low.init_size) = (0x1000.into(), 0x2000.into());
    low.initrd_addr_max = 0xf_ffff.into();
    let error = boot_on(64 * MIB, &bzimage(&low), Some(&[7; 5000]), "").err().unwrap();
    assert!(matches!(error, Error::Placement(Placement::InitrdTooLarge { bytes: 5000, .. })));
    low.initrd_addr_max = 0x7fff_ffff.into();
    assert!(boot_on(64 * MIB, &bzimage(&low), Some(&[7; 5000]), "").is_ok());
}

#[test]
fn a_kernel_that_ends_before_its_entry_point_is_refused() {
    let mut header = setup_header();
    (header.syssize, header.init_size) = (0x1f.into(), 0x1f0.into());
    let mut image = bzimage(&header);
    image.truncate(image.len() - CODE_BYTES + 0x1f0);
    let outside = Error::Placement(Placement::EntryPoint {
        entry: 0x100_0200,
        image: GpaRange::new(Gpa::new(0x100_0000), Gpa::new(0x100_01f0)),
    });
    assert_eq!(boot_on(64 * MIB, &image, None, "").err(), Some(outside));
}

#[test]
fn truncated_image_names_both_sizes() {
    let image = bzimage(&setup_header());
    let (found, needed) = (image.len() as u64 - 1, image.len() as u64);
    let error = boot_on(64 * MIB, &image[..image.len() - 1], None, "").err().unwrap();
    assert_eq!(error, Error::Truncated { format: Format::BzImage, found, needed });
    assert_eq!(error.to_string(), "the bzImage kernel is truncated: 6143 bytes found, 6144 needed");
    assert!(matches!(
        boot_on(64 * MIB, &image[..0x210], None, "").err(),
        Some(Error::Truncated { found: 0x210, .. })
    ));
}

#[test]
fn old_protocols_are_refused() {
    let mut header = setup_header();
    header.version = 0x204.into();
    let error = boot_on(64 * MIB, &bzimage(&header), None, "").err().unwrap();
    assert_eq!(error.to_string(), "the kernel speaks Linux boot protocol 2.04, at least 2.06 is needed");
    header.version = 0x20f.into();
    header.loadflags = 0;
    assert_eq!(boot_on(64 * MIB, &bzimage(&header), None, "").err(), Some(Error::LoadedLow));
}

#[test]
fn command_line_is_limited_by_the_kernel() {
    let image = bzimage(&setup_header());
    assert!(boot_on(64 * MIB, &image, None, &"x".repeat(2047)).is_ok());
    assert_eq!(
        boot_on(64 * MIB, &image, None, &"x".repeat(2048)).err(),
        Some(Error::CommandLineTooLong { bytes: 2048, most: 2047 })
    );
}
