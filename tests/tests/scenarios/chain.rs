//! The chain itself: who is told, who is not, and what a subscriber makes of unmatched calls.

use crate::{CPU0, CPU1, GUEST, Outcome, fill, lab, observe};
use mm::notifier::MmuNotifier;
use mm::{AddressSpace, Protection};
use mmu::{Call, Observer};
use std::num::NonZeroUsize;
use std::sync::Arc;
use tests::lab::{DeviceId, Verdict, gpage, page, pages};

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
    let observer = observe(&lab);
    let subscriber: Arc<dyn MmuNotifier> = Arc::clone(&observer) as Arc<dyn MmuNotifier>;
    let heard = [Call::RangeBegin(pages(0, 1)), Call::RangeEnd(pages(0, 1))];
    lab.discard(pages(0, 1))?;
    assert_eq!(observer.calls(), heard);
    assert!(lab.space.unregister(&subscriber));
    assert!(!lab.space.unregister(&subscriber), "only once");
    lab.discard(pages(0, 1))?;
    assert_eq!(observer.calls(), heard);
    lab.finish()
}

#[test]
fn all_subscribers_hear_every_call() -> Outcome {
    let mut lab = lab(4);
    lab.add_device();
    let (one, two) = (observe(&lab), observe(&lab));
    fill(&lab, 4, 1)?;
    let before = lab.guest(GUEST).ears.calls();
    lab.age(page(0))?;
    lab.migrate(page(1))?;
    lab.discard(pages(2, 1))?;
    lab.mprotect(pages(0, 2), Protection::Read)?;
    lab.exit_space()?;
    let heard = [
        Call::ClearFlushYoung(pages(0, 1)),
        Call::InvalidatePage(page(1)),
        Call::RangeBegin(pages(2, 1)),
        Call::RangeEnd(pages(2, 1)),
        Call::RangeBegin(pages(0, 2)),
        Call::RangeEnd(pages(0, 2)),
        Call::Release,
    ];
    assert_eq!(one.calls(), heard);
    assert_eq!(two.calls(), heard);
    let calls = heard.len() as u64;
    assert_eq!(lab.guest(GUEST).ears.calls() - before, calls);
    assert_eq!([0, 1].map(|id| lab.device(DeviceId(id)).ears.calls()), [calls, calls]);
    lab.finish()
}

#[test]
fn an_observer_counts_all_calls_and_keeps_the_last() -> Outcome {
    let lab = lab(4);
    let counting = Arc::new(Observer::new());
    let keeping = Arc::new(Observer::with_ring(NonZeroUsize::new(3).expect("not zero")));
    lab.space.register(Arc::clone(&counting) as Arc<dyn MmuNotifier>);
    lab.space.register(Arc::clone(&keeping) as Arc<dyn MmuNotifier>);
    fill(&lab, 4, 1)?;
    lab.discard(pages(0, 1))?;
    lab.discard(pages(1, 1))?;
    lab.migrate(page(2))?;
    assert_eq!(counting.calls(), []);
    assert_eq!(
        keeping.calls(),
        [Call::RangeBegin(pages(1, 1)), Call::RangeEnd(pages(1, 1)), Call::InvalidatePage(page(2)),]
    );
    assert_eq!(counting.counts(), keeping.counts());
    let counts = counting.counts();
    assert_eq!((counts.invalidate_range_begin, counts.invalidate_range_end), (2, 2));
    assert_eq!((counts.invalidate_page, counts.clear_flush_young, counts.release), (1, 0, 0));
    lab.finish()
}

/// Patch site `mm_init`.
#[test]
fn a_new_address_space_has_no_subscriber() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 1)?;
    let before = lab.guest(GUEST).ears.calls();
    let other = AddressSpace::new(&lab.mm).expect("a root");
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
