//! Control registers: what the architecture says of a value (SDM vol. 3A 2.5, vol. 2B MOV—control registers).

use crate::machine::Fault;
use crate::state::{CR0_ET, CR0_PE, CR0_PG, EFER_LMA, EFER_LME, Segment, SegmentName, State};

const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
/// Bits of CR0 that there are: PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG.
const CR0_KNOWN: u64 = 0xe005_003f;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;

/// A control register that can be written here. CR8 cannot be named outside 64-bit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// CR0.
    Cr0,
    /// CR2.
    Cr2,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
}

impl State {
    /// Sets a control register, and with CR0.PG EFER.LMA. Loading PAE's four pointers, and the flush, is for the caller.
    ///
    /// # Errors
    /// #GP: the architecture forbids the value.
    pub fn set_control(&mut self, control: Control, value: u64) -> Result<(), Fault> {
        match control {
            Control::Cr0 => self.set_cr0(value),
            Control::Cr2 => {
                self.cr2 = value;
                Ok(())
            }
            Control::Cr3 => {
                self.cr3 = value;
                Ok(())
            }
            Control::Cr4 => self.set_cr4(value),
        }
    }

    fn set_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let value = value & CR0_KNOWN | CR0_ET;
        let has = |bit| value & bit != 0;
        if has(CR0_PG) && !has(CR0_PE) || has(CR0_NW) && !has(CR0_CD) {
            return Err(Fault::Protection(0));
        }
        match (self.has_paging(), has(CR0_PG)) {
            (false, true) if self.efer & EFER_LME != 0 => {
                let long_code = self.segments[SegmentName::Cs].rights & Segment::LONG != 0;
                if self.cr4 & CR4_PAE == 0 || long_code {
                    return Err(Fault::Protection(0));
                }
                self.efer |= EFER_LMA;
            }
            (true, false) => {
                if self.cr4 & CR4_PCIDE != 0 {
                    return Err(Fault::Protection(0));
                }
                self.efer &= !EFER_LMA;
            }
            _ => {}
        }
        self.cr0 = value;
        Ok(())
    }

    fn set_cr4(&mut self, value: u64) -> Result<(), Fault> {
        let starts_contexts = value & CR4_PCIDE != 0 && self.cr4 & CR4_PCIDE == 0;
        let illegal = self.is_long() && value & CR4_PAE == 0
            || starts_contexts && (!self.is_long() || self.cr3 & 0xfff != 0);
        if illegal {
            return Err(Fault::Protection(0));
        }
        self.cr4 = value;
        Ok(())
    }
}
