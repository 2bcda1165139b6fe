//! The chain itself: who is told, who is not, and what a subscriber makes of unmatched calls.

use crate::{CPU0, CPU1, GUEST, Outcome, fill, lab};
use addr::HvaRange;
use mm::AddressSpace;
use mm::notifier::MmuNotifier;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tests::lab::{Verdict, gpage, page, pages};

/// Counts begins and ends; needs no other operation, and has none.
#[derive(Default)]
struct Listener {
    begins: AtomicU64,
    ends: AtomicU64,
}

impl Listener {
    fn heard(&self) -> (u64, u64) {
        (self.begins.load(Ordering::Relaxed), self.ends.load(Ordering::Relaxed))
    }
}

impl MmuNotifier for Listener {
    fn invalidate_range_begin(&self, _: HvaRange) {
        self.begins.fetch_add(1, Ordering::Relaxed);
    }

    fn invalidate_range_end(&self, _: HvaRange) {
        self.ends.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn two_guests_follow_one_address_space() -> Outcome {
    let mut lab = lab(4);
    let other = lab.add_guest();
    lab.add_slot(other, gpage(0), pages(0, 4));
    fill(&lab, 4, 20)?;
    assert_eq!(lab.guest_load(other, CPU1, gpage(2))?, Verdict::Value(22));
    lab.migrate(page(2))?;
    assert_eq!(lab.guest_load(other, CPU1, gpage(2))?, Verdict::Value(22));
    lab.discard(pages(2, 1))?;
    assert_eq!(lab.guest_load(other, CPU1, gpage(2))?, Verdict::Value(0));
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(2))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn who_unsubscribes_hears_nothing_more() -> Outcome {
    let lab = lab(4);
    let listener = Arc::new(Listener::default());
    let subscriber: Arc<dyn MmuNotifier> = Arc::clone(&listener) as Arc<dyn MmuNotifier>;
    lab.space.register(Arc::clone(&subscriber));
    lab.discard(pages(0, 1))?;
    assert_eq!(listener.heard(), (1, 1));
    assert!(lab.space.unregister(&subscriber));
    assert!(!lab.space.unregister(&subscriber), "only once");
    lab.discard(pages(0, 1))?;
    assert_eq!(listener.heard(), (1, 1));
    lab.finish()
}

/// Patch site `mm_init`.
#[test]
fn a_new_address_space_has_no_subscriber() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 1)?;
    let before = lab.guest(GUEST).ears.calls();
    let other = AddressSpace::new(Arc::clone(&lab.machine)).expect("a root");
    other.exit();
    drop(other);
    assert_eq!(lab.guest(GUEST).ears.calls(), before);
    lab.finish()
}

#[test]
fn an_end_without_its_begin_does_no_harm() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 1)?;
    let mmu = &lab.guest(GUEST).mmu;
    mmu.invalidate_range_end(pages(0, 4));
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(2));
    lab.discard(pages(0, 4))?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn two_machines_live_in_one_process() -> Outcome {
    let (one, two) = (lab(4), lab(4));
    fill(&one, 4, 100)?;
    fill(&two, 4, 200)?;
    one.discard(pages(0, 4))?;
    assert_eq!(two.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(201));
    one.finish()?;
    two.finish()
}
