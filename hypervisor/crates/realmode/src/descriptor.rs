//! Segment registers, and the tables that they are loaded from (SDM vol. 3A 3.4, 5.4 to 5.8).

use crate::cpu::{Break, Cpu, Step};
use crate::machine::{Fault, Machine};
use crate::state::{Blocking, Segment, SegmentName};

/// What the type of a descriptor has once it was used.
const ACCESSED: u32 = 1;
/// The same for a TSS.
const BUSY: u32 = 2;

/// A descriptor, and where it lies.
#[derive(Clone, Copy)]
struct Descriptor {
    raw: u64,
    linear: u64,
}

impl Descriptor {
    /// As a segment register keeps it. The byte of rights and the nibble of flags are as in a VMCS.
    fn segment(self, selector: u16) -> Segment {
        let rights = (self.raw >> 40) as u32 & 0xf0ff;
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        let limit = if rights & Segment::GRANULAR != 0 { limit << 12 | 0xfff } else { limit };
        let base = self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000;
        Segment { selector, base, limit, rights }
    }
}

/// The error code that names a selector.
const fn named(selector: u16) -> u16 {
    selector & !3
}

const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// MOV or POP to a segment register.
    pub(crate) fn load_segment(&mut self, name: SegmentName, selector: u16) -> Step<(), M> {
        if name == SegmentName::Cs {
            return Err(Fault::InvalidOpcode.into());
        }
        let segment = if !self.state.is_protected() {
            loaded_in_real_mode(&self.state.segments[name], selector, Segment::READ_WRITE)
        } else if name == SegmentName::Ss {
            self.stack_descriptor(selector)?
        } else {
            self.data_descriptor(selector)?
        };
        self.state.segments[name] = segment;
        if name == SegmentName::Ss {
            self.state.blocking = Blocking::MovSs;
        }
        Ok(())
    }

    /// CS and RIP, by a transfer that stays on its privilege level. Gates and tasks are unknown.
    pub(crate) fn load_code(&mut self, selector: u16, target: u64) -> Step<(), M> {
        let segment = if self.state.is_protected() {
            self.code_descriptor(selector)?
        } else {
            loaded_in_real_mode(&self.state.segments[SegmentName::Cs], selector, Segment::EXECUTE_READ)
        };
        if target > u64::from(segment.limit) {
            return Err(Fault::Protection(0).into());
        }
        self.state.segments[SegmentName::Cs] = segment;
        self.state.rip = target;
        Ok(())
    }

    fn descriptor(&mut self, selector: u16) -> Step<Descriptor, M> {
        let (base, limit) = if selector & 4 == 0 {
            (self.state.gdtr.base, u32::from(self.state.gdtr.limit))
        } else if self.state.ldtr.is_usable() {
            (self.state.ldtr.base, self.state.ldtr.limit)
        } else {
            return Err(Fault::Protection(named(selector)).into());
        };
        let offset = u32::from(selector & !7);
        if offset + 7 > limit {
            return Err(Fault::Protection(named(selector)).into());
        }
        let linear = base.wrapping_add(offset.into());
        Ok(Descriptor { raw: self.load_linear(linear, 8)?, linear })
    }

    /// Sets a bit of a descriptor's type, in memory and in the segment.
    fn mark(&mut self, descriptor: Descriptor, segment: &mut Segment, bit: u32) -> Step<(), M> {
        if segment.rights & bit == 0 {
            segment.rights |= bit;
            let linear = descriptor.linear.wrapping_add(5);
            self.store_linear(linear, 1, u64::from(segment.rights & 0xff))?;
        }
        Ok(())
    }

    fn data_descriptor(&mut self, selector: u16) -> Step<Segment, M> {
        if is_null(selector) {
            return Ok(Segment { selector, rights: Segment::UNUSABLE, ..Segment::default() });
        }
        let descriptor = self.descriptor(selector)?;
        let mut segment = descriptor.segment(selector);
        let readable = !segment.is_code() || segment.rights & 2 != 0;
        let conforming = segment.is_code() && segment.rights & 4 != 0;
        let privilege = conforming || segment.dpl() >= segment.rpl().max(self.state.privilege());
        if segment.rights & Segment::ORDINARY == 0 || !readable || !privilege {
            return Err(Fault::Protection(named(selector)).into());
        }
        if segment.rights & Segment::PRESENT == 0 {
            return Err(Fault::NotPresent(named(selector)).into());
        }
        self.mark(descriptor, &mut segment, ACCESSED)?;
        Ok(segment)
    }

    fn stack_descriptor(&mut self, selector: u16) -> Step<Segment, M> {
        if is_null(selector) {
            return Err(Fault::Protection(0).into());
        }
        let descriptor = self.descriptor(selector)?;
        let mut segment = descriptor.segment(selector);
        let privilege = self.state.privilege();
        let writable = !segment.is_code() && segment.rights & 2 != 0;
        if segment.rights & Segment::ORDINARY == 0
            || !writable
            || segment.rpl() != privilege
            || segment.dpl() != privilege
        {
            return Err(Fault::Protection(named(selector)).into());
        }
        if segment.rights & Segment::PRESENT == 0 {
            return Err(Fault::Stack(named(selector)).into());
        }
        self.mark(descriptor, &mut segment, ACCESSED)?;
        Ok(segment)
    }

    fn code_descriptor(&mut self, selector: u16) -> Step<Segment, M> {
        if is_null(selector) {
            return Err(Fault::Protection(0).into());
        }
        let descriptor = self.descriptor(selector)?;
        let mut segment = descriptor.segment(selector);
        if segment.rights & Segment::ORDINARY == 0 {
            // A gate or a TSS.
            return Err(Break::Unknown);
        }
        let privilege = self.state.privilege();
        let allowed = if segment.rights & 4 != 0 {
            segment.dpl() <= privilege
        } else {
            segment.dpl() == privilege && segment.rpl() <= privilege
        };
        let both = Segment::LONG | Segment::BIG;
        let contradictory = self.state.is_long() && segment.rights & both == both;
        if !segment.is_code() || !allowed || contradictory {
            return Err(Fault::Protection(named(selector)).into());
        }
        if segment.rights & Segment::PRESENT == 0 {
            return Err(Fault::NotPresent(named(selector)).into());
        }
        self.mark(descriptor, &mut segment, ACCESSED)?;
        segment.selector = named(selector) | u16::from(privilege);
        Ok(segment)
    }

    /// LLDT.
    pub(crate) fn load_local_table(&mut self, selector: u16) -> Step<(), M> {
        self.state.ldtr = if is_null(selector) {
            Segment { selector, rights: Segment::UNUSABLE, ..Segment::default() }
        } else {
            self.system_descriptor(selector, &[2])?.1
        };
        Ok(())
    }

    /// LTR.
    pub(crate) fn load_task(&mut self, selector: u16) -> Step<(), M> {
        if is_null(selector) {
            return Err(Fault::Protection(0).into());
        }
        let available: &[u32] = if self.state.is_long() { &[9] } else { &[1, 9] };
        let (descriptor, mut segment) = self.system_descriptor(selector, available)?;
        self.mark(descriptor, &mut segment, BUSY)?;
        self.state.tr = segment;
        Ok(())
    }

    /// From the GDT; of 16 bytes in long mode.
    fn system_descriptor(&mut self, selector: u16, kinds: &[u32]) -> Step<(Descriptor, Segment), M> {
        if selector & 4 != 0 {
            return Err(Fault::Protection(named(selector)).into());
        }
        let descriptor = self.descriptor(selector)?;
        let mut segment = descriptor.segment(selector);
        if segment.rights & Segment::ORDINARY != 0 || !kinds.contains(&segment.kind()) {
            return Err(Fault::Protection(named(selector)).into());
        }
        if segment.rights & Segment::PRESENT == 0 {
            return Err(Fault::NotPresent(named(selector)).into());
        }
        if self.state.is_long() {
            segment.base |= self.load_linear(descriptor.linear.wrapping_add(8), 4)? << 32;
            if (segment.base << 16).cast_signed() >> 16 != segment.base.cast_signed() {
                return Err(Fault::Protection(named(selector)).into());
            }
        }
        Ok((descriptor, segment))
    }
}

/// Real mode sets selector and base. Limit, D/B and G stay: a segment that got 4 GiB in protected mode keeps them.
fn loaded_in_real_mode(old: &Segment, selector: u16, kind: u32) -> Segment {
    if !old.is_usable() {
        return Segment::real(selector, kind);
    }
    let kept = old.rights & (Segment::BIG | Segment::GRANULAR);
    Segment { limit: old.limit, ..Segment::real(selector, kind | kept) }
}
