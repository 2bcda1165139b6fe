//! Herald's own devices: disks that its swap may live on.
//!
//! ```text
//!   disk ──► virtio ──► the crate virtio-drivers ──► Dma, Ports: memory, registers, configuration space
//!     └────► pci: which functions there are
//! ```
//!
//! No interrupts: whoever asks a device waits for the answer, up to a limit. A device that does not behave costs its
//! disk, and nothing else.

mod disk;
mod dma;
mod pci;
mod transport;
mod virtio;

pub(crate) use disk::{SwapDisk, probe};
