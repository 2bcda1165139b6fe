//! What the loader is given, from an enemy: multiboot2 information, PVH start information, an ELF file for Herald's, or
//! UEFI's memory map.
//!
//! ```text
//!   input = which │ bytes, at physical PLACE
//! ```
//!
//! Whatever they say: nothing outside the bytes is read. The modules of a multiboot2 start are those that a second reader
//! finds; what is placed lies in free memory; what remains of UEFI's map as usable, firmware has called so and nothing else.
#![no_main]

use abi::handoff::{HandOff, IMAGE_OFFSET, Loader};
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PageSize};
use libfuzzer_sys::fuzz_target;
use loader::efi::{self, Descriptor};
use loader::image::Image;
use loader::modules::{self, Module};
use loader::{Findings, Images, LoadError, multiboot2, pvh};

/// Physical address of the bytes.
const PLACE: u32 = 0x9000;
/// Nothing is placed from here on.
const CEILING: Hpa = Hpa::new(1 << 32);
/// Longest image that is loaded here.
const MOST_BYTES: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else { return };
    let memory = |range: HpaRange| {
        let start = range.start().as_u64().checked_sub(u64::from(PLACE))?;
        bytes.get(start as usize..(start + range.len()) as usize)
    };
    let outcome = match which % 4 {
        0 => multiboot2::find(&memory, PLACE).and_then(|found| {
            check_modules(bytes, &found);
            check_findings(&found, Loader::Multiboot2)
        }),
        1 => pvh::find(&memory, PLACE).and_then(|found| check_findings(&found, Loader::Pvh)),
        2 => Image::parse(bytes).and_then(|image| check_image(&image)),
        _ => {
            check_map(bytes);
            Ok(())
        }
    };
    if let Err(error) = outcome {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
    }
});

fn check_findings(found: &Findings, loader: Loader) -> Result<(), LoadError> {
    assert_eq!(HandOff::new(loader).loader, found.handoff.loader);
    let mut map = MemoryMap::new(found.handoff.regions());
    match &found.images {
        Images::Package(package) => map.reserve(*package),
        Images::Modules(modules) => {
            let layout = modules::layout(modules.iter().map(|module| (module.name(), module.range().len())))?;
            assert_eq!(layout.entries().len(), modules.len());
            for module in modules {
                map.reserve(module.range());
            }
            if let Some(place) = map.highest_fit(layout.total_len(), PageSize::Size4K, CEILING) {
                assert!(map.contains(&place) && place.end() <= CEILING, "{place}");
                assert!(modules.iter().all(|module| !module.range().overlaps(&place)), "{place}");
            }
        }
    }
    Ok(())
}

/// The modules of multiboot2 information as a second reader sees them.
fn check_modules(information: &[u8], found: &Findings) {
    let Images::Modules(modules) = &found.images else { panic!("modules") };
    let total = (word(information, 0).expect("found") as usize).min(information.len());
    let (mut at, mut told) = (8, modules.iter());
    while let (Some(kind @ 1..), Some(size)) =
        (word(&information[..total], at), word(&information[..total], at + 4))
    {
        if kind == 3 {
            let module: &Module = told.next().expect("a module less");
            let range = (module.range().start().as_u64(), module.range().end().as_u64());
            let word = |at: usize| u64::from(word(information, at).expect("found"));
            assert_eq!(range, (word(at + 8), word(at + 12)));
        }
        at += (size as usize).next_multiple_of(8);
    }
    assert!(told.next().is_none(), "a module more");
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().expect("4 bytes")))
}

fn check_image(image: &Image<'_>) -> Result<(), LoadError> {
    let linked = image.linked();
    assert!(linked.start().is_aligned(PageSize::Size2M), "{linked}");
    let entry = image.entry().checked_sub(IMAGE_OFFSET).and_then(Hpa::try_new);
    assert!(entry.is_some_and(|entry| linked.contains(entry)), "{linked}");
    if linked.len() <= MOST_BYTES {
        image.load(&mut vec![0xcc; linked.len() as usize])?;
    }
    Ok(())
}

/// Each 28 bytes are an entry of UEFI's map: type, start, pages, attributes.
fn check_map(bytes: &[u8]) {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let map = bytes.chunks_exact(28).map(|entry| Descriptor {
        kind: u32::from(entry[0] % 16),
        start: number(&entry[4..12]),
        pages: number(&entry[12..20]),
        attributes: number(&entry[20..28]),
    });
    let regions = efi::regions(map.clone());
    assert!(regions.windows(2).all(|pair| pair[0].start <= pair[1].start));
    let extent = |entry: &Descriptor| {
        (u128::from(entry.start), u128::from(entry.start) + 4096 * u128::from(entry.pages))
    };
    // Loader's and boot services' memory, conventional memory; with write-back, for no special purpose.
    let is_usable = |entry: &Descriptor| {
        matches!(entry.kind, 1..=4 | 7) && entry.attributes & (1 << 3 | 1 << 18) == 1 << 3
    };
    let mut usable: Vec<(u128, u128)> = map.clone().filter(is_usable).map(|entry| extent(&entry)).collect();
    usable.sort_unstable();
    for range in MemoryMap::new(&regions).ranges() {
        let (start, end) = (u128::from(range.start().as_u64()), u128::from(range.end().as_u64()));
        let others =
            map.clone().filter(|entry| !is_usable(entry) && entry.pages != 0).map(|entry| extent(&entry));
        assert!(others.into_iter().all(|(first, last)| last <= start || end <= first), "{range}");
        let reached =
            usable.iter().fold(start, |at, &(first, last)| if first <= at { at.max(last) } else { at });
        assert!(reached >= end, "{range}");
    }
}
