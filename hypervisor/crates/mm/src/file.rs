//! Files: pages with a backing store, cached in frames that every mapping shares.
//!
//! ```text
//!               fault: read                    unmapped, clean: evict
//!   no page ─────────────────► cached, clean ─────────────────────────► no page
//!                                 │      ▲
//!        write fault: frame dirty │      │ page_mkclean (no entry writable), then write out
//!                                 ▼      │
//!                              cached, dirty
//! ```
//!
//! The cache owns one reference on each of its frames. Whether a page still belongs to its file is decided under
//! the page lock: a fault installs under it, truncation removes under it.
//!
//! A store that can name the frames of its pages is *execute-in-place* (2008: `filemap_xip`): they are mapped as they
//! are, never counted, never cached. A hole in it reads as the machine's zero page until somebody writes.

use crate::frames::{FrameMeta, PageFlags};
use crate::host::{Host, OutOfFrames};
use crate::mm::Mm;
use crate::rmap::Rmap;
use addr::{PageSize, Pfn};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mutants::{Mutant, intact};
use sync::{Mutex, Rank};

/// Why a page could not be read from its store, or written to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreError {
    /// The page, counted from the start of the file.
    pub index: u64,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of a file cannot be read or written", self.index)
    }
}

/// What an execute-in-place store has at an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direct {
    /// This frame, which is nobody's to free.
    Frame(Pfn),
    /// Nothing yet: it reads as zeros.
    Hole,
}

/// Where the pages of a file come from and go to. Called without locks but the page lock.
pub trait Store: Send + Sync {
    /// Fills a frame, which is zeroed, with page `index`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn read(&self, index: u64, frame: Pfn) -> Result<(), StoreError>;

    /// Keeps the contents of a frame as page `index`.
    ///
    /// # Errors
    /// [`StoreError`]; the page stays dirty.
    fn write(&self, index: u64, frame: Pfn) -> Result<(), StoreError>;

    /// The file ends with page `len` now: what was kept from there on reads as zeros if the file grows again. Called when
    /// no page from there on is cached any more.
    fn truncate(&self, len: u64);

    /// Whether pages are kept at all; else write-back has nothing to do, and dirty pages stay in the cache.
    fn keeps_pages(&self) -> bool {
        true
    }

    /// Whether pages come from a device: whoever asks for one has to wait, and so holds no lock. Nobody maps such a file but
    /// privately.
    fn waits(&self) -> bool {
        false
    }

    /// The first page from `index` on that may hold something else than zeros. Called under locks: it does not wait.
    fn next_used(&self, index: u64) -> Option<u64> {
        Some(index)
    }

    /// For stores that are execute-in-place: what is at `index`. The answer changes only from a hole to a frame,
    /// by [`Store::fill_hole`]. Called under the page-table lock, too: it does not wait.
    fn direct(&self, index: u64) -> Option<Direct> {
        let _ = index;
        None
    }

    /// Puts a zeroed frame of the store's own where a hole was (2008: `get_xip_page` with create).
    ///
    /// # Errors
    /// [`StoreError`].
    fn fill_hole(&self, index: u64) -> Result<Pfn, StoreError> {
        Err(StoreError { index })
    }
}

/// The store of shared anonymous memory: zeros that nobody keeps. Its dirty pages stay in the cache.
#[derive(Clone, Copy, Debug)]
pub struct Zeros;

impl Store for Zeros {
    fn read(&self, _index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Ok(())
    }

    fn write(&self, index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Err(StoreError { index })
    }

    fn truncate(&self, _len: u64) {}

    fn keeps_pages(&self) -> bool {
        false
    }
}

/// Why a page of a file could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageError {
    /// It lies behind the end of the file.
    Beyond,
    Store(StoreError),
    OutOfFrames(OutOfFrames),
}

struct Cache {
    pages: BTreeMap<u64, Pfn>,
    /// Length in pages.
    len: u64,
    /// Pages ever evicted, and times that the file shrank: a page read while this changed may be older than what was
    /// written back, or cut off. (Where pages have to be waited for nothing is written back: there, times that it shrank.)
    evictions: u64,
}

/// A file.
pub struct File<H: Host> {
    host: Arc<H>,
    rmap: Arc<Rmap<H>>,
    store: Box<dyn Store>,
    cache: Mutex<Cache>,
}

impl<H: Host> File<H> {
    /// A file of `len` pages.
    #[must_use]
    pub fn new(mm: &Mm<H>, store: Box<dyn Store>, len: u64) -> Arc<Self> {
        let cache = Cache { pages: BTreeMap::new(), len, evictions: 0 };
        let file = Arc::new(Self {
            host: Arc::clone(mm.host()),
            rmap: mm.rmaps().create(Rank::FileRmap),
            store,
            cache: Mutex::new(Rank::PageCache, cache),
        });
        file.rmap.set_file(Arc::downgrade(&file));
        file
    }

    /// Length in pages.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.cache.lock().len
    }

    /// Whether the file has no page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pages in the cache.
    #[must_use]
    pub fn cached(&self) -> u64 {
        self.cache.lock().pages.len() as u64
    }

    /// The cached frame of a page.
    #[must_use]
    pub fn cached_frame(&self, index: u64) -> Option<Pfn> {
        self.cache.lock().pages.get(&index).copied()
    }

    /// All cached pages, by index.
    #[must_use]
    pub fn cached_frames(&self) -> Vec<(u64, Pfn)> {
        self.cache.lock().pages.iter().map(|(&index, &frame)| (index, frame)).collect()
    }

    pub(crate) fn rmap(&self) -> &Arc<Rmap<H>> {
        &self.rmap
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether the store is execute-in-place: its frames do not know which page they are.
    pub(crate) fn is_direct(&self) -> bool {
        self.store.direct(0).is_some()
    }

    /// What an execute-in-place store has at `index`.
    pub(crate) fn direct(&self, index: u64) -> Result<Option<Direct>, PageError> {
        if index < self.len() { Ok(self.store.direct(index)) } else { Err(PageError::Beyond) }
    }

    /// The frame of a page, read if need be, with a reference for the caller.
    pub(crate) fn page(&self, index: u64) -> Result<Pfn, PageError> {
        loop {
            let evictions = match self.find(index)? {
                Ok(frame) => return Ok(frame),
                Err(evictions) => evictions,
            };
            let frame = self.host.allocate_zeroed(PageSize::Size4K).map_err(PageError::OutOfFrames)?;
            let read = self.store.read(index, frame).map_err(PageError::Store);
            if read.is_ok() && self.insert(index, frame, evictions) {
                return Ok(frame);
            }
            self.put(frame);
            read?;
        }
    }

    /// The frame of a cached page, with a reference for the caller; else the number of evictions so far.
    fn find(&self, index: u64) -> Result<Result<Pfn, u64>, PageError> {
        let cache = self.cache.lock();
        if index >= cache.len {
            return Err(PageError::Beyond);
        }
        Ok(cache.pages.get(&index).map_or(Err(cache.evictions), |&frame| {
            self.meta(frame).get();
            Ok(frame)
        }))
    }

    /// The same for who holds a lock. `None`: it has to be waited for, though it was there a moment ago.
    pub(crate) fn page_at_once(&self, index: u64) -> Result<Option<Pfn>, PageError> {
        if self.store.waits() && intact(Mutant::WaitsUnderLocks) {
            return self.find(index).map(Result::ok);
        }
        self.page(index).map(Some)
    }

    /// Caches a page that somebody has read before anybody wanted it, and takes the frame's one reference; not if the page is
    /// there. Only for a store that never changes: the frame may be older than what was last written.
    pub fn offer(&self, index: u64, frame: Pfn) {
        let evictions = self.cache.lock().evictions;
        self.insert(index, frame, evictions);
        self.put(frame);
    }

    /// Whether a page has to be read first, by who holds no lock.
    pub(crate) fn is_unread(&self, index: u64) -> bool {
        self.store.waits() && {
            let cache = self.cache.lock();
            index < cache.len && !cache.pages.contains_key(&index)
        }
    }

    /// Reads a page, by who holds no lock: it stays in the cache until the result is dropped.
    pub(crate) fn read_ahead(self: &Arc<Self>, index: u64) -> Result<ReadPage<H>, PageError> {
        self.page(index).map(|frame| ReadPage { file: Arc::clone(self), index, frame })
    }

    /// Caches a page that was read; not if somebody else was faster, or the file changed meanwhile.
    fn insert(&self, index: u64, frame: Pfn, evictions: u64) -> bool {
        let mut cache = self.cache.lock();
        let older = cache.evictions != evictions && intact(Mutant::FileIgnoresEvictions);
        let cached = cache.pages.contains_key(&index) && intact(Mutant::ReadReplacesCached);
        if older || index >= cache.len || cached {
            return false;
        }
        let meta = self.meta(frame);
        meta.set_owner(self.rmap.id(), index);
        meta.set(PageFlags::FILE);
        meta.get();
        cache.pages.insert(index, frame);
        true
    }

    /// Adds a reference for the caller if the frame is page `index`.
    pub(crate) fn hold(&self, index: u64, frame: Pfn) -> bool {
        let cache = self.cache.lock();
        let is_there = cache.pages.get(&index) == Some(&frame);
        if is_there {
            self.meta(frame).get();
        }
        is_there
    }

    /// Whether the frame still is page `index` of this file. The page lock is held, so that it stays so.
    pub(crate) fn owns(&self, frame: Pfn, index: u64) -> bool {
        self.meta(frame).owner() == Some((self.rmap.id(), index))
    }

    /// Sets the length, and returns the pages that lie behind it now, each with a reference for the caller.
    pub(crate) fn set_len(&self, len: u64) -> Vec<(u64, Pfn)> {
        let mut cache = self.cache.lock();
        // Who is reading a page behind the new end shall not cache it, though the file may have grown again by then.
        cache.evictions += u64::from(len < cache.len);
        cache.len = len;
        let behind: Vec<_> = cache.pages.range(len..).map(|(&index, &frame)| (index, frame)).collect();
        behind.iter().for_each(|&(_, frame)| self.meta(frame).get());
        behind
    }

    /// All cached pages, each with a reference for the caller.
    pub(crate) fn cached_pages(&self) -> Vec<(u64, Pfn)> {
        let cache = self.cache.lock();
        let all: Vec<_> = cache.pages.iter().map(|(&index, &frame)| (index, frame)).collect();
        all.iter().for_each(|&(_, frame)| self.meta(frame).get());
        all
    }

    /// Takes a page out of the cache. The page lock is held, and no entry maps the page.
    pub(crate) fn remove(&self, index: u64, frame: Pfn) {
        let removed = self.remove_if(index, frame, || true);
        debug_assert!(removed, "page {index} of a file is not {frame}");
    }

    /// Takes a page out of the cache if `unused` says so, which is asked under the lock that keeps others from
    /// finding the page. The page lock is held, and no entry maps the page.
    pub(crate) fn remove_if(&self, index: u64, frame: Pfn, unused: impl FnOnce() -> bool) -> bool {
        let mut cache = self.cache.lock();
        if cache.pages.get(&index) != Some(&frame) || !unused() {
            return false;
        }
        cache.pages.remove(&index);
        cache.evictions += u64::from(!self.store.waits() || !intact(Mutant::WaitedReadsUndone));
        drop(cache);
        self.meta(frame).clear_owner();
        self.put(frame);
        true
    }

    fn meta(&self, frame: Pfn) -> &FrameMeta {
        self.host.frames().meta(frame)
    }

    /// Drops a reference.
    pub(crate) fn put(&self, frame: Pfn) {
        if self.meta(frame).put() {
            self.host.retire(frame, PageSize::Size4K);
        }
    }
}

/// A page of a file, read for a fault: with a reference.
pub(crate) struct ReadPage<H: Host> {
    file: Arc<File<H>>,
    index: u64,
    frame: Pfn,
}

/// Where the fault was a write, it has a copy now, and nobody else may ever want the page.
impl<H: Host> Drop for ReadPage<H> {
    fn drop(&mut self) {
        let meta = self.file.meta(self.frame);
        let lock = meta.lock();
        // The cache's reference, and this one: no entry maps it.
        let unused = || match meta.count() {
            2 => intact(Mutant::ReadPageStays),
            _ => !intact(Mutant::ReadPageGoesMapped),
        };
        self.file.remove_if(self.index, self.frame, unused);
        drop(lock);
        self.file.put(self.frame);
    }
}

/// Nobody maps the file any more: areas hold it.
impl<H: Host> Drop for File<H> {
    fn drop(&mut self) {
        for (_, frame) in core::mem::take(&mut self.cache.get_mut().pages) {
            // Its number may be another reverse map's soon.
            self.meta(frame).clear_owner();
            self.put(frame);
        }
    }
}

impl<H: Host> fmt::Debug for File<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("len", &self.len())
            .field("cached", &self.cached())
            .finish_non_exhaustive()
    }
}
