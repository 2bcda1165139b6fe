//! Stacks of threads and of CPUs, each above a page that is never mapped.
//!
//! ```text
//!   STACKS ─► │ hole      │ stack 0 │ hole      │ stack 1 │ …        STRIDE bytes each; a stack fills the upper part
//! ```
//!
//! They stay mapped, and are used again: no CPU ever has to forget one.

use super::pages;
use crate::layout::{STACKS, STACKS_BYTES};
use crate::physmem::PhysicalMemory;
use addr::{Hva, PAGE_SIZE, PageSize};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::OutOfFrames;
use spin::{Mutex, Once};

/// Bytes of a stack.
const BYTES: u64 = 32 << 10;
/// From one stack to the next.
const STRIDE: u64 = 2 * BYTES;

static MEMORY: Once<Arc<PhysicalMemory>> = Once::new();
/// Bottoms of stacks that nobody uses.
static FREE: Mutex<Vec<u64>> = Mutex::new(Vec::new());
/// How many there are.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// An owned stack.
#[derive(Debug)]
pub(crate) struct Stack {
    bottom: u64,
}

/// Tells where frames come from.
pub(crate) fn init(memory: &Arc<PhysicalMemory>) {
    MEMORY.call_once(|| Arc::clone(memory));
}

impl Stack {
    /// A stack that was used before, or a new one.
    ///
    /// # Errors
    /// [`OutOfFrames`], also where the window is full.
    pub(crate) fn new() -> Result<Self, OutOfFrames> {
        let mut free = FREE.lock();
        match free.pop() {
            Some(bottom) => Ok(Self { bottom }),
            None => map_another().map(|bottom| Self { bottom }),
        }
    }

    /// The address behind its last byte.
    #[must_use]
    pub(crate) const fn top(&self) -> u64 {
        self.bottom + BYTES
    }

    /// A stack that nobody gives back.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub(crate) fn forever() -> Result<u64, OutOfFrames> {
        let stack = Self::new()?;
        let top = stack.top();
        core::mem::forget(stack);
        Ok(top)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        FREE.lock().push(self.bottom);
    }
}

/// Maps one more; the lock of the free list is held. A stack that cannot be mapped whole is tried again next time.
fn map_another() -> Result<u64, OutOfFrames> {
    let none = OutOfFrames { size: PageSize::Size4K };
    let memory = MEMORY.get().ok_or(none)?;
    let start = COUNT.load(Ordering::Relaxed) * STRIDE;
    if start + STRIDE > STACKS_BYTES {
        return Err(none);
    }
    let bottom = STACKS.add(start + STRIDE - BYTES);
    for offset in (0..BYTES).step_by(PAGE_SIZE as usize) {
        let at: Hva = bottom.add(offset);
        if pages::is_mapped(&**memory, memory.root(), at) {
            continue;
        }
        let frame = memory.allocate_own()?;
        pages::map_own(&**memory, memory.root(), at, frame).map_err(|_| none)?;
    }
    COUNT.fetch_add(1, Ordering::Release);
    Ok(bottom.as_u64())
}

/// Frames that stacks take.
#[must_use]
pub(crate) fn frames() -> u64 {
    COUNT.load(Ordering::Acquire) * (BYTES / PAGE_SIZE)
}

/// Whether an address lies in a stack.
#[must_use]
pub(crate) fn contain(address: u64) -> bool {
    let used = COUNT.load(Ordering::Acquire) * STRIDE;
    let offset = address.wrapping_sub(STACKS.as_u64());
    offset < used && offset % STRIDE >= STRIDE - BYTES
}
