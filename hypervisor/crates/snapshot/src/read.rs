//! Reading: the header and the sections at once, pages of memory when they are asked for.

use crate::layout::{CHUNK, pages_of, stored_at, sums_at};
use crate::working_set::AREA_PAGES;
use crate::{
    EMPTY, Extent, Header, MAGIC, Machine, PAGE_BYTES, Page, PageMap, VERSION, WorkingSet, empty_page, sum,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use zerocopy::FromBytes;

/// Where a snapshot comes from.
pub trait Blocks {
    /// Why it does not.
    type Error;

    /// Bytes that there are.
    fn bytes(&self) -> u64;

    /// Reads a page.
    ///
    /// # Errors
    /// The source's own.
    fn read(&self, page: u64, bytes: &mut Page) -> Result<(), Self::Error>;
}

/// Names of the sections, as the header has them.
const SECTIONS: [&str; 3] = ["machine", "board", "page map"];

/// Why something is no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError<E> {
    /// It cannot be read.
    Blocks(E),
    /// It starts otherwise.
    Magic([u8; 8]),
    /// Its writer has not come to the end.
    Unfinished,
    /// Another version of the format.
    Version(u32),
    /// The header is not what was written.
    Header {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// It is shorter than it was.
    Truncated {
        /// Bytes that there are.
        bytes: u64,
        /// Bytes of the whole.
        whole: u64,
    },
    /// A section is not what was written.
    Section {
        /// Which one.
        name: &'static str,
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// What the header, or this section, says cannot be.
    Contents(&'static str),
}

impl<E: fmt::Display> fmt::Display for OpenError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(error) => error.fmt(f),
            Self::Magic(magic) => write!(f, "no snapshot (starts with {magic:02x?})"),
            Self::Unfinished => f.write_str("a snapshot that was never finished"),
            Self::Version(version) => {
                write!(f, "a snapshot of version {version}, this build reads {VERSION}")
            }
            Self::Header { stored, computed } => {
                write!(f, "corrupt: the header's checksum is {computed:#010x}, it says {stored:#010x}")
            }
            Self::Truncated { bytes, whole } => write!(f, "truncated: {bytes} bytes of {whole} are there"),
            Self::Section { name, stored, computed } => {
                write!(
                    f,
                    "corrupt: the checksum of its {name} is {computed:#010x}, the header says {stored:#010x}"
                )
            }
            Self::Contents(name) => write!(f, "its {name} makes no sense"),
        }
    }
}

/// Why a page of memory cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageError<E> {
    /// It cannot be read.
    Blocks(E),
    /// It is not what was written.
    Page {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The checksums of its chunk are not what was written.
    Sums {
        /// Which chunk.
        chunk: u64,
    },
}

impl<E: fmt::Display> fmt::Display for PageError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(error) => error.fmt(f),
            Self::Page { stored, computed } => {
                write!(f, "corrupt: its checksum is {computed:#010x}, the snapshot says {stored:#010x}")
            }
            Self::Sums { chunk } => write!(f, "the checksums of chunk {chunk} are corrupt"),
        }
    }
}

/// A snapshot, but for its memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The header.
    pub header: Header,
    /// What the guest ran on.
    pub machine: Machine,
    /// Its devices, as whoever wrote them encodes them.
    pub board: Vec<u8>,
    map: PageMap,
}

/// Where a page of memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The page of the file.
    pub page: u64,
    /// Its chunk.
    pub chunk: u64,
    /// The number of its checksum there.
    slot: usize,
}

/// The checksums of a chunk.
pub type Sums = Box<Page>;

impl Snapshot {
    /// Reads all but memory.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open<B: Blocks>(blocks: &B) -> Result<Self, OpenError<B::Error>> {
        let header = read_header(blocks)?;
        let mut sections = [const { Vec::new() }; 3];
        for ((section, extent), name) in sections.iter_mut().zip(&header.sections).zip(SECTIONS) {
            *section = read_section(blocks, extent, name)?;
        }
        let [machine, board, map] = sections;
        let machine: Machine = postcard::from_bytes(&machine).map_err(|_| OpenError::Contents("machine"))?;
        if machine.pages() != Some(header.memory.get()) || machine.processors.is_empty() {
            return Err(OpenError::Contents("machine"));
        }
        let map = PageMap::decode(&map, header.memory.get(), header.stored.get());
        let map = map.ok_or(OpenError::Contents("page map"))?;
        Ok(Self { header, machine, board, map })
    }

    /// Where page `index` of memory is stored; `None`: nowhere, since it holds zeros.
    #[must_use]
    pub fn place(&self, index: u64) -> Option<Place> {
        let number = self.map.number_of(index)?;
        Some(Place { page: stored_at(number), chunk: number / CHUNK, slot: (number % CHUNK) as usize })
    }

    /// Reads the checksums of a chunk.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn sums<B: Blocks>(&self, blocks: &B, chunk: u64) -> Result<Sums, PageError<B::Error>> {
        let mut sums = empty_page();
        blocks.read(sums_at(chunk), &mut sums).map_err(PageError::Blocks)?;
        if word(&sums, CHUNK as usize) == sum(&sums[..CHUNK as usize * 4]) {
            Ok(sums)
        } else {
            Err(PageError::Sums { chunk })
        }
    }

    /// Pages of the file that are the working set's, from the first on.
    #[must_use]
    pub fn working_set_at(&self) -> u64 {
        self.header.working_set.get()
    }

    /// Reads the working set that was recorded last; empty where there is none.
    pub fn working_set<B: Blocks>(&self, blocks: &B) -> WorkingSet {
        let (mut bytes, mut part) = (Vec::new(), empty_page());
        for page in 0..AREA_PAGES {
            if blocks.read(self.working_set_at() + page, &mut part).is_err() {
                return WorkingSet::default();
            }
            bytes.extend_from_slice(&*part);
        }
        WorkingSet::decode(&bytes)
    }
}

impl Place {
    /// Checks the bytes of the page.
    ///
    /// # Errors
    /// [`PageError::Page`].
    pub fn check<E>(&self, sums: &Page, bytes: &Page) -> Result<(), PageError<E>> {
        let (stored, computed) = (word(sums, self.slot), sum(bytes));
        if stored == computed { Ok(()) } else { Err(PageError::Page { stored, computed }) }
    }
}

fn word(sums: &Page, slot: usize) -> u32 {
    let bytes = sums.get(slot * 4..slot * 4 + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

fn read_header<B: Blocks>(blocks: &B) -> Result<Header, OpenError<B::Error>> {
    let mut first = empty_page();
    let bytes = blocks.bytes();
    if bytes < PAGE_BYTES as u64 {
        return Err(OpenError::Truncated { bytes, whole: PAGE_BYTES as u64 });
    }
    blocks.read(0, &mut first).map_err(OpenError::Blocks)?;
    let Ok((header, _)) = Header::read_from_prefix(&first[..]) else {
        return Err(OpenError::Contents("header"));
    };
    match header.magic {
        MAGIC => {}
        EMPTY => return Err(OpenError::Unfinished),
        magic => return Err(OpenError::Magic(magic)),
    }
    if header.version != VERSION {
        return Err(OpenError::Version(header.version.get()));
    }
    let (stored, computed) = (header.checksum.get(), header.computed_checksum());
    if stored != computed {
        return Err(OpenError::Header { stored, computed });
    }
    if bytes < header.bytes.get() {
        return Err(OpenError::Truncated { bytes, whole: header.bytes.get() });
    }
    if header.is_sound() { Ok(header) } else { Err(OpenError::Contents("header")) }
}

fn read_section<B: Blocks>(
    blocks: &B,
    extent: &Extent,
    name: &'static str,
) -> Result<Vec<u8>, OpenError<B::Error>> {
    let len = extent.bytes.get();
    let (mut bytes, mut part) = (Vec::new(), empty_page());
    for page in 0..pages_of(len) {
        blocks.read(extent.page.get() + page, &mut part).map_err(OpenError::Blocks)?;
        bytes.extend_from_slice(&*part);
    }
    bytes.truncate(len as usize);
    let (stored, computed) = (extent.checksum.get(), sum(&bytes));
    if stored == computed { Ok(bytes) } else { Err(OpenError::Section { name, stored, computed }) }
}
