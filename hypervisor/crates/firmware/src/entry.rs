//! The state of a guest's first processor, and the GDT and page tables that belong to it.
//!
//! All three boot protocols want flat segments, interrupts off and no paging or an identity map. Linux
//! also wants code at selector 0x10 and data at 0x18 (Documentation/arch/x86/boot.rst).

use crate::error::Error;
use crate::layout::{GDT, PML4};
use crate::target::Target;
use addr::{Gpa, PAGE_SIZE, PageSize};
use alloc::vec::Vec;

/// Present, writable: bits 0 and 1 of a table entry (SDM vol. 3A table 4-15).
const TABLE: u64 = 0b11;
/// The same with PS (bit 7): a 2 MiB page (SDM vol. 3A table 4-17).
const PAGE_2M: u64 = TABLE | 1 << 7;
/// Entries of a table.
const ENTRIES: u64 = 512;

/// A segment register, in the VMCS's terms (SDM vol. 3C 25.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Visible part.
    pub selector: u16,
    /// First linear address.
    pub base: u32,
    /// Last offset, in bytes.
    pub limit: u32,
    /// Access rights: type 3:0, S 4, DPL 6:5, P 7, L 13, D/B 14, G 15.
    pub rights: u32,
}

impl Segment {
    const CODE32: Self = Self { selector: 0x10, base: 0, limit: u32::MAX, rights: 0xc09b };
    const CODE64: Self = Self { selector: 0x10, base: 0, limit: u32::MAX, rights: 0xa09b };
    const DATA: Self = Self { selector: 0x18, base: 0, limit: u32::MAX, rights: 0xc093 };
    const TASK: Self = Self { selector: 0x20, base: 0, limit: 0x67, rights: 0x8b };

    /// The descriptor in a GDT (SDM vol. 3A figure 3-8).
    const fn descriptor(&self) -> u64 {
        let granular = self.rights & 1 << 15 != 0;
        let limit = (if granular { self.limit >> 12 } else { self.limit }) as u64;
        let (base, rights) = (self.base as u64, self.rights as u64);
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | (rights & 0xff) << 40
            | (limit >> 16 & 0xf) << 48
            | (rights >> 12 & 0xf) << 52
            | (base >> 24) << 56
    }
}

/// Base and limit of a descriptor table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DescriptorTable {
    /// Guest-physical, and linear: paging is off or maps one to one.
    pub base: Gpa,
    /// Last offset, in bytes.
    pub limit: u16,
}

/// Which mode the processor starts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// CR0.PE set, paging off.
    Protected32,
    /// IA-32e mode, 64-bit code, four-level paging; all RAM below 4 GiB is mapped one to one.
    Long64 {
        /// Value of CR3.
        cr3: Gpa,
    },
}

/// How a guest's first processor starts. Registers that are not named here are zero, RFLAGS is 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Mode.
    pub mode: Mode,
    /// First instruction, guest-physical and linear.
    pub rip: u64,
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RSI.
    pub rsi: u64,
    /// GDTR.
    pub gdt: DescriptorTable,
    /// CS.
    pub code: Segment,
    /// DS, ES, FS, GS and SS.
    pub data: Segment,
    /// TR. The LDT is null, the IDT empty.
    pub task: Segment,
}

impl Entry {
    /// Writes the GDT; entry at `rip` in 32-bit protected mode.
    pub(crate) fn protected32(rip: Gpa, target: &mut Target<'_>) -> Result<Self, Error> {
        Self::install(Mode::Protected32, Segment::CODE32, rip, target)
    }

    /// Writes the GDT and an identity map of RAM below 4 GiB; entry at `rip` in 64-bit mode.
    pub(crate) fn long64(rip: Gpa, target: &mut Target<'_>) -> Result<Self, Error> {
        install_identity_map(target)?;
        Self::install(Mode::Long64 { cr3: PML4 }, Segment::CODE64, rip, target)
    }

    fn install(mode: Mode, code: Segment, rip: Gpa, target: &mut Target<'_>) -> Result<Self, Error> {
        let (data, task) = (Segment::DATA, Segment::TASK);
        let descriptors = [0, 0, code.descriptor(), data.descriptor(), task.descriptor()];
        target.put_words(GDT, &descriptors)?;
        let gdt = DescriptorTable { base: GDT, limit: (size_of_val(&descriptors) - 1) as u16 };
        Ok(Self { mode, rip: rip.as_u64(), rax: 0, rbx: 0, rsi: 0, gdt, code, data, task })
    }
}

/// PML4, one PDPT, and a page directory of 2 MiB pages for each GiB: not every processor has 1 GiB pages.
fn install_identity_map(target: &mut Target<'_>) -> Result<(), Error> {
    let pdpt = PML4.add(PAGE_SIZE);
    let directories = target.ram().low().len().div_ceil(PageSize::Size1G.bytes());
    let directory = |index: u64| pdpt.add(PAGE_SIZE * (1 + index));
    target.put_words(PML4, &[pdpt.as_u64() | TABLE])?;
    let pointers: Vec<u64> = (0..directories).map(|index| directory(index).as_u64() | TABLE).collect();
    target.put_words(pdpt, &pointers)?;
    for index in 0..directories {
        let first = index * ENTRIES;
        let pages: Vec<u64> =
            (first..first + ENTRIES).map(|page| (page * PageSize::Size2M.bytes()) | PAGE_2M).collect();
        target.put_words(directory(index), &pages)?;
    }
    Ok(())
}
