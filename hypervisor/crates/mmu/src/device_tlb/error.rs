//! What a device's access can answer instead.

use addr::Hva;
use core::fmt;
use mm::{Access, FaultError};

/// Why a device did not get at memory. All that lies below `address` was read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceTlbError {
    /// The host address space refused.
    Host {
        /// First byte that was not reached.
        address: Hva,
        /// What was tried.
        access: Access,
        /// Why it failed.
        fault: FaultError,
    },
    /// The range leaves the address space; nothing was read or written.
    OutOfRange {
        /// Its first byte.
        address: Hva,
        /// Its bytes.
        len: u64,
    },
    /// The host address space is gone.
    Released {
        /// First byte that was not reached.
        address: Hva,
    },
}

impl fmt::Display for DeviceTlbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { address, access, fault } => write!(f, "device {access:?} of {address}: {fault}"),
            Self::OutOfRange { address, len } => {
                write!(f, "device access to {len:#x} bytes at {address}: they leave the address space")
            }
            Self::Released { address } => {
                write!(f, "device access to {address}: its address space has been torn down")
            }
        }
    }
}
