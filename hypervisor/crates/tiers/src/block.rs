//! The seam to a disk.

use addr::Pfn;
use alloc::sync::Arc;
use core::fmt;

/// Most pages of a request.
pub const MOST_PAGES: usize = 16;

/// A request that the disk did not do, all or in part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockError {
    /// Its first block.
    pub block: u64,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} of the swap disk cannot be read or written", self.block)
    }
}

/// A disk in blocks of a page. A request may take time: whoever makes one holds no lock.
pub trait BlockDevice: Send + Sync {
    /// How many blocks it has.
    fn blocks(&self) -> u64;

    /// Fills frames, which are the caller's alone, from the blocks that begin with `first`.
    ///
    /// # Errors
    /// [`BlockError`].
    fn read(&self, first: u64, frames: &[Pfn]) -> Result<(), BlockError>;

    /// Writes frames, which nobody changes meanwhile, to the blocks that begin with `first`.
    ///
    /// # Errors
    /// [`BlockError`].
    fn write(&self, first: u64, frames: &[Pfn]) -> Result<(), BlockError>;

    /// Waits until all requests that were made before are done.
    fn wait(&self);
}

/// A disk that several have.
impl<D: BlockDevice + ?Sized> BlockDevice for Arc<D> {
    fn blocks(&self) -> u64 {
        (**self).blocks()
    }

    fn read(&self, first: u64, frames: &[Pfn]) -> Result<(), BlockError> {
        (**self).read(first, frames)
    }

    fn write(&self, first: u64, frames: &[Pfn]) -> Result<(), BlockError> {
        (**self).write(first, frames)
    }

    fn wait(&self) {
        (**self).wait();
    }
}
