//! A multiboot2 start, as GRUB does it: a header in the first 32 KiB of the loader's file asks, a list of tags
//! answers (Multiboot2 specification 2.0, sections 3.1 and 3.6).
//!
//! ```text
//!   total size │ reserved │ tag: type, size, contents │ padding to 8 │ tag ... │ tag of type 0
//! ```

use crate::error::LoadError;
use crate::findings::{Findings, Images, Memory, bytes, reachable, take};
use crate::modules::{Module, Modules};
use abi::handoff::{HandOff, Loader, Region, Screen, ScreenKind};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What EAX holds when the loader is entered this way.
pub const MAGIC: u32 = 0x36d7_6289;
/// Information longer than this is no information.
const MOST_BYTES: u32 = 1 << 20;

const END: u32 = 0;
const MODULE: u32 = 3;
const MEMORY_MAP: u32 = 6;
const FRAMEBUFFER: u32 = 8;
const ACPI_1: u32 = 14;
const ACPI_2: u32 = 15;

/// Framebuffer type: pixels of red, green and blue.
const RGB: u8 = 1;
/// Framebuffer type: EGA text; width and height count characters.
const EGA_TEXT: u8 = 2;

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct TagHeader {
    kind: u32,
    size: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ModuleTag {
    start: u32,
    end: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MapTag {
    entry_bytes: u32,
    _version: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FramebufferTag {
    address: u64,
    pitch: u32,
    width: u32,
    height: u32,
    bits: u8,
    kind: u8,
    _reserved: [u8; 2],
}

/// Takes modules, memory map, ACPI root pointer and screen from the information at physical `address`.
///
/// # Errors
/// Information, a tag or a module that is not in `memory`, modules without a name, too many of them.
pub fn find(memory: &Memory<'_>, address: u32) -> Result<Findings, LoadError> {
    let (start, total) = (u64::from(address), total_bytes(memory, address)?);
    let mut rest = bytes(memory, start, u64::from(total))?.get(8..).unwrap_or_default();
    let mut found =
        Findings { handoff: HandOff::new(Loader::Multiboot2), images: Images::Modules(Modules::new()) };
    while let Some((kind, contents, next)) = next_tag(rest)? {
        take_tag(&mut found, kind, contents)?;
        rest = next;
    }
    Ok(found)
}

fn total_bytes(memory: &Memory<'_>, address: u32) -> Result<u32, LoadError> {
    let total = take::<u32>(bytes(memory, u64::from(address), 8)?).map_or(0, |(total, _)| total);
    if (8..=MOST_BYTES).contains(&total) {
        Ok(total)
    } else {
        Err(LoadError::BootInformation { address, total })
    }
}

/// A tag's type and contents, and what follows it; `None` at the end.
type Tag<'a> = Option<(u32, &'a [u8], &'a [u8])>;

fn next_tag(rest: &[u8]) -> Result<Tag<'_>, LoadError> {
    // Information may also end without an end tag.
    let Some((header, _)) = take::<TagHeader>(rest) else { return Ok(None) };
    if header.kind == END {
        return Ok(None);
    }
    let wrong = LoadError::Tag { kind: header.kind, size: header.size };
    let size = header.size as usize;
    let contents = rest.get(8..size).ok_or(wrong)?;
    let next = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
    Ok(Some((header.kind, contents, next)))
}

fn take_tag(found: &mut Findings, kind: u32, contents: &[u8]) -> Result<(), LoadError> {
    let wrong = LoadError::Tag { kind, size: contents.len() as u32 + 8 };
    match kind {
        MODULE => take_module(found, contents, wrong)?,
        MEMORY_MAP => take_map(&mut found.handoff, contents).ok_or(wrong)?,
        FRAMEBUFFER => found.handoff.screen = screen(&take(contents).ok_or(wrong)?.0),
        ACPI_2 => found.handoff.copy_rsdp(contents),
        // The old one counts only where there is no other, whichever comes first.
        ACPI_1 if found.handoff.rsdp_copy == [0; 40] => found.handoff.copy_rsdp(contents),
        _ => {}
    }
    Ok(())
}

fn take_module(found: &mut Findings, contents: &[u8], wrong: LoadError) -> Result<(), LoadError> {
    let (tag, text) = take::<ModuleTag>(contents).ok_or(wrong)?;
    let len = u64::from(tag.end).checked_sub(u64::from(tag.start)).ok_or(wrong)?;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = core::str::from_utf8(text).ok().and_then(|text| text.split_whitespace().next());
    let start = u64::from(tag.start);
    let range = reachable(start, len).ok_or(LoadError::OutOfReach { start, len })?;
    let module = Module::new(name.ok_or(LoadError::Nameless(range))?, range);
    let Images::Modules(modules) = &mut found.images else { return Ok(()) };
    modules.push(module).map_err(|_| LoadError::ManyModules { most: modules.capacity() })
}

fn take_map(handoff: &mut HandOff, contents: &[u8]) -> Option<()> {
    let (tag, entries) = take::<MapTag>(contents)?;
    let entry_bytes = tag.entry_bytes as usize;
    if entry_bytes < size_of::<Region>() {
        return None;
    }
    for entry in entries.chunks_exact(entry_bytes) {
        let (region, _) = take::<Region>(entry)?;
        if !handoff.push_region(Region { reserved: 0, ..region }) {
            break;
        }
    }
    Some(())
}

fn screen(tag: &FramebufferTag) -> Screen {
    let kind = match tag.kind {
        RGB if matches!(tag.bits, 16 | 24 | 32) => ScreenKind::Pixels,
        EGA_TEXT => ScreenKind::Text,
        _ => return Screen::NONE,
    };
    let cell_bytes = if kind == ScreenKind::Text { 2 } else { u32::from(tag.bits) / 8 };
    Screen {
        address: tag.address,
        kind: kind as u32,
        pitch: tag.pitch,
        width: tag.width,
        height: tag.height,
        cell_bytes,
        reserved: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::find;
    use crate::modules::Name;
    use crate::{Findings, Images, LoadError};
    use abi::handoff::ScreenKind;
    use addr::HpaRange;
    use alloc::vec::Vec;

    fn tag(kind: u32, contents: &[u8]) -> Vec<u8> {
        let mut tag = [kind.to_le_bytes(), (contents.len() as u32 + 8).to_le_bytes()].concat();
        tag.extend_from_slice(contents);
        tag.resize(tag.len().next_multiple_of(8), 0);
        tag
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn module(start: u32, end: u32, text: &str) -> Vec<u8> {
        let mut contents = words(&[start, end]);
        contents.extend_from_slice(text.as_bytes());
        contents.push(0);
        tag(3, &contents)
    }

    fn found(tags: &[Vec<u8>]) -> Result<Findings, LoadError> {
        let tags = tags.concat();
        let mut information = words(&[tags.len() as u32 + 8, 0]);
        information.extend_from_slice(&tags);
        let at = |range: HpaRange| {
            let start = range.start().as_u64().checked_sub(0x9000)? as usize;
            information.get(start..start + range.len() as usize)
        };
        find(&at, 0x9000)
    }

    #[test]
    fn what_grub_says() {
        let map = words(&[24, 0, 0x10_0000, 0, 0x70_0000, 0, 1, 0, 0, 1, 0x1000, 0, 2, 7]);
        let framebuffer = words(&[0xe000_0000, 0, 4096, 1024, 768, 0x0120]);
        let found = found(&[
            tag(1, b"--flag\0"),
            module(0x40_0000, 0x40_1234, "herald"),
            module(0x50_0000, 0x50_0001, "bzImage and words"),
            tag(6, &map),
            tag(8, &framebuffer),
            tag(14, b"RSD PTR one"),
            tag(15, b"RSD PTR two"),
            tag(0, b""),
        ])
        .expect("good");
        let Images::Modules(modules) = found.images else { panic!("modules") };
        let names: Vec<_> = modules.iter().map(crate::modules::Module::name).collect();
        assert_eq!(names, ["herald", "bzImage"].map(Name::new));
        assert_eq!(modules[0].range().len(), 0x1234);
        let handoff = found.handoff;
        assert_eq!((handoff.regions()[0].start, handoff.regions()[1].start), (0x10_0000, 1 << 32));
        assert_eq!(handoff.regions()[1].reserved, 0);
        assert_eq!((handoff.screen.kind, handoff.screen.cell_bytes), (ScreenKind::Pixels as u32, 4));
        assert!(handoff.rsdp_copy.starts_with(b"RSD PTR two"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |tags: &[Vec<u8>]| found(tags).expect_err("refused");
        assert_eq!(refused(&[words(&[3, 7])]), LoadError::Tag { kind: 3, size: 7 });
        assert_eq!(refused(&[words(&[6, 400, 0, 0])]), LoadError::Tag { kind: 6, size: 400 });
        assert_eq!(refused(&[tag(6, &words(&[8, 0, 1, 2]))]), LoadError::Tag { kind: 6, size: 24 });
        assert!(matches!(refused(&[module(0x1000, 0x2000, "")]), LoadError::Nameless(_)));
        assert_eq!(refused(&[module(0x2000, 0x1000, "x")]), LoadError::Tag { kind: 3, size: 18 });
        assert!(matches!(refused(&[module(0x2000, 0x2000, "x")]), LoadError::OutOfReach { .. }));
        let many: Vec<_> = (0..63).map(|_| module(0x1000, 0x2000, "x")).collect();
        assert_eq!(refused(&many), LoadError::ManyModules { most: 62 });
    }
}
