//! Herald's own devices: disks that its swap may live on.
//!
//! ```text
//!   queue ──► drive ◄── virtio ──► the crate virtio-drivers ──► Dma, Ports: memory, registers, configuration space
//!     ▲         ▲─────── ata ──► ports of the controller, its table of frames
//!     └─ disk: which there are, and which are Herald's ──► pci
//! ```
//!
//! A device that does not answer in time, or not well, costs its disk, and nothing else.

mod ata;
mod disk;
mod dma;
mod drive;
mod pci;
mod queue;
mod transport;
mod virtio;

pub(crate) use disk::{Disks, probe};
pub(crate) use queue::{DiskQueue, Share, lost_frames};
