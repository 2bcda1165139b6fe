//! The section `machine`: what the guest ran on, and its virtual processors, encoded with postcard.

use crate::Features;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A range of guest-physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Range {
    /// First guest-physical address.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What the guest ran on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its memory, in order: pages are numbered through.
    pub ranges: Vec<Range>,
    /// Frequency of its TSC in Hz.
    pub tsc_hz: u64,
    /// Its TSC at the instant.
    pub tsc: u64,
    /// Seconds since 1970 when its TSC was 0.
    pub boot_seconds: u64,
    /// What it has seen of the processor.
    pub features: Features,
    /// The oracle's digest of all memory at the instant, where it looked ([`crate::Digest`]).
    pub digest: Option<u64>,
    /// Its virtual processors, by number.
    pub processors: Vec<Processor>,
}

impl Machine {
    /// Pages of its memory; `None`: more than can be numbered.
    #[must_use]
    pub fn pages(&self) -> Option<u64> {
        self.ranges.iter().try_fold(0_u64, |sum, range| {
            range.start.checked_add(range.bytes)?;
            sum.checked_add(range.bytes / crate::PAGE_BYTES as u64)
        })
    }

    /// Bytes of its memory.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).fold(0, u64::saturating_add)
    }
}

/// An event on its way into a virtual processor (SDM vol. 3C table 25-17).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// As VM-entry interruption information has it.
    pub information: u32,
    /// Its error code, if it has one.
    pub error_code: Option<u32>,
}

/// A virtual processor between two entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Processor {
    /// Fields of the guest-state area and what else of the VMCS is its own, by encoding (SDM vol. 3D appendix B).
    pub fields: Vec<(u32, u64)>,
    /// General registers, by number as instructions encode them.
    pub general: [u64; 16],
    /// CR2.
    pub cr2: u64,
    /// The XSAVE area, standard format.
    pub vectors: Vec<u8>,
    /// XCR0.
    pub xcr0: u64,
    /// MSRs that the VMCS does not hold, by number.
    pub msrs: Vec<(u32, u64)>,
    /// DR0 to DR3, DR6.
    pub debug: [u64; 5],
    /// 0: executes; 1: halted; 2: waits for a start-up message.
    pub activity: u8,
    /// What is to be delivered first.
    pub pending: Option<Event>,
    /// An NMI that it blocks.
    pub nmi_waits: bool,
    /// It has the balloon to serve.
    pub serves: bool,
    /// The registers of its local APIC, while the processor has them.
    pub apic: Option<Vec<u32>>,
}
