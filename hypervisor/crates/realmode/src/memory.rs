//! Memory as instructions name it: a segment and an offset; limits and rights (SDM vol. 3A 5.3, 5.5, 20.1.1), the guest's
//! translation, and the cut at the end of a page.
//!
//! Real mode checks the limit alone: a segment that got a larger one in protected mode keeps it.

use crate::cpu::{Break, Cpu, Locked, Step};
use crate::flags::mask;
use crate::machine::{Access, Fault, Machine};
use crate::state::{Segment, SegmentName};
use addr::{Gpa, Gva};
use iced_x86::Register;

const PAGE: u64 = 4096;
const LINEAR: u64 = 0xffff_ffff;

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// The offset that the memory operand names.
    pub(crate) fn effective(&self) -> Step<u64, M> {
        let instruction = &self.instruction;
        let value = |register| match register {
            Register::None => Ok(0),
            register => self.state.register(register).ok_or(Break::Unknown),
        };
        let index = value(instruction.memory_index())?.wrapping_mul(instruction.memory_index_scale().into());
        let sum = value(instruction.memory_base())?
            .wrapping_add(index)
            .wrapping_add(instruction.memory_displacement64());
        Ok(sum & mask(self.address_width()))
    }

    /// Bytes of an address of the memory operand.
    pub(crate) fn address_width(&self) -> u8 {
        let registers = [self.instruction.memory_base(), self.instruction.memory_index()];
        let named = registers.into_iter().find(|register| *register != Register::None);
        named.map_or(self.instruction.memory_displ_size() as u8, |register| register.size() as u8)
    }

    /// The segment of the memory operand.
    pub(crate) fn operand_segment(&self) -> Step<SegmentName, M> {
        SegmentName::of(self.instruction.memory_segment()).ok_or(Break::Unknown)
    }

    /// Checks an access, and says where it goes.
    pub(crate) fn linear(&self, name: SegmentName, offset: u64, width: u8, access: Access) -> Step<u64, M> {
        let segment = &self.state.segments[name];
        let rights = !self.state.is_protected() || may(segment, access);
        if !rights || !self.is_inside(segment, offset, width) {
            return Err(match name {
                SegmentName::Ss => Fault::Stack(0),
                _ => Fault::Protection(0),
            }
            .into());
        }
        Ok(segment.base.wrapping_add(offset) & LINEAR)
    }

    fn is_inside(&self, segment: &Segment, offset: u64, width: u8) -> bool {
        let (last, limit) = (offset + u64::from(width) - 1, u64::from(segment.limit));
        let expands_down = self.state.is_protected() && !segment.is_code() && segment.rights & 1 << 2 != 0;
        if expands_down {
            offset > limit && last <= if segment.is_big() { LINEAR } else { 0xffff }
        } else {
            last <= limit
        }
    }

    pub(crate) fn load(&mut self, name: SegmentName, offset: u64, width: u8) -> Step<u64, M> {
        let linear = self.linear(name, offset, width, Access::Read)?;
        self.load_linear(linear, width)
    }

    pub(crate) fn store(&mut self, name: SegmentName, offset: u64, width: u8, value: u64) -> Step<(), M> {
        let linear = self.linear(name, offset, width, Access::Write)?;
        self.store_linear(linear, width, value)
    }

    /// A load for a change that other processors see in one go.
    pub(crate) fn load_locked(&mut self, name: SegmentName, offset: u64, width: u8) -> Step<u64, M> {
        self.linear(name, offset, width, Access::Read)?;
        let linear = self.linear(name, offset, width, Access::Write)?;
        let value = self.load_linear(linear, width)?;
        if linear % PAGE + u64::from(width) <= PAGE {
            let gpa = self.translate(linear, Access::Write)?;
            self.locked = Some(Locked { gpa, value });
        }
        Ok(value)
    }

    /// The store that goes with it.
    pub(crate) fn store_locked(&mut self, at: Locked, width: u8, value: u64) -> Step<(), M> {
        let width = usize::from(width);
        let (old, new) = (at.value.to_le_bytes(), value.to_le_bytes());
        match self.machine.exchange(at.gpa, &old[..width], &new[..width]) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Break::Retry),
            Err(end) => Err(Break::End(end)),
        }
    }

    /// A load past all segments, as the processor reads its tables.
    pub(crate) fn load_linear(&mut self, linear: u64, width: u8) -> Step<u64, M> {
        let mut bytes = [0; 8];
        self.read_linear(linear, &mut bytes[..usize::from(width)], Access::Read)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn read_linear(&mut self, linear: u64, bytes: &mut [u8], access: Access) -> Step<(), M> {
        let (first, second) = bytes.split_at_mut(first_part(linear, bytes.len()));
        let gpa = self.translate(linear, access)?;
        let next = self.translate_rest(linear, first.len(), second.len(), access)?;
        self.machine.read(gpa, first).map_err(Break::End)?;
        match next {
            Some(gpa) => self.machine.read(gpa, second).map_err(Break::End),
            None => Ok(()),
        }
    }

    pub(crate) fn store_linear(&mut self, linear: u64, width: u8, value: u64) -> Step<(), M> {
        let bytes = value.to_le_bytes();
        let bytes = &bytes[..usize::from(width)];
        let (first, second) = bytes.split_at(first_part(linear, bytes.len()));
        let gpa = self.translate(linear, Access::Write)?;
        let next = self.translate_rest(linear, first.len(), second.len(), Access::Write)?;
        self.machine.write(gpa, first).map_err(Break::End)?;
        match next {
            Some(gpa) => self.machine.write(gpa, second).map_err(Break::End),
            None => Ok(()),
        }
    }

    /// Where the part of an access goes that lies on the next page.
    fn translate_rest(
        &mut self,
        linear: u64,
        first: usize,
        rest: usize,
        access: Access,
    ) -> Step<Option<Gpa>, M> {
        if rest == 0 {
            return Ok(None);
        }
        self.translate(linear.wrapping_add(first as u64), access).map(Some)
    }

    pub(crate) fn translate(&mut self, linear: u64, access: Access) -> Step<Gpa, M> {
        if !self.state.has_paging() {
            return Ok(Gpa::new(linear & LINEAR));
        }
        let linear = if self.state.is_long() { linear } else { linear & LINEAR };
        let linear = Gva::try_new(linear).ok_or(Fault::Protection(0))?;
        Ok(self.machine.translate(self.state, linear, access)?)
    }
}

/// Bytes of an access up to the end of its page.
fn first_part(linear: u64, bytes: usize) -> usize {
    bytes.min((PAGE - linear % PAGE) as usize)
}

/// Rights in protected mode.
fn may(segment: &Segment, access: Access) -> bool {
    let second_bit = segment.rights & 2 != 0;
    segment.is_usable()
        && match access {
            Access::Fetch => segment.is_code(),
            Access::Read => !segment.is_code() || second_bit,
            Access::Write => !segment.is_code() && second_bit,
        }
}
