//! The host, as a bare-metal program asks it: Herald by VMCALL, or another hypervisor's monitor by its port
//! (`abi::hypercall`). Which of the two it is, CPUID says.

use crate::hypercall;
use abi::hypercall::{
    BY_PORT, BY_PORT_SIGNATURE, DISCARD, FAILED, HOST_OPERATION, HostOperation, INVALID, PROTECT, SIGNATURE,
    UNKNOWN,
};
use core::arch::asm;

/// What a call is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// madvise(DONTNEED): the range reads zero afterwards.
    Discard,
    /// mprotect(NONE) and back.
    Protect,
    /// Any other.
    Operation(HostOperation),
}

/// What came of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// RAX.
    pub value: u64,
    /// Ticks that are not the operation's.
    pub aside: u64,
}

impl Answer {
    /// Whether the host has done it.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        !matches!(self.value, UNKNOWN | FAILED | INVALID)
    }
}

/// Who runs this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host {
    /// Herald.
    Herald,
    /// A monitor that answers the same calls by a port.
    ByPort,
}

impl Host {
    /// The one that CPUID shows, if it answers calls.
    #[must_use]
    pub fn find() -> Option<Self> {
        match hypercall::signature() {
            SIGNATURE => Some(Self::Herald),
            BY_PORT_SIGNATURE => Some(Self::ByPort),
            _ => None,
        }
    }

    /// Makes a call about the guest-physical range.
    ///
    /// # Safety
    /// The caller runs at CPL 0, and nothing that Rust relies on lies in the range where the call does not keep data.
    #[must_use]
    pub unsafe fn ask(self, call: Call, gpa: u64, len: u64) -> Answer {
        let (number, operation) = match call {
            Call::Discard => (DISCARD, 0),
            Call::Protect => (PROTECT, 0),
            Call::Operation(operation) => (HOST_OPERATION, operation as u64),
        };
        match (self, call) {
            // SAFETY: the caller's promise; CPUID has shown who is there.
            (Self::ByPort, _) => unsafe { by_port(number, gpa, len, operation) },
            // SAFETY: as above.
            (Self::Herald, Call::Operation(operation)) => unsafe {
                Answer { value: hypercall::host_operation(operation, gpa, len), aside: 0 }
            },
            // SAFETY: as above.
            (Self::Herald, _) => unsafe { Answer { value: hypercall::call(number, gpa, len), aside: 0 } },
        }
    }
}

/// # Safety
/// As for [`Host::ask`], and a monitor listens at the port.
unsafe fn by_port(number: u64, gpa: u64, len: u64, operation: u64) -> Answer {
    let (value, aside);
    // SAFETY: the caller's promise; RBX belongs to the compiler and is swapped around the instruction.
    unsafe {
        asm!(
            "xchg {gpa}, rbx",
            "out {port}, eax",
            "xchg {gpa}, rbx",
            gpa = inout(reg) gpa => _,
            port = const BY_PORT,
            inout("rax") number => value,
            in("rcx") len,
            inout("rdx") operation => aside,
            options(nostack),
        );
    }
    Answer { value, aside }
}
