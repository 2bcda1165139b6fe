//! Physical memory, frame by frame. A frame that was only ever filled costs no words; no frame starts as
//! zeros, since no machine's memory does.

use crate::lock;
use addr::{PAGE_SIZE, Pfn};
use std::sync::Mutex;

/// Words in a frame, and entries in a table.
pub(crate) const WORDS: usize = PAGE_SIZE as usize / 8;
/// What memory holds when the machine starts.
const JUNK: u64 = 0x7a7a_7a7a_7a7a_7a7a;
/// What a retired frame is filled with (I15).
pub const POISON: u64 = 0xdbdb_dbdb_dbdb_dbdb;

enum Contents {
    Filled(u64),
    Words(Box<[u64; WORDS]>),
}

impl Contents {
    fn word(&self, index: usize) -> u64 {
        match self {
            Self::Filled(word) => *word,
            Self::Words(words) => words[index],
        }
    }

    fn words(&mut self) -> &mut [u64; WORDS] {
        if let Self::Filled(word) = *self {
            *self = Self::Words(Box::new([word; WORDS]));
        }
        match self {
            Self::Words(words) => words,
            Self::Filled(_) => unreachable!("filled frames were expanded above"),
        }
    }
}

/// All frames of the machine. Each access is atomic, as a 64-bit access to memory is.
pub(crate) struct Memory {
    frames: Box<[Mutex<Contents>]>,
}

impl Memory {
    pub(crate) fn new(frames: u64) -> Self {
        Self { frames: (0..frames).map(|_| Mutex::new(Contents::Filled(JUNK))).collect() }
    }

    fn frame(&self, frame: Pfn) -> Option<&Mutex<Contents>> {
        self.frames.get(frame.as_u64() as usize)
    }

    /// Reads a word. Beyond the memory, the bus answers all ones.
    pub(crate) fn load(&self, frame: Pfn, index: u16) -> u64 {
        self.frame(frame).map_or(u64::MAX, |contents| lock(contents).word(usize::from(index)))
    }

    pub(crate) fn store(&self, frame: Pfn, index: u16, value: u64) {
        if let Some(contents) = self.frame(frame) {
            lock(contents).words()[usize::from(index)] = value;
        }
    }

    pub(crate) fn compare_exchange(&self, frame: Pfn, index: u16, old: u64, new: u64) -> Result<(), u64> {
        let contents = self.frame(frame).ok_or(u64::MAX)?;
        let mut contents = lock(contents);
        let now = contents.word(usize::from(index));
        if now != old {
            return Err(now);
        }
        if now != new {
            contents.words()[usize::from(index)] = new;
        }
        Ok(())
    }

    pub(crate) fn fill(&self, frame: Pfn, word: u64) {
        if let Some(contents) = self.frame(frame) {
            *lock(contents) = Contents::Filled(word);
        }
    }

    pub(crate) fn copy(&self, from: Pfn, to: Pfn) {
        let (Some(from), Some(to)) = (self.frame(from), self.frame(to)) else { return };
        let copy = match &*lock(from) {
            Contents::Filled(word) => Contents::Filled(*word),
            Contents::Words(words) => Contents::Words(words.clone()),
        };
        *lock(to) = copy;
    }

    /// Reads bytes as a device does, all at one moment. Beyond the memory, the bus answers all ones.
    pub(crate) fn read_bytes(&self, frame: Pfn, offset: usize, bytes: &mut [u8]) {
        let Some(contents) = self.frame(frame) else { return bytes.fill(u8::MAX) };
        let contents = lock(contents);
        for (index, byte) in bytes.iter_mut().enumerate() {
            let at = offset + index;
            *byte = contents.word(at / 8).to_le_bytes()[at % 8];
        }
    }

    /// Writes bytes as a device does, and no others beside them.
    pub(crate) fn write_bytes(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        let Some(contents) = self.frame(frame) else { return };
        let mut contents = lock(contents);
        for (index, byte) in bytes.iter().enumerate() {
            let at = offset + index;
            let word = &mut contents.words()[at / 8];
            let mut all = word.to_le_bytes();
            all[at % 8] = *byte;
            *word = u64::from_le_bytes(all);
        }
    }

    /// A number that tells contents apart. It does not tell a frame that was filled with a word from one into which
    /// that word was stored 512 times; nobody stores so.
    pub(crate) fn digest(&self, frame: Pfn) -> u64 {
        let mix = |index: usize, word: u64| {
            let word = word.wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        let Some(contents) = self.frame(frame) else { return 0 };
        match &*lock(contents) {
            Contents::Filled(0) => 0,
            Contents::Filled(word) => !mix(0, *word),
            Contents::Words(words) => {
                let written = words.iter().enumerate().filter(|(_, word)| **word != 0);
                written.fold(0, |sum, (index, word)| mix(index, *word).wrapping_add(sum))
            }
        }
    }

    /// The words of a frame that are not zero, with their places.
    pub(crate) fn nonzero(&self, frame: Pfn) -> Vec<(u16, u64)> {
        let Some(contents) = self.frame(frame) else { return Vec::new() };
        match &*lock(contents) {
            Contents::Filled(0) => Vec::new(),
            Contents::Filled(word) => (0..WORDS as u16).map(|index| (index, *word)).collect(),
            Contents::Words(words) => words
                .iter()
                .enumerate()
                .filter(|(_, word)| **word != 0)
                .map(|(index, word)| (index as u16, *word))
                .collect(),
        }
    }
}
