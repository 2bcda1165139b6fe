//! What the types refuse, and the corners of alignment.

use crate::{Gfn, Gpa, Hpa, Hva, HvaRange, PageSize};

#[test]
fn physical_addresses_end_at_52_bits() {
    assert!(Hpa::try_new((1 << 52) - 1).is_some());
    assert!(Hpa::try_new(1 << 52).is_none());
    assert!(Gpa::new((1 << 52) - 1).checked_add(1).is_none());
}

#[test]
fn linear_addresses_are_canonical() {
    assert!(Hva::try_new(0x7fff_ffff_ffff).is_some());
    assert!(Hva::try_new(0x8000_0000_0000).is_none());
    assert!(Hva::try_new(0xffff_8000_0000_0000).is_some());
    assert!(Hva::new(0x7fff_ffff_ffff).checked_add(1).is_none());
}

#[test]
fn alignment() {
    let address = Hva::new(0x20_1234);
    assert_eq!(address.align_down(PageSize::Size2M), Hva::new(0x20_0000));
    assert_eq!(address.align_up(PageSize::Size4K), Some(Hva::new(0x20_2000)));
    assert_eq!(address.offset_in(PageSize::Size2M), 0x1234);
    assert_eq!(Gpa::new(0x5fff).gfn(), Gfn::new(5));
    assert_eq!(Gfn::new(0x3ff).align_down(PageSize::Size2M), Gfn::new(0x200));
}

#[test]
fn ranges() {
    let a = HvaRange::new(Hva::new(0x1000), Hva::new(0x3000));
    let b = HvaRange::new(Hva::new(0x2000), Hva::new(0x5000));
    assert_eq!(a.intersection(&b), Some(HvaRange::new(Hva::new(0x2000), Hva::new(0x3000))));
    assert_eq!(a.hull(&b).len(), 0x4000);
    let touching = HvaRange::new(Hva::new(0x3000), Hva::new(0x4000));
    assert!(!a.overlaps(&touching));
    assert!(HvaRange::try_new(Hva::new(2), Hva::new(1)).is_none());
    assert_eq!(HvaRange::new(Hva::new(0x1fff), Hva::new(0x2001)).pages().count(), 2);
}
