//! What the loader is given, from an enemy: multiboot2 information, PVH start information, or an ELF file for Herald's.
//!
//! ```text
//!   input = which │ bytes, at physical PLACE
//! ```
//!
//! Whatever they say: nothing outside the bytes is read. The modules of a multiboot2 start are those that a second reader
//! finds; what is placed lies in free memory, and a loaded image is its segments.
#![no_main]

use abi::handoff::{HandOff, IMAGE_OFFSET, Loader};
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PageSize};
use libfuzzer_sys::fuzz_target;
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
    let outcome = match which % 3 {
        0 => multiboot2::find(&memory, PLACE).and_then(|found| {
            check_modules(bytes, &found);
            check_findings(&found, Loader::Multiboot2)
        }),
        1 => pvh::find(&memory, PLACE).and_then(|found| check_findings(&found, Loader::Pvh)),
        _ => Image::parse(bytes).and_then(|image| check_image(&image)),
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
            let layout = modules::layout(modules)?;
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
