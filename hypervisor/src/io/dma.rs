//! What the crate `virtio-drivers` asks of a machine: memory that a device may use, and its registers.
//!
//! Devices see memory as it is, at its physical address; Herald sees it through the direct map. The crate has no place
//! for a machine in these calls, so there is one for the program.

use crate::cpu::registers::{self, MapError};
use crate::layout;
use crate::physmem::PhysicalMemory;
use addr::{Hpa, HpaRange, Hva, PageSize};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use mm::Host;
use spin::{Mutex, Once};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

static MEMORY: Once<Arc<PhysicalMemory>> = Once::new();
static REGISTERS: Mutex<Vec<(HpaRange, Hva)>> = Mutex::new(Vec::new());

/// The machine, for the crate.
pub(super) struct Dma;

impl Dma {
    /// From here on the crate may ask for frames of `memory`.
    pub(super) fn use_memory(memory: &Arc<PhysicalMemory>) {
        MEMORY.call_once(|| Arc::clone(memory));
    }

    /// Maps registers that the crate will ask for.
    ///
    /// # Errors
    /// [`MapError`].
    pub(super) fn map_registers(range: HpaRange) -> Result<Hva, MapError> {
        let memory = MEMORY.get().expect("there is memory before there are devices");
        let mapped = registers::map(memory, range)?;
        REGISTERS.lock().push((range, mapped));
        Ok(mapped)
    }
}

// SAFETY: each method says why it keeps what the trait asks of it.
unsafe impl Hal for Dma {
    /// One zeroed frame, aligned and nobody else's, by its address in the direct map. More than a page in a row is not
    /// to be had: a queue of 16 entries fits.
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let frame = MEMORY.get().filter(|_| pages == 1);
        let frame = frame.and_then(|memory| memory.allocate_zeroed(PageSize::Size4K).ok());
        let found = frame.and_then(|frame| {
            let address = layout::direct(frame.base()).as_u64() as *mut u8;
            Some((frame.base().as_u64(), NonNull::new(address)?))
        });
        // Address 0 is how the crate is told that there is none.
        found.unwrap_or((0, NonNull::dangling()))
    }

    /// Takes a frame back.
    ///
    /// # Safety
    /// It comes from `dma_alloc`, and no device knows it any more.
    unsafe fn dma_dealloc(address: PhysAddr, _pointer: NonNull<u8>, _pages: usize) -> i32 {
        let frame = Hpa::new(address).pfn();
        if let Some(memory) = MEMORY.get() {
            memory.free(frame);
        }
        0
    }

    /// A range of registers that was mapped before: [`Self::map_registers`] is asked for each of them.
    ///
    /// # Safety
    /// Nothing: what was not mapped is not found.
    unsafe fn mmio_phys_to_virt(address: PhysAddr, len: usize) -> NonNull<u8> {
        let registers = REGISTERS.lock();
        let wanted = HpaRange::sized(Hpa::new(address), len as u64);
        let found = wanted.and_then(|wanted| registers.iter().find(|(range, _)| *range == wanted));
        let (_, mapped) = found.expect("registers are mapped before they are used");
        NonNull::new(mapped.as_u64() as *mut u8).expect("the window lies in the upper half")
    }

    /// The heap and every frame lie in the direct map, pages in a row there are in a row in memory, and there is no
    /// IOMMU between.
    ///
    /// # Safety
    /// The buffer stays where it is until `unshare`.
    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        let address = Hva::new(buffer.cast::<u8>().as_ptr() as u64);
        let offset = address.checked_offset_from(layout::DIRECT_MAP);
        offset.filter(|&offset| offset < layout::DIRECT_MAP_BYTES).expect("a buffer of the direct map")
    }

    /// Nothing was copied.
    ///
    /// # Safety
    /// Nothing.
    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
