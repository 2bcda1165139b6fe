//! Control registers of a guest without an EPT: what it has written, and what its processor has instead. Such a guest runs with paging
//! whatever it thinks (SDM vol. 3C 24.8: without "unrestricted guest" CR0.PE and CR0.PG are fixed to 1).
//!
//! ```text
//!   guest      CR0   PG WP PE ..      CR4   PSE PAE PGE SMEP SMAP ..      EFER   LMA LME NXE SCE      CR3
//!               │    1  1  1           │    -   1   0   with PG  ..        │     PG  PG  1   │         │
//!   processor  CR0                    CR4                                 EFER                       the shadow's
//! ```
//!
//! PCIDs are the guest's alone: without a VPID each entry begins with an empty TLB, whatever tags its entries would have.
//!
//! Rules are those of MOV to a control register and of WRMSR (SDM vol. 2B, vol. 3A 4.1.2, 10.8.5): what the processor would refuse is
//! refused.

use crate::capability::Fixed;

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_PGE: u64 = 1 << 7;
const CR4_LA57: u64 = 1 << 12;
const CR4_VMXE: u64 = 1 << 13;
const CR4_SMXE: u64 = 1 << 14;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const CR4_PKE: u64 = 1 << 22;
const CR4_CET: u64 = 1 << 23;
const CR4_PKS: u64 = 1 << 24;
const EFER_SCE: u64 = 1 << 0;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// Bits of CR0 that such a guest changes without an exit.
pub const CR0_PASSED: u64 = CR0_MP | CR0_EM | CR0_TS | CR0_AM;
/// Bits of CR4 that it does not have.
const CR4_ABSENT: u64 = CR4_LA57 | CR4_VMXE | CR4_SMXE | CR4_PKE | CR4_CET | CR4_PKS;
/// Bits of CR4 that it does not change without an exit.
pub const CR4_KEPT: u64 = CR4_ABSENT | CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP;
/// Of CR3 where there are PCIDs: the PCID, and, of what is written, that nothing is to be dropped (SDM vol. 3A 4.10.4.1).
const CR3_PCID: u64 = 0xfff;
const CR3_KEEPS: u64 = 1 << 63;

/// The processor would answer with #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The registers as the guest has written them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// PAE's four pointers, as loaded.
    pub pdptes: [u64; 4],
}

/// What else decides whether a write is legal.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The code segment is a 64-bit one.
    pub long_code: bool,
    /// The task register has a 16-bit TSS.
    pub short_task: bool,
    /// Bits of CR4 that the processor has.
    pub cr4: Fixed,
    /// Bits of a physical address.
    pub physical_bits: u8,
}

impl Registers {
    /// Whether linear addresses are translated.
    #[must_use]
    pub const fn pages(&self) -> bool {
        self.cr0 & CR0_PG != 0
    }

    /// Whether this is no real mode.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.cr0 & CR0_PE != 0
    }

    /// Whether long mode is active.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Whether addresses are translated by PCID.
    #[must_use]
    pub const fn has_pcids(&self) -> bool {
        self.cr4 & CR4_PCIDE != 0
    }

    /// The PCID of now.
    #[must_use]
    pub const fn pcid(&self) -> u16 {
        if self.has_pcids() { (self.cr3 & CR3_PCID) as u16 } else { 0 }
    }

    /// Whether a MOV of this to CR3 leaves cached what is cached.
    #[must_use]
    pub const fn keeps_translations(&self, cr3: u64) -> bool {
        self.has_pcids() && cr3 & CR3_KEEPS != 0
    }

    /// Whether PAE's pointers count.
    const fn has_pointers(&self) -> bool {
        self.pages() && !self.is_long() && self.cr4 & CR4_PAE != 0
    }

    /// What CR0 of the processor has to be.
    #[must_use]
    pub const fn real_cr0(&self, fixed: Fixed) -> u64 {
        fixed.apply(self.cr0 | CR0_PE | CR0_PG | CR0_NE | CR0_WP)
    }

    /// What CR4 of the processor has to be. Without paging all pages are user's, and the supervisor may use them.
    #[must_use]
    pub const fn real_cr4(&self, fixed: Fixed) -> u64 {
        let protection = if self.pages() { CR4_SMEP | CR4_SMAP } else { 0 };
        fixed.apply(self.cr4 & (!CR4_KEPT | protection) | CR4_PAE | CR4_VMXE)
    }

    /// What IA32_EFER of the processor has to be.
    #[must_use]
    pub const fn real_efer(&self) -> u64 {
        let long = if self.is_long() { EFER_LME | EFER_LMA } else { 0 };
        self.efer & EFER_SCE | EFER_NXE | long
    }

    /// MOV to CR0. `load` reads the four pointers at an address.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn write_cr0(
        &mut self,
        value: u64,
        circumstances: &Circumstances,
        load: impl FnOnce(u64) -> Option<[u64; 4]>,
    ) -> Result<(), Refused> {
        let illegal = value >> 32 != 0
            || (value & CR0_PG != 0 && value & CR0_PE == 0)
            || (value & CR0_NW != 0 && value & CR0_CD == 0);
        if illegal {
            return Err(Refused);
        }
        // ET is 1 whatever is written (SDM vol. 3A 2.5).
        let mut new = Self { cr0: value | CR0_ET, ..*self };
        let wants_long = self.efer & EFER_LME != 0;
        match (self.pages(), new.pages()) {
            (false, true) if wants_long => {
                // A processor would not be entered with such a task, either (SDM vol. 3A 10.8.5.1, vol. 3C 27.3.1.2).
                if self.cr4 & CR4_PAE == 0 || circumstances.long_code || circumstances.short_task {
                    return Err(Refused);
                }
                new.efer |= EFER_LMA;
            }
            (true, false) => {
                if self.has_pcids() || self.is_long() && circumstances.long_code {
                    return Err(Refused);
                }
                new.efer &= !EFER_LMA;
            }
            (false | true, true) | (false, false) => {}
        }
        new.load_pointers(circumstances, load)?;
        *self = new;
        Ok(())
    }

    /// MOV to CR3.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn write_cr3(
        &mut self,
        value: u64,
        circumstances: &Circumstances,
        load: impl FnOnce(u64) -> Option<[u64; 4]>,
    ) -> Result<(), Refused> {
        // Without PCIDs bit 63 is a bit like others that have to be 0; with them it is not kept.
        let value = if self.has_pcids() { value & !CR3_KEEPS } else { value };
        if value >> circumstances.physical_bits != 0 {
            return Err(Refused);
        }
        let mut new = Self { cr3: value, ..*self };
        new.load_pointers(circumstances, load)?;
        *self = new;
        Ok(())
    }

    /// MOV to CR4.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn write_cr4(
        &mut self,
        value: u64,
        circumstances: &Circumstances,
        load: impl FnOnce(u64) -> Option<[u64; 4]>,
    ) -> Result<(), Refused> {
        let there = circumstances.cr4.allowed & !CR4_ABSENT;
        let starts_pcids = value & CR4_PCIDE != 0 && !self.has_pcids();
        let illegal = value & !there != 0
            || self.is_long() && value & CR4_PAE == 0
            || starts_pcids && (!self.is_long() || self.cr3 & CR3_PCID != 0);
        if illegal {
            return Err(Refused);
        }
        let mut new = Self { cr4: value, ..*self };
        new.load_pointers(circumstances, load)?;
        *self = new;
        Ok(())
    }

    /// WRMSR of IA32_EFER. LMA is the processor's.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub const fn write_efer(&mut self, value: u64) -> Result<(), Refused> {
        const WRITABLE: u64 = EFER_SCE | EFER_LME | EFER_NXE;
        let changes_mode = (value ^ self.efer) & EFER_LME != 0;
        if value & !(WRITABLE | EFER_LMA) != 0 || self.pages() && changes_mode {
            return Err(Refused);
        }
        self.efer = value & WRITABLE | self.efer & EFER_LMA;
        Ok(())
    }

    /// Loads PAE's pointers, where they count.
    fn load_pointers(
        &mut self,
        circumstances: &Circumstances,
        load: impl FnOnce(u64) -> Option<[u64; 4]>,
    ) -> Result<(), Refused> {
        if !self.has_pointers() {
            return Ok(());
        }
        let pointers = load(self.cr3 & 0xffff_ffe0).ok_or(Refused)?;
        if !are_legal_pointers(&pointers, circumstances.physical_bits) {
            return Err(Refused);
        }
        self.pdptes = pointers;
        Ok(())
    }
}

/// Whether a processor with so many bits of an address loads such pointers of PAE's: of one that is there bits 2:1, 8:5 and those above the
/// address are reserved (SDM vol. 3A table 4-8).
#[must_use]
pub fn are_legal_pointers(pointers: &[u64; 4], physical_bits: u8) -> bool {
    const RESERVED: u64 = 0b1_1110_0110;
    let reserved = RESERVED | u64::MAX << physical_bits;
    pointers.iter().all(|pointer| pointer & 1 == 0 || pointer & reserved == 0)
}

#[cfg(test)]
mod tests {
    use super::{CR0_PASSED, CR4_KEPT, Circumstances, Refused, Registers};
    use crate::capability::Fixed;

    const ALL: Fixed = Fixed { ones: 0, allowed: u64::MAX };
    const PLAIN: Circumstances =
        Circumstances { long_code: false, short_task: false, cr4: ALL, physical_bits: 40 };
    const PE: u64 = 1;
    const PG: u64 = 1 << 31;
    const PAE: u64 = 1 << 5;
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;

    fn none(_: u64) -> Option<[u64; 4]> {
        panic!("no pointers are loaded")
    }

    fn protected() -> Registers {
        Registers { cr0: PE | 1 << 4, ..Registers::default() }
    }

    fn long() -> Registers {
        let mut registers = protected();
        registers.write_cr4(PAE, &PLAIN, none).expect("legal");
        registers.write_efer(LME | 1).expect("legal");
        registers.write_cr3(0x1000, &PLAIN, none).expect("legal");
        registers.write_cr0(PE | PG, &PLAIN, none).expect("legal");
        registers
    }

    #[test]
    fn the_processor_pages_whatever_the_guest_does() {
        let fixed = Fixed { ones: PG | PE | 1 << 5, allowed: 0xffff_ffff };
        let (off, on) = (protected(), long());
        assert_eq!(off.real_cr0(fixed), PG | PE | 1 << 4 | 1 << 5 | 1 << 16);
        assert_eq!((off.real_efer(), on.real_efer()), (1 << 11, 1 << 11 | LME | LMA | 1));
        let smep = |registers: Registers| Registers { cr4: 1 << 20 | 1 << 7 | 1 << 9, ..registers };
        assert_eq!(smep(off).real_cr4(ALL), PAE | 1 << 13 | 1 << 9);
        assert_eq!(smep(on).real_cr4(ALL), PAE | 1 << 13 | 1 << 9 | 1 << 20);
        assert_eq!(CR0_PASSED & (PG | PE | 1 << 16), 0);
        assert_ne!(CR4_KEPT & PAE, 0);
    }

    #[test]
    fn long_mode_comes_and_goes_with_paging() {
        let mut registers = long();
        assert!(registers.is_long());
        assert_eq!(registers.write_efer(0), Err(Refused), "LME cannot change under paging");
        assert_eq!(registers.write_cr4(0, &PLAIN, none), Err(Refused), "nor PAE");
        let in_long_code = Circumstances { long_code: true, ..PLAIN };
        assert_eq!(registers.write_cr0(PE, &in_long_code, none), Err(Refused));
        registers.write_cr0(PE, &PLAIN, none).expect("legal");
        assert!(!registers.is_long() && registers.efer & LME != 0);
        let with_short_task = Circumstances { short_task: true, ..PLAIN };
        assert_eq!(registers.write_cr0(PE | PG, &with_short_task, none), Err(Refused));
        let mut without_pae = Registers { cr4: 0, ..registers };
        assert_eq!(without_pae.write_cr0(PE | PG, &PLAIN, none), Err(Refused));
    }

    #[test]
    fn pcids_are_of_long_mode_and_not_the_processors() {
        const PCIDE: u64 = 1 << 17;
        const KEEPS: u64 = 1 << 63;
        assert_eq!(protected().write_cr4(PAE | PCIDE, &PLAIN, none), Err(Refused), "not in long mode");
        let mut registers = long();
        assert_eq!(registers.write_cr3(KEEPS | 0x2000, &PLAIN, none), Err(Refused), "reserved");
        assert!(!registers.keeps_translations(KEEPS | 0x2000));
        registers.write_cr3(0x2008, &PLAIN, none).expect("PWT");
        assert_eq!(registers.write_cr4(PAE | PCIDE, &PLAIN, none), Err(Refused), "CR3 would have a PCID");
        assert_eq!(registers.pcid(), 0);
        registers.write_cr3(0x2000, &PLAIN, none).expect("legal");
        registers.write_cr4(PAE | PCIDE, &PLAIN, none).expect("legal");
        registers.write_cr3(KEEPS | 0x3fff, &PLAIN, none).expect("legal");
        assert_eq!((registers.cr3, registers.pcid()), (0x3fff, 0xfff), "bit 63 is not kept");
        assert!(registers.keeps_translations(KEEPS) && !registers.keeps_translations(0x3fff));
        registers.write_cr4(PAE | PCIDE | 1 << 9, &PLAIN, none).expect("a PCID is no reason when it is set");
        assert_eq!(registers.real_cr4(ALL) & PCIDE, 0);
        assert_ne!(CR4_KEPT & PCIDE, 0);
        let before = registers;
        assert_eq!(registers.write_cr0(PE, &PLAIN, none), Err(Refused), "PCIDE has to go first");
        assert_eq!(registers.write_cr3(KEEPS | 1 << 40, &PLAIN, none), Err(Refused));
        let without = Circumstances { cr4: Fixed { ones: 0, allowed: !PCIDE }, ..PLAIN };
        assert_eq!(long().write_cr4(PAE | PCIDE, &without, none), Err(Refused), "a processor without PCIDs");
        assert_eq!(registers, before);
        registers.write_cr4(PAE, &PLAIN, none).expect("legal, whatever the PCID");
        assert_eq!(registers.pcid(), 0);
    }

    #[test]
    fn what_is_illegal_is_refused() {
        let mut registers = protected();
        for value in [PG, 1 << 29, 1 << 32] {
            assert_eq!(registers.write_cr0(value, &PLAIN, none), Err(Refused), "CR0 {value:#x}");
        }
        for value in [1 << 13, 1 << 17, 1 << 12] {
            assert_eq!(registers.write_cr4(value, &PLAIN, none), Err(Refused), "CR4 {value:#x}");
        }
        assert_eq!(registers.write_cr0(PE, &PLAIN, none).map(|()| registers.cr0), Ok(PE | 1 << 4), "ET");
        assert_eq!(registers.write_cr3(1 << 40, &PLAIN, none), Err(Refused));
        assert_eq!(registers.write_efer(1 << 12), Err(Refused));
        assert_eq!(registers, protected());
    }

    #[test]
    fn pointers_are_loaded_where_they_count() {
        let mut registers = Registers { cr4: PAE, cr3: 0x1234_5678, ..protected() };
        let pointers = [0x1001, 0, 0x2001, 0xffff_ffff_ffff_fffe];
        let load = |at| {
            assert_eq!(at, 0x1234_5660);
            Some(pointers)
        };
        registers.write_cr0(PE | PG, &PLAIN, load).expect("what is not there has no reserved bits");
        assert_eq!(registers.pdptes, pointers);
        let before = registers;
        for bad in [1 | 1 << 1, 1 | 1 << 5, 1 | 1 << 40] {
            let refused = registers.write_cr3(0x2000, &PLAIN, |_| Some([bad, 0, 0, 0]));
            assert_eq!(refused, Err(Refused), "{bad:#x}");
        }
        assert_eq!(registers.write_cr3(0x2000, &PLAIN, |_| None), Err(Refused), "a hole");
        assert_eq!(registers, before);
    }
}
