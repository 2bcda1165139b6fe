//! The rules of VM entry, one broken at a time.

use crate::{Obstacle, Rule, Segment, SegmentName, State};

/// Flat segments of 32 bits.
fn flat() -> State {
    let mut state = State::started_at(0);
    state.cr0 |= 1;
    for name in SegmentName::ALL {
        let (selector, rights) = if name == SegmentName::Cs { (8, 0xc09b) } else { (0x10, 0xc093) };
        state.segments[name] = Segment { selector, base: 0, limit: u32::MAX, rights };
    }
    state
}

fn obstacle(change: impl FnOnce(&mut State)) -> Option<Obstacle> {
    let mut state = flat();
    change(&mut state);
    state.obstacle()
}

#[test]
fn what_can_be_entered() {
    assert_eq!(obstacle(|_| {}), None);
    assert_eq!(obstacle(|state| state.cr0 |= 1 << 31), None);
    // As real mode has left them: the moment after CR0.PE was set.
    let mut state = State::started_at(0x9f);
    assert_eq!(state.obstacle(), Some(Obstacle::RealMode));
    state.cr0 |= 1;
    assert_eq!(state.obstacle(), None);
    // Null selectors, but not in CS.
    let null = Segment { rights: Segment::UNUSABLE, ..Segment::default() };
    assert_eq!(
        obstacle(|state| {
            for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Fs, SegmentName::Gs] {
                state.segments[name] = null;
            }
        }),
        None
    );
    assert_eq!(
        obstacle(|state| state.ldtr = Segment { selector: 0x20, base: 0, limit: 0xff, rights: 0x82 }),
        None
    );
}

#[test]
fn what_cannot_be_entered() {
    use Rule::{
        DescriptorPrivilege, Limit, LocalTable, LongAndBig, Present, RequestedPrivilege, Reserved, System,
        Type, Usable,
    };
    use SegmentName::{Cs, Ds, Es, Fs, Gs, Ss};
    let rights = |name: SegmentName, rights: u32| obstacle(|state| state.segments[name].rights = rights);
    let broken = |name, rule| Some(Obstacle::Segment(name, rule));
    assert_eq!(rights(Cs, 0xc093), broken(Cs, Type));
    assert_eq!(rights(Cs, 0x1_c09b), broken(Cs, Usable));
    assert_eq!(rights(Cs, 0xc0fb), broken(Cs, DescriptorPrivilege));
    assert_eq!(rights(Cs, 0xc01b), broken(Cs, Present));
    assert_eq!(rights(Cs, 0xc18b), broken(Cs, System));
    assert_eq!(rights(Cs, 0xc19b), broken(Cs, Reserved));
    assert_eq!(rights(Cs, 0x409b), broken(Cs, Limit));
    assert_eq!(rights(Ss, 0xc091), broken(Ss, Type));
    assert_eq!(rights(Ds, 0xc092), broken(Ds, Type));
    assert_eq!(rights(Ds, 0xc099), broken(Ds, Type));
    assert_eq!(rights(Es, 0xc09b), None);
    assert_eq!(obstacle(|state| state.segments[Ss].selector = 0x13), broken(Ss, RequestedPrivilege));
    assert_eq!(
        obstacle(|state| {
            state.segments[Ss].selector = 0x13;
            state.segments[Cs].selector = 0x0b;
        }),
        broken(Ss, DescriptorPrivilege)
    );
    assert_eq!(obstacle(|state| state.segments[Gs].selector = 0x13), broken(Gs, DescriptorPrivilege));
    assert_eq!(obstacle(|state| state.segments[Fs].limit = 0xffff_fffe), broken(Fs, Limit));
    assert_eq!(obstacle(|state| state.segments[Ds].base = 1 << 32), broken(Ds, Rule::Base));
    assert_eq!(obstacle(|state| state.segments[Fs].base = 1 << 32), None);
    assert_eq!(
        obstacle(|state| {
            state.efer = 0x500;
            state.segments[Cs].rights |= 1 << 13;
        }),
        broken(Cs, LongAndBig)
    );
    assert_eq!(obstacle(|state| state.tr.rights |= 1 << 16), Some(Obstacle::Tr(Usable)));
    assert_eq!(obstacle(|state| state.tr.rights = 0x89), Some(Obstacle::Tr(Type)));
    assert_eq!(obstacle(|state| state.tr.selector = 4), Some(Obstacle::Tr(LocalTable)));
    let table = Segment { selector: 0x20, base: 0, limit: 0xff, rights: 0x8b };
    assert_eq!(obstacle(|state| state.ldtr = table), Some(Obstacle::Ldtr(Type)));
}

#[test]
fn virtual_8086_mode_has_rules_of_its_own() {
    let with_segments = |rights| {
        obstacle(|state| {
            state.rflags |= 1 << 17;
            state.segments = [Segment::real(0x1234, rights); 6];
        })
    };
    assert_eq!(with_segments(0xf3), None);
    assert_eq!(with_segments(0x93), Some(Obstacle::Segment(SegmentName::Es, Rule::Virtual8086)));
}
