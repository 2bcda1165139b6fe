//! Memory to compress in: a page, and its compressed form. A few of them are kept, as many as there were users at a time.

use crate::entry::Object;
use addr::PAGE_SIZE;
use alloc::boxed::Box;
use alloc::vec::Vec;
use sync::{Mutex, Rank};

const PAGE: usize = PAGE_SIZE as usize;
/// What LZ4 may need for a page that does not compress.
const MOST: usize = lz4_flex::block::get_maximum_output_size(PAGE);

/// A page, and its compressed form.
pub(crate) struct Buffers {
    pub(crate) page: Box<[u8]>,
    packed: Box<[u8]>,
}

impl Buffers {
    /// The word that the page consists of, if it is one over and over.
    pub(crate) fn same_word(&self) -> Option<u64> {
        let (first, rest) = self.page.split_first_chunk::<8>()?;
        let same = rest.chunks_exact(8).all(|word| word == first);
        same.then(|| u64::from_le_bytes(*first))
    }

    /// Makes the page of one word.
    pub(crate) fn fill(&mut self, word: u64) {
        self.page.chunks_exact_mut(8).for_each(|place| place.copy_from_slice(&word.to_le_bytes()));
    }

    /// Compresses the page.
    pub(crate) fn compress(&mut self) -> Option<&[u8]> {
        let len = lz4_flex::block::compress_into(&self.page, &mut self.packed).ok()?;
        Some(&self.packed[..len])
    }

    /// Where an object's bytes go.
    pub(crate) fn place_for(&mut self, object: Object) -> &mut [u8] {
        if object.is_raw() { &mut self.page } else { &mut self.packed[..usize::from(object.len)] }
    }

    /// Makes the page of them. `false`: they are none.
    pub(crate) fn unpack(&mut self, object: Object) -> bool {
        let packed = &self.packed[..usize::from(object.len)];
        object.is_raw()
            || lz4_flex::block::decompress_into(packed, &mut self.page).is_ok_and(|found| found == PAGE)
    }
}

fn zeros(len: usize) -> Box<[u8]> {
    alloc::vec![0; len].into_boxed_slice()
}

/// Those that nobody uses now.
pub(crate) struct Scratch(Mutex<Vec<Buffers>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(Mutex::new(Rank::SwapStore, Vec::new()))
    }
}

impl Scratch {
    /// One of them, or a new one. No lock of rank `SwapStore` or later is held.
    pub(crate) fn take(&self) -> Buffers {
        let free = self.0.lock().pop();
        free.unwrap_or_else(|| Buffers { page: zeros(PAGE), packed: zeros(MOST) })
    }

    /// It is free again.
    pub(crate) fn give_back(&self, buffers: Buffers) {
        self.0.lock().push(buffers);
    }
}
