//! The guest's page tables, walked in software (SDM vol. 3A 4.3 to 4.5): 32-bit, PAE and four-level.
//!
//! Rights are not checked and no A or D bit is set: the processor has just executed the instruction whose
//! bytes are looked for, so the translation is there and was allowed. A guest that changes its tables in
//! between gets an error or another instruction's bytes, and harms only itself (I17).

use addr::{Gpa, Gva};
use core::fmt;

/// Guest RAM, by guest-physical address.
pub trait GuestMemory {
    /// Fills `bytes` from `gpa` on; `false` where that is not RAM.
    #[must_use]
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool;
}

/// How a guest translates linear addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagingMode {
    /// CR0.PG clear: linear is physical.
    None,
    /// Two levels of 32-bit entries; 4 MiB pages if CR4.PSE.
    Bits32,
    /// Three levels of 64-bit entries.
    Pae,
    /// Four levels of 64-bit entries.
    FourLevel,
}

/// The registers that decide it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PagingState {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
}

impl PagingState {
    const CR0_PG: u64 = 1 << 31;
    const CR4_PSE: u64 = 1 << 4;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LMA: u64 = 1 << 10;

    /// The mode that the registers select (SDM vol. 3A 4.1.1).
    #[must_use]
    pub const fn mode(&self) -> PagingMode {
        if self.cr0 & Self::CR0_PG == 0 {
            PagingMode::None
        } else if self.cr4 & Self::CR4_PAE == 0 {
            PagingMode::Bits32
        } else if self.efer & Self::EFER_LMA == 0 {
            PagingMode::Pae
        } else {
            PagingMode::FourLevel
        }
    }
}

/// Why a linear address has no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError {
    /// An entry on the way is not present.
    NotPresent {
        /// The linear address.
        gva: Gva,
        /// Where the entry lies.
        entry: Gpa,
    },
    /// An entry on the way does not lie in RAM.
    NotRam {
        /// The linear address.
        gva: Gva,
        /// Where the entry should lie.
        entry: Gpa,
    },
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPresent { gva, entry } => {
                write!(f, "{gva}: the guest's table entry at {entry} is not present")
            }
            Self::NotRam { gva, entry } => {
                write!(f, "{gva}: the guest's table entry at {entry} is not in RAM")
            }
        }
    }
}

const PRESENT: u64 = 1;
const HUGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// One level of a hierarchy: which address bits index it, and whether its entries can be leaves.
struct Step {
    shift: u32,
    bits: u32,
    leaf: bool,
}

const fn step(shift: u32, bits: u32, leaf: bool) -> Step {
    Step { shift, bits, leaf }
}

const FOUR_LEVEL: [Step; 4] = [step(39, 9, false), step(30, 9, true), step(21, 9, true), step(12, 9, true)];
const PAE: [Step; 3] = [step(30, 2, false), step(21, 9, true), step(12, 9, true)];

/// Translates a linear address.
///
/// # Errors
/// [`WalkError`].
pub fn translate(memory: &impl GuestMemory, state: &PagingState, gva: Gva) -> Result<Gpa, WalkError> {
    let linear = gva.as_u64();
    match state.mode() {
        PagingMode::None => Ok(physical(linear & 0xffff_ffff)),
        PagingMode::Bits32 => walk_32(memory, state, gva),
        PagingMode::Pae => walk_64(memory, state.cr3 & 0xffff_ffe0, &PAE, gva),
        PagingMode::FourLevel => walk_64(memory, state.cr3 & FRAME, &FOUR_LEVEL, gva),
    }
}

fn walk_64(memory: &impl GuestMemory, root: u64, steps: &[Step], gva: Gva) -> Result<Gpa, WalkError> {
    let linear = gva.as_u64();
    let mut table = root;
    for Step { shift, bits, leaf } in steps {
        let index = (linear >> shift) & ((1 << bits) - 1);
        let entry = load(memory, gva, table + index * 8, 8)?;
        let last = *shift == 12 || (*leaf && entry & HUGE != 0);
        if last {
            let offset = (1 << shift) - 1;
            return Ok(physical((entry & FRAME & !offset) | (linear & offset)));
        }
        table = entry & FRAME;
    }
    Ok(physical(table))
}

fn walk_32(memory: &impl GuestMemory, state: &PagingState, gva: Gva) -> Result<Gpa, WalkError> {
    let linear = gva.as_u64() & 0xffff_ffff;
    let directory = load(memory, gva, (state.cr3 & 0xffff_f000) + (linear >> 22) * 4, 4)?;
    if directory & HUGE != 0 && state.cr4 & PagingState::CR4_PSE != 0 {
        // PSE-36: bits 20:13 of the entry are bits 39:32 of the address (SDM vol. 3A table 4-4).
        let high = (directory >> 13 & 0xff) << 32;
        return Ok(physical(high | (directory & 0xffc0_0000) | (linear & 0x3f_ffff)));
    }
    let entry = load(memory, gva, (directory & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4, 4)?;
    Ok(physical((entry & 0xffff_f000) | (linear & 0xfff)))
}

/// A present entry.
fn load(memory: &impl GuestMemory, gva: Gva, at: u64, width: usize) -> Result<u64, WalkError> {
    let entry = physical(at);
    let mut bytes = [0; 8];
    if !memory.read(entry, &mut bytes[..width]) {
        return Err(WalkError::NotRam { gva, entry });
    }
    let value = u64::from_le_bytes(bytes);
    if value & PRESENT == 0 { Err(WalkError::NotPresent { gva, entry }) } else { Ok(value) }
}

/// Masked values only: at most 52 bits.
const fn physical(raw: u64) -> Gpa {
    Gpa::new(raw & ((1 << 52) - 1))
}
