//! Whether VM entry accepts a state without "unrestricted guest" (SDM vol. 3C 27.3.1.2).
//!
//! CR0.PG may be 0: shadow tables map guest-physical addresses one to one then, and the processor has paging on.

use crate::flags::VM;
use crate::state::{Segment, SegmentName, State};
use core::fmt;

/// The first reason that was found why there is no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// CR0.PE is 0.
    RealMode,
    /// CS, SS, DS, ES, FS or GS.
    Segment(SegmentName, Rule),
    /// LDTR.
    Ldtr(Rule),
    /// TR.
    Tr(Rule),
}

/// A rule that a segment breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// It must be usable.
    Usable,
    /// Its type.
    Type,
    /// Code or data where a system segment belongs, or the other way round.
    System,
    /// Not present.
    Present,
    /// The privilege level of its descriptor.
    DescriptorPrivilege,
    /// The privilege level of its selector.
    RequestedPrivilege,
    /// Its selector names an entry of the LDT.
    LocalTable,
    /// L and D/B together, in long mode.
    LongAndBig,
    /// Its limit does not go with G.
    Limit,
    /// Reserved bits of its access rights.
    Reserved,
    /// Its base has bits above the 32nd.
    Base,
    /// Not what virtual-8086 mode has.
    Virtual8086,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RealMode => f.write_str("CR0.PE is 0"),
            Self::Segment(name, rule) => write!(f, "{name:?}: {rule:?}"),
            Self::Ldtr(rule) => write!(f, "LDTR: {rule:?}"),
            Self::Tr(rule) => write!(f, "TR: {rule:?}"),
        }
    }
}

impl State {
    /// What keeps a processor without "unrestricted guest" from running this.
    #[must_use]
    pub fn obstacle(&self) -> Option<Obstacle> {
        if !self.is_protected() {
            return Some(Obstacle::RealMode);
        }
        let ordinary = SegmentName::ALL.into_iter().find_map(|name| {
            let rule = if self.rflags & VM != 0 {
                virtual_8086(&self.segments[name])
            } else {
                self.broken_by_segment(name)
            };
            Some(Obstacle::Segment(name, rule?))
        });
        ordinary
            .or_else(|| Some(Obstacle::Tr(self.broken_by_task()?)))
            .or_else(|| Some(Obstacle::Ldtr(broken_by_local_table(&self.ldtr)?)))
    }

    fn broken_by_segment(&self, name: SegmentName) -> Option<Rule> {
        let segment = &self.segments[name];
        let by_name = match name {
            SegmentName::Cs => self.broken_by_code(),
            SegmentName::Ss => self.broken_by_stack(),
            _ => broken_by_data(segment),
        };
        if name != SegmentName::Cs && !segment.is_usable() {
            return by_name;
        }
        by_name
            .or_else(|| broken(segment.rights & Segment::ORDINARY == 0, Rule::System))
            .or_else(|| broken_by_any(segment))
            .or_else(|| {
                let wide = !matches!(name, SegmentName::Fs | SegmentName::Gs) && segment.base >> 32 != 0;
                broken(wide, Rule::Base)
            })
    }

    fn broken_by_code(&self) -> Option<Rule> {
        let (code, stack) = (&self.segments[SegmentName::Cs], &self.segments[SegmentName::Ss]);
        let privilege = match code.kind() {
            9 | 11 => code.dpl() == stack.dpl(),
            13 | 15 => code.dpl() <= stack.dpl(),
            _ => return Some(Rule::Type),
        };
        let both = Segment::LONG | Segment::BIG;
        broken(!code.is_usable(), Rule::Usable)
            .or_else(|| broken(!privilege, Rule::DescriptorPrivilege))
            .or_else(|| broken(self.is_long() && code.rights & both == both, Rule::LongAndBig))
    }

    fn broken_by_stack(&self) -> Option<Rule> {
        let (code, stack) = (&self.segments[SegmentName::Cs], &self.segments[SegmentName::Ss]);
        broken(stack.rpl() != code.rpl(), Rule::RequestedPrivilege)
            .or_else(|| broken(stack.dpl() != stack.rpl(), Rule::DescriptorPrivilege))
            .or_else(|| broken(stack.is_usable() && !matches!(stack.kind(), 3 | 7), Rule::Type))
    }

    fn broken_by_task(&self) -> Option<Rule> {
        let task = &self.tr;
        let busy = task.kind() == 11 || task.kind() == 3 && !self.is_long();
        broken(!task.is_usable(), Rule::Usable)
            .or_else(|| broken(task.selector & 4 != 0, Rule::LocalTable))
            .or_else(|| broken(!busy, Rule::Type))
            .or_else(|| broken(task.rights & Segment::ORDINARY != 0, Rule::System))
            .or_else(|| broken_by_any(task))
    }
}

fn broken(is: bool, rule: Rule) -> Option<Rule> {
    is.then_some(rule)
}

/// DS, ES, FS and GS may be unusable.
fn broken_by_data(segment: &Segment) -> Option<Rule> {
    if !segment.is_usable() {
        return None;
    }
    let accessed = segment.rights & 1 != 0;
    let readable = !segment.is_code() || segment.rights & 2 != 0;
    broken(!accessed || !readable, Rule::Type)
        .or_else(|| broken(segment.kind() <= 11 && segment.dpl() < segment.rpl(), Rule::DescriptorPrivilege))
}

fn broken_by_local_table(table: &Segment) -> Option<Rule> {
    if !table.is_usable() {
        return None;
    }
    broken(table.selector & 4 != 0, Rule::LocalTable)
        .or_else(|| broken(table.kind() != 2, Rule::Type))
        .or_else(|| broken(table.rights & Segment::ORDINARY != 0, Rule::System))
        .or_else(|| broken_by_any(table))
}

/// What holds for every usable segment.
fn broken_by_any(segment: &Segment) -> Option<Rule> {
    let granular = segment.rights & Segment::GRANULAR != 0;
    let whole_pages = segment.limit & 0xfff == 0xfff;
    let small = segment.limit >> 20 == 0;
    broken(segment.rights & Segment::PRESENT == 0, Rule::Present)
        .or_else(|| broken(segment.rights & 0xf00 != 0 || segment.rights >> 17 != 0, Rule::Reserved))
        .or_else(|| broken(granular && !whole_pages || !granular && !small, Rule::Limit))
}

fn virtual_8086(segment: &Segment) -> Option<Rule> {
    let exact = Segment::real(segment.selector, 0xf3);
    broken(*segment != exact, Rule::Virtual8086)
}
