//! The processor as a value: what the guest-state area of a VMCS holds of it, and the general registers.

use crate::flags::mask;
use core::ops::{Index, IndexMut};
use iced_x86::Register;

pub(crate) const CR0_PE: u64 = 1 << 0;
pub(crate) const CR0_ET: u64 = 1 << 4;
pub(crate) const CR0_PG: u64 = 1 << 31;
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;

/// Numbers of general registers.
pub(crate) const RAX: usize = 0;
pub(crate) const RCX: usize = 1;
pub(crate) const RDX: usize = 2;
pub(crate) const RBX: usize = 3;
pub(crate) const RSP: usize = 4;
pub(crate) const RBP: usize = 5;
pub(crate) const RSI: usize = 6;
pub(crate) const RDI: usize = 7;

/// A segment register, with what the processor keeps beside the selector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// What the guest sees.
    pub selector: u16,
    /// Linear address of its first byte.
    pub base: u64,
    /// Last offset, in bytes whatever G is.
    pub limit: u32,
    /// Access rights in the format of a VMCS (SDM vol. 3C 25.4.1).
    pub rights: u32,
}

impl Segment {
    /// Type of a data segment that can be read and written, and has been.
    pub(crate) const READ_WRITE: u32 = 0x93;
    /// Type of a code segment that can be read, and has been.
    pub(crate) const EXECUTE_READ: u32 = 0x9b;
    pub(crate) const UNUSABLE: u32 = 1 << 16;
    pub(crate) const GRANULAR: u32 = 1 << 15;
    pub(crate) const BIG: u32 = 1 << 14;
    pub(crate) const LONG: u32 = 1 << 13;
    pub(crate) const PRESENT: u32 = 1 << 7;
    /// Code or data.
    pub(crate) const ORDINARY: u32 = 1 << 4;

    /// As real mode leaves it.
    #[must_use]
    pub const fn real(selector: u16, rights: u32) -> Self {
        Self { selector, base: (selector as u64) << 4, limit: 0xffff, rights }
    }

    pub(crate) const fn is_usable(&self) -> bool {
        self.rights & Self::UNUSABLE == 0
    }

    /// The four bits of its type.
    pub(crate) const fn kind(&self) -> u32 {
        self.rights & 0xf
    }

    pub(crate) const fn is_code(&self) -> bool {
        self.rights & 1 << 3 != 0
    }

    pub(crate) const fn dpl(&self) -> u8 {
        (self.rights >> 5 & 3) as u8
    }

    pub(crate) const fn rpl(&self) -> u8 {
        (self.selector & 3) as u8
    }

    pub(crate) const fn is_big(&self) -> bool {
        self.rights & Self::BIG != 0
    }
}

/// The six segment registers, numbered as instructions encode them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentName {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

impl SegmentName {
    /// All, by number.
    pub const ALL: [Self; 6] = [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs];

    pub(crate) const fn of(register: Register) -> Option<Self> {
        Some(match register {
            Register::ES => Self::Es,
            Register::CS => Self::Cs,
            Register::SS => Self::Ss,
            Register::DS => Self::Ds,
            Register::FS => Self::Fs,
            Register::GS => Self::Gs,
            _ => return None,
        })
    }
}

impl Index<SegmentName> for [Segment; 6] {
    type Output = Segment;

    fn index(&self, name: SegmentName) -> &Segment {
        &self[name as usize]
    }
}

impl IndexMut<SegmentName> for [Segment; 6] {
    fn index_mut(&mut self, name: SegmentName) -> &mut Segment {
        &mut self[name as usize]
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// Linear address of the first entry.
    pub base: u64,
    /// Last offset.
    pub limit: u16,
}

/// What the last instruction keeps away for one more (SDM vol. 3C 25.4.2, interruptibility state).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Blocking {
    /// Nothing.
    #[default]
    None,
    /// Interrupts, after STI.
    Sti,
    /// Interrupts and debug exceptions, after MOV or POP to SS.
    MovSs,
}

/// A processor between two instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// By number.
    pub general: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CR0, as the guest reads it.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4, as the guest reads it.
    pub cr4: u64,
    /// `IA32_EFER`.
    pub efer: u64,
    /// By [`SegmentName`].
    pub segments: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: Table,
    /// IDTR.
    pub idtr: Table,
    /// What waits for one more instruction.
    pub blocking: Blocking,
    /// NMIs wait for the next IRET.
    pub nmis_blocked: bool,
}

impl State {
    /// Where a start-up IPI for `page` leads, after INIT (SDM vol. 3A 9.4.4, table 10-1).
    #[must_use]
    pub fn started_at(page: u8) -> Self {
        let mut segments = [Segment::real(0, Segment::READ_WRITE); 6];
        segments[SegmentName::Cs] = Segment::real(u16::from(page) << 8, Segment::EXECUTE_READ);
        Self {
            rflags: crate::flags::ONE,
            cr0: CR0_ET,
            segments,
            ldtr: Segment { rights: Segment::UNUSABLE, ..Segment::default() },
            tr: Segment::real(0, 0x8b),
            gdtr: Table { base: 0, limit: 0xffff },
            idtr: Table { base: 0, limit: 0xffff },
            ..Self::default()
        }
    }

    pub(crate) const fn is_protected(&self) -> bool {
        self.cr0 & CR0_PE != 0
    }

    pub(crate) const fn has_paging(&self) -> bool {
        self.cr0 & CR0_PG != 0
    }

    pub(crate) const fn is_long(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// The current privilege level: what the stack has, also in real mode (SDM vol. 3C 25.4.1).
    pub(crate) fn privilege(&self) -> u8 {
        self.segments[SegmentName::Ss].dpl()
    }

    /// The lower `width` bytes of a general register.
    pub(crate) const fn part(&self, number: usize, width: u8) -> u64 {
        self.general[number] & mask(width)
    }

    /// Sets the lower `width` bytes. 32 bits clear those above, fewer keep them (SDM vol. 1 3.4.1.1).
    pub(crate) const fn set_part(&mut self, number: usize, width: u8, value: u64) {
        let kept = if width < 4 { self.general[number] & !mask(width) } else { 0 };
        self.general[number] = kept | (value & mask(width));
    }

    /// A general register of any size; `None` for another register.
    pub(crate) fn register(&self, register: Register) -> Option<u64> {
        let number = general(register)?;
        Some(if is_high(register) {
            self.general[number] >> 8 & 0xff
        } else {
            self.part(number, register.size() as u8)
        })
    }

    /// Sets a general register of any size; `None` for another register.
    pub(crate) fn set_register(&mut self, register: Register, value: u64) -> Option<()> {
        let number = general(register)?;
        if is_high(register) {
            self.general[number] = (self.general[number] & !0xff00) | (value & 0xff) << 8;
        } else {
            self.set_part(number, register.size() as u8, value);
        }
        Some(())
    }
}

fn general(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

const fn is_high(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}
