//! The files of \herald become the boot package. Their names tell what they are, as those of GRUB's modules do
//! ([`loader::modules`]).

use crate::error::UefiError;
use crate::pages::Pages;
use abi::package::{MAX_ENTRIES, file_name};
use loader::LoadError;
use loader::modules::{Name, assemble, layout};
use uefi::boot::{self, MemoryType};
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode, FileType, RegularFile};
use uefi::{CStr16, cstr16};
use zerocopy::IntoBytes;

/// Where they are.
const DIRECTORY: &CStr16 = cstr16!("herald");
/// 64-bit words of a directory's entry: its numbers, and a name of 255 characters.
const ENTRY_WORDS: usize = 80;

/// A file that is open.
struct Source {
    name: Name,
    len: u64,
    file: RegularFile,
}

/// Reads all files into one package.
///
/// # Errors
/// A file or the directory that is missing or cannot be read, too many files, no memory.
pub(crate) fn read_package() -> Result<Pages, UefiError> {
    let mut volume = boot::get_image_file_system(boot::image_handle())
        .map_err(|error| UefiError::Volume(error.status()))?;
    let mut root = volume.open_volume().map_err(|error| UefiError::Volume(error.status()))?;
    let mut sources = open_all(&mut open_directory(&mut root)?)?;
    if !sources.iter().any(|source| source.name == Name::new(file_name::HERALD)) {
        return Err(UefiError::Missing(file_name::HERALD));
    }
    let layout = layout(sources.iter().map(|source| (source.name, source.len)))?;
    let mut package = Pages::new(layout.total_len(), MemoryType::LOADER_DATA)?;
    assemble(&layout, package.bytes(), |index, target| sources[index].read(target))?;
    Ok(package)
}

fn open_directory(root: &mut Directory) -> Result<Directory, UefiError> {
    let file = root.open(DIRECTORY, FileMode::Read, FileAttribute::empty());
    let file = file.map_err(|error| UefiError::Directory(error.status()))?;
    file.into_directory().ok_or(UefiError::Directory(uefi::Status::NOT_FOUND))
}

fn open_all(directory: &mut Directory) -> Result<heapless::Vec<Source, MAX_ENTRIES>, UefiError> {
    let mut sources = heapless::Vec::new();
    let mut buffer = [0u64; ENTRY_WORDS];
    loop {
        let entry = directory.read_entry(buffer.as_mut_bytes());
        let entry = entry.map_err(|error| UefiError::Directory(error.status()))?;
        let Some(entry) = entry else { return Ok(sources) };
        if let Some(source) = open(directory, entry)? {
            sources.push(source).map_err(|_| LoadError::ManyModules { most: MAX_ENTRIES })?;
        }
    }
}

/// Opens a file; `None` for a directory.
fn open(directory: &mut Directory, entry: &FileInfo) -> Result<Option<Source>, UefiError> {
    let name = name_of(entry.file_name());
    let file = directory.open(entry.file_name(), FileMode::Read, FileAttribute::empty());
    match file.and_then(uefi::proto::media::file::FileHandle::into_type) {
        Ok(FileType::Regular(file)) => Ok(Some(Source { name, len: entry.file_size(), file })),
        Ok(FileType::Dir(_)) => Ok(None),
        Err(error) => Err(UefiError::File { name, status: error.status() }),
    }
}

/// As much of it as counts.
fn name_of(text: &CStr16) -> Name {
    let mut name = heapless::String::<{ ENTRY_WORDS * 8 }>::new();
    for character in text.iter() {
        if name.push(char::from(*character)).is_err() {
            break;
        }
    }
    Name::new(&name)
}

impl Source {
    fn read(&mut self, target: &mut [u8]) -> Result<(), UefiError> {
        let (name, len) = (self.name, target.len());
        match self.file.read(target) {
            Ok(read) if read == len => Ok(()),
            Ok(read) => Err(UefiError::Short { name, len, read }),
            Err(error) => Err(UefiError::File { name, status: error.status() }),
        }
    }
}
