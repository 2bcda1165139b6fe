//! Linux's side: puppets, and what the kernel shows of them.
//!
//! ```text
//!   Kernel ── socket of space k ──► the puppet that is space k        (each a fork of the first puppet,
//!      │                                                               whose arena is always empty, or of another)
//!      ├── pipes: what a puppet loads, what it is to store
//!      ├── memfds: the files, inherited by all
//!      └── /proc/PID/{maps,smaps,pagemap}
//! ```

mod calls;
mod proc;

pub(crate) use proc::Flags;

use crate::answer::{Answer, Errno};
use crate::areas::Area;
use crate::probe::{self, Abilities};
use crate::step::{Advised, Place, Range, Raw, To, What};
use crate::wire::{self, Call};
use crate::{FILE_PAGES, SPACES, STORED, first_word};
use addr::PAGE_SIZE;
use mm::Protection;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd, pwrite};
use rustix::pipe::pipe;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

/// The first puppet's place, behind those of the spaces.
const FIRST: usize = SPACES;
/// A puppet that has not answered by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// A space's puppet, as the kernel shows it.
struct Puppet {
    maps: File,
    smaps: File,
    /// `None` where the kernel does not show it.
    pagemap: Option<File>,
}

/// A file: its contents are a memfd's.
struct Backing {
    /// `None`: shared anonymous memory, which has no descriptor.
    memfd: Option<OwnedFd>,
    inode: u64,
}

/// The kernel, and those who make calls for the bench.
pub struct Kernel {
    first: Child,
    channels: Vec<UnixStream>,
    /// The puppets' ends, as they know them.
    theirs: Vec<UnixStream>,
    /// What is loaded: the bench reads, puppets write.
    loads: (File, OwnedFd),
    /// What is to be stored: puppets read, the bench writes.
    stores: (OwnedFd, File),
    files: Vec<Backing>,
    spaces: [Option<Puppet>; SPACES],
    abilities: Abilities,
}

impl Kernel {
    /// Starts the first puppet, which is the program at this path, and finds out what the kernel can do.
    ///
    /// # Panics
    /// Without sockets, pipes, memfds or `/proc` there is nothing to compare.
    #[must_use]
    pub fn start(puppet: &Path) -> Self {
        let sockets = (0..=FIRST).map(|_| UnixStream::pair().expect("a pair of sockets"));
        let (channels, theirs): (Vec<_>, Vec<_>) = sockets.unzip();
        for (ours, theirs) in channels.iter().zip(&theirs) {
            ours.set_read_timeout(Some(PATIENCE)).expect("a socket that gives up");
            fcntl_setfd(theirs, FdFlags::empty()).expect("a descriptor that is inherited");
        }
        let (loaded, loads) = pipe().expect("a pipe");
        let (to_store, stored) = pipe().expect("a pipe");
        let files = (0..FILE_PAGES.len()).map(|_| memfd()).collect();
        // Everything that it is to inherit is open by now.
        let first = Command::new(puppet).arg(theirs[FIRST].as_raw_fd().to_string()).spawn();
        let mut kernel = Self {
            first: first.expect("a puppet"),
            channels,
            theirs,
            loads: (loaded.into(), loads),
            stores: (to_store, stored.into()),
            files,
            spaces: [const { None }; SPACES],
            abilities: Abilities::default(),
        };
        kernel.reset();
        kernel.abilities = probe::probe(&mut kernel);
        kernel
    }

    /// What there is to compare.
    #[must_use]
    pub const fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Ends all spaces; the files are what they were at first.
    pub(crate) fn reset(&mut self) {
        for id in 0..SPACES {
            if self.spaces[id].is_some() {
                self.exit(id);
            }
        }
        self.files.truncate(FILE_PAGES.len());
        for (number, pages) in FILE_PAGES.into_iter().enumerate() {
            self.truncate(number, 0);
            self.truncate(number, pages);
        }
        let stored = self.files[STORED].memfd.as_ref().expect("a memfd");
        for index in 0..FILE_PAGES[STORED] {
            let written = pwrite(stored, &first_word(index).to_ne_bytes(), index * PAGE_SIZE);
            assert_eq!(written, Ok(8), "a memfd takes a word");
        }
    }

    pub(crate) fn truncate(&self, file: usize, pages: u64) {
        let memfd = self.files[file].memfd.as_ref().expect("a memfd");
        ftruncate(memfd, pages * PAGE_SIZE).expect("a length");
    }

    /// An empty space.
    pub(crate) fn spawn(&mut self, id: usize) {
        self.fork_of(FIRST, id);
    }

    /// fork.
    pub(crate) fn fork(&mut self, id: usize, to: usize) {
        self.fork_of(id, to);
    }

    fn fork_of(&mut self, of: usize, to: usize) {
        let channel = self.theirs[to].as_raw_fd() as u64;
        let pid = self.make(of, Call::new(libc::SYS_fork, [channel, 0, 0, 0, 0, 0])).expect("fork");
        let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
        let maps = open("maps").expect("maps");
        // Without smaps there are no flags, which is found out and said.
        let smaps = open("smaps").or_else(|_| open("maps")).expect("maps");
        self.spaces[to] = Some(Puppet { maps, smaps, pagemap: open("pagemap").ok() });
    }

    /// The end of a space.
    pub(crate) fn exit(&mut self, id: usize) {
        self.make(id, Call::new(libc::SYS_exit_group, [0; 6])).expect("an end");
        self.spaces[id] = None;
    }

    /// Has a puppet make a call.
    fn make(&mut self, id: usize, call: Call) -> Answer {
        self.make_all(id, &[call])[0]
    }

    fn make_all(&mut self, id: usize, calls: &[Call]) -> Vec<Answer> {
        let channel = &mut self.channels[id];
        channel.write_all(&wire::request(calls)).expect("a puppet that listens");
        let mut answers = vec![0; calls.len() * 8];
        channel.read_exact(&mut answers).expect("a puppet that answers");
        let numbers =
            answers.chunks_exact(8).map(|bytes| i64::from_ne_bytes(bytes.try_into().expect("8 bytes")));
        numbers
            .map(|number| if number < 0 { Err(Errno(-number as i32)) } else { Ok(number as u64) })
            .collect()
    }

    /// Does what a program asks for.
    pub(crate) fn call(&mut self, id: usize, what: What) -> Answer {
        match what {
            What::Load(address) => self.load(id, address),
            What::Store(address, value) => self.store(id, address, value),
            _ => {
                let call = calls::of(what, |file| self.descriptor(file));
                let answer = self.make(id, call);
                self.note_shared_memory(id, what, answer);
                answer
            }
        }
    }

    fn descriptor(&self, file: usize) -> u64 {
        self.files[file].memfd.as_ref().expect("a memfd").as_raw_fd() as u64
    }

    fn load(&mut self, id: usize, Raw(address): Raw) -> Answer {
        let pipe = self.loads.1.as_raw_fd() as u64;
        self.make(id, Call::new(libc::SYS_write, [pipe, address, 8, 0, 0, 0]))?;
        Ok(read_word(&mut self.loads.0))
    }

    fn store(&mut self, id: usize, Raw(address): Raw, Raw(value): Raw) -> Answer {
        self.stores.1.write_all(&value.to_ne_bytes()).expect("room for a word");
        let pipe = self.stores.0.as_raw_fd() as u64;
        let answer = self.make(id, Call::new(libc::SYS_read, [pipe, address, 8, 0, 0, 0]));
        if answer.is_err() {
            let mut lost = [0; 8];
            assert_eq!(rustix::io::read(&self.stores.0, &mut lost), Ok(8), "the word is still there");
        }
        answer.map(|_| 0)
    }

    /// Loads many words.
    pub(crate) fn load_all(&mut self, id: usize, addresses: &[u64]) -> Vec<Answer> {
        let pipe = self.loads.1.as_raw_fd() as u64;
        let load = |&address: &u64| Call::new(libc::SYS_write, [pipe, address, 8, 0, 0, 0]);
        let calls: Vec<_> = addresses.iter().map(load).collect();
        let answers = self.make_all(id, &calls);
        let loads = &mut self.loads.0;
        answers.into_iter().map(|answer| answer.map(|_| read_word(loads))).collect()
    }

    /// Shared anonymous memory is a file without a name: it is known by the inode that `maps` shows.
    fn note_shared_memory(&mut self, id: usize, what: What, answer: Answer) {
        let What::Mmap { backing: crate::step::Backing::SharedAnonymous, .. } = what else { return };
        let Ok(start) = answer else { return };
        let puppet = self.spaces[id].as_mut().expect("a living space");
        let inode = proc::inode_at(&mut puppet.maps, start).expect("an area with an inode");
        self.files.push(Backing { memfd: None, inode });
    }

    /// The areas below the puppet's own, by address; with flags where `flags` says so.
    pub(crate) fn areas(&mut self, id: usize, flags: Flags) -> Vec<Area> {
        let inodes: Vec<_> = self.files.iter().map(|file| file.inode).collect();
        let puppet = self.spaces[id].as_mut().expect("a living space");
        let of = match flags {
            Flags::Told => &mut puppet.smaps,
            Flags::Unknown => &mut puppet.maps,
        };
        proc::areas(of, &inodes)
    }

    /// Whether something is there, page by page. `None`: the kernel does not say.
    pub(crate) fn presence(&mut self, id: usize, pages: &[u64]) -> Option<Vec<bool>> {
        let puppet = self.spaces[id].as_ref().expect("a living space");
        proc::presence(puppet.pagemap.as_ref()?, pages)
    }

    /// Lets no space have transparent huge pages.
    pub(crate) fn bar_huge_pages(&mut self) {
        let bar = Call::new(libc::SYS_prctl, [libc::PR_SET_THP_DISABLE as u64, 1, 0, 0, 0, 0]);
        self.make(FIRST, bar).expect("a kernel that can leave huge pages");
    }

    /// Whether areas come with flags.
    pub(crate) fn tells_flags(&mut self, id: usize) -> bool {
        proc::has_flags(&mut self.spaces[id].as_mut().expect("a living space").smaps)
    }

    /// Whether so much memory can be locked.
    pub(crate) fn can_lock(&mut self, id: usize, range: Range) -> bool {
        let (place, protection) = (Place::Fixed(range.start), Protection::Read);
        let backing = crate::step::Backing::Anonymous;
        let map = What::Mmap { place, len: range.len, protection, backing };
        [map, What::Mlock(range), What::Munmap(range)].into_iter().all(|what| self.call(id, what).is_ok())
    }

    /// Whether a move of nothing leaves alone what lies at its target.
    pub(crate) fn mremap_looks_first(&mut self, id: usize) -> bool {
        let one = |number| Range { start: Raw(crate::page(number)), len: Raw(PAGE_SIZE) };
        let backing = crate::step::Backing::Anonymous;
        let (place, protection) = (Place::Fixed(one(4).start), Protection::Read);
        let map = What::Mmap { place, len: one(4).len, protection, backing };
        let unmap = |range| What::Munmap(range);
        let mapped = [unmap(one(2)), map].into_iter().all(|what| self.call(id, what).is_ok());
        let moved = self
            .call(id, What::Mremap { range: one(2), new_len: Raw(PAGE_SIZE), to: To::Fixed(one(4).start) });
        let lasts = self
            .areas(id, Flags::Unknown)
            .iter()
            .any(|area| area.start <= one(4).start.0 && one(4).start.0 < area.end);
        mapped && moved.is_err() && lasts
    }

    /// Whether the kernel knows some advice: it says so of no memory at all.
    pub(crate) fn knows(&mut self, id: usize, advised: Advised) -> bool {
        let nothing = Range { start: Raw(crate::page(0)), len: Raw(0) };
        self.call(id, What::Madvise(nothing, advised)).is_ok()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.channels.clear();
        let _ = self.first.wait();
    }
}

fn memfd() -> Backing {
    let memfd = memfd_create("herald", MemfdFlags::empty()).expect("a memfd");
    let inode = fstat(&memfd).expect("its inode").st_ino;
    Backing { memfd: Some(memfd), inode }
}

fn read_word(from: &mut File) -> u64 {
    let mut word = [0; 8];
    from.read_exact(&mut word).expect("a word");
    u64::from_ne_bytes(word)
}
