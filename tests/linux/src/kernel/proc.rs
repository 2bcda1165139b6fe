//! What the kernel shows of a process: `/proc/PID/{maps,smaps,pagemap}`.

use crate::END;
use crate::areas::{Area, Backed};
use addr::{PAGE_SHIFT, PAGE_SIZE};
use mm::{Protection, VmaFlags};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;

/// Bits of an entry of pagemap: a page is there, or in swap.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;

/// Whether areas come with their flags: `smaps` has them, and costs more than `maps`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flags {
    /// They do.
    Told,
    /// They do not: those of the answer are empty.
    Unknown,
}

/// One line of maps.
struct Line {
    start: u64,
    end: u64,
    rights: [u8; 4],
    offset: u64,
    inode: u64,
}

/// `200000000-200003000 rw-s 00001000 00:01 77 /memfd:name`; `None`: a line of smaps about something else.
fn line(text: &str) -> Option<Line> {
    let mut words = text.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let rights = words.next()?.as_bytes().try_into().ok()?;
    let offset = hex(words.next()?)?;
    let inode = words.nth(1)?.parse().ok()?;
    Some(Line { start, end, rights, offset, inode })
}

fn text(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("a living process");
    text
}

/// The areas of the test, by address; `inodes` tells the files.
pub(super) fn areas(file: &mut File, inodes: &[u64]) -> Vec<Area> {
    let text = text(file);
    let mut areas: Vec<Area> = Vec::new();
    for row in text.lines() {
        if let Some(line) = line(row) {
            if line.start >= END {
                break;
            }
            areas.push(area(&line, inodes));
        } else if let (Some(words), Some(last)) = (row.strip_prefix("VmFlags:"), areas.last_mut()) {
            last.flags = flags(words);
        }
    }
    areas
}

/// Whether smaps has flags at all.
pub(super) fn has_flags(file: &mut File) -> bool {
    text(file).contains("VmFlags:")
}

/// The inode of the area that holds an address.
pub(super) fn inode_at(file: &mut File, address: u64) -> Option<u64> {
    let text = text(file);
    let line = text.lines().filter_map(line).find(|line| (line.start..line.end).contains(&address))?;
    (line.inode != 0).then_some(line.inode)
}

fn area(line: &Line, inodes: &[u64]) -> Area {
    let protection = match &line.rights[..3] {
        b"---" => Protection::None,
        b"r--" => Protection::Read,
        b"rw-" => Protection::ReadWrite,
        other => panic!("an area allows {:?}", String::from_utf8_lossy(other)),
    };
    let first = line.offset >> PAGE_SHIFT;
    let file = || inodes.iter().position(|&inode| inode == line.inode).expect("a file of the test");
    let backed = match (line.inode, line.rights[3]) {
        (0, _) => Backed::Anonymous,
        (_, b's') => Backed::Shared { file: file(), first },
        _ => Backed::Private { file: file(), first },
    };
    Area { start: line.start, end: line.end, protection, backed, flags: VmaFlags::empty() }
}

/// The flags that `mm` has words for.
fn flags(words: &str) -> VmaFlags {
    let known = |word| match word {
        "lo" => VmaFlags::LOCKED,
        "hg" => VmaFlags::HUGE,
        "nh" => VmaFlags::NO_HUGE,
        "mg" => VmaFlags::MERGEABLE,
        _ => VmaFlags::empty(),
    };
    words.split_ascii_whitespace().map(known).fold(VmaFlags::empty(), |all, one| all | one)
}

/// Whether something is at each page.
pub(super) fn presence(pagemap: &File, pages: &[u64]) -> Option<Vec<bool>> {
    let mut present = Vec::with_capacity(pages.len());
    for run in pages.chunk_by(|&a, &b| a + PAGE_SIZE == b) {
        let mut entries = vec![0; run.len() * 8];
        pagemap.read_exact_at(&mut entries, (run[0] >> PAGE_SHIFT) * 8).ok()?;
        let entries =
            entries.chunks_exact(8).map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("8 bytes")));
        present.extend(entries.map(|entry| entry & (PRESENT | SWAPPED) != 0));
    }
    Some(present)
}
