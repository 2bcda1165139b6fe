//! The address space that this CPU uses: CR3, and whom the page-fault handler asks.

use crate::physmem::PhysicalMemory;
use addr::Hva;
use alloc::sync::Arc;
use mm::{Access, AddressSpace, FaultError};
use spin::RwLock;
use x86::controlregs::cr3_write;

static CURRENT: RwLock<Option<Arc<AddressSpace<PhysicalMemory>>>> = RwLock::new(None);

/// Uses `space` from now on: its hvas are ordinary addresses.
pub(crate) fn switch(space: &Arc<AddressSpace<PhysicalMemory>>) {
    *CURRENT.write() = Some(Arc::clone(space));
    // SAFETY: the upper half of every root is the same, so the code and the stack stay where they are.
    unsafe { cr3_write(space.root().base().as_u64()) };
}

/// Resolves a page fault on an hva.
///
/// # Errors
/// [`FaultError`]; `Unmapped` also where no address space is in use.
pub(crate) fn fault(address: Hva, access: Access) -> Result<(), FaultError> {
    match &*CURRENT.read() {
        Some(space) => space.fault_in(address, access).map(|_| ()),
        None => Err(FaultError::Unmapped(address)),
    }
}
