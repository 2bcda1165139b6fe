//! The order at each site, seen from inside the calls: what the primary tables and the CPUs still have when a
//! subscriber is told. (Column "order" of `docs/notifiers.md`.)

use crate::{CPU0, CPU1, GUEST, Outcome, SMALL, fill, lab};
use addr::{Hva, HvaRange, Pfn};
use mm::notifier::MmuNotifier;
use mm::{AddressSpace, Host, Protection};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tests::Violation;
use tests::lab::{Lab, Notice, Verdict, gpage, page, pages};
use tests::machine::Machine;

/// Looks at page 2 at each call. Subscribed after the guest's MMU, so that has heard already.
struct Observer {
    space: Arc<AddressSpace<Machine>>,
    old: Pfn,
    /// What must hold at each call.
    expect: fn(&Observer, Notice),
    calls: AtomicU64,
}

impl Observer {
    fn see(&self, notice: Notice) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        (self.expect)(self, notice);
    }

    fn machine(&self) -> &Machine {
        self.space.host()
    }

    fn is_mapped(&self) -> bool {
        self.space.lookup(page(2)).is_some_and(|mapping| mapping.pfn == self.old)
    }

    /// Whether Herald, on CPU 1, can still load.
    fn loads(&self) -> bool {
        self.machine().load_linear(CPU1, page(2)).is_ok()
    }

    /// Whether Herald, on CPU 1, can still store.
    fn stores(&self) -> bool {
        self.machine().store_linear(CPU1, page(2), 0xbad).is_ok()
    }

    /// Whether the guest, on CPU 0, still has a translation.
    fn guest_loads(&self) -> bool {
        self.machine().guest_load(CPU0, gpage(2)).is_ok()
    }

    fn is_freed(&self) -> bool {
        self.machine().frames().meta(self.old).count() == 0
    }
}

impl MmuNotifier for Observer {
    fn release(&self) {
        self.see(Notice::Release);
    }
    fn clear_flush_young(&self, _: HvaRange) -> bool {
        self.see(Notice::ClearFlushYoung);
        false
    }
    fn invalidate_page(&self, _: Hva) {
        self.see(Notice::InvalidatePage);
    }
    fn invalidate_range_begin(&self, _: HvaRange) {
        self.see(Notice::RangeBegin);
    }
    fn invalidate_range_end(&self, _: HvaRange) {
        self.see(Notice::RangeEnd);
    }
}

/// Runs an operation on pages that everybody has cached; `expect` must hold at each of `calls` calls.
fn observe(
    calls: u64,
    expect: fn(&Observer, Notice),
    operation: impl FnOnce(&Lab) -> Result<Verdict, Violation>,
) -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 1)?;
    lab.load(CPU1, page(2))?;
    lab.store(CPU1, page(2), 3)?;
    lab.run_guest(GUEST, CPU0);
    let old = lab.space.lookup(page(2)).expect("resident").pfn;
    let observer =
        Arc::new(Observer { space: Arc::clone(&lab.space), old, expect, calls: AtomicU64::new(0) });
    lab.space.register(Arc::clone(&observer) as Arc<dyn MmuNotifier>);
    assert!(observer.loads() && observer.guest_loads() && observer.is_mapped());
    operation(&lab)?;
    assert_eq!(observer.calls.load(Ordering::Relaxed), calls);
    drop(observer);
    lab.finish()
}

/// Begin: the guest has lost the page already, the primary entry is as it was.
fn expect_begin(seen: &Observer) {
    assert!(seen.is_mapped() && seen.loads() && !seen.guest_loads() && !seen.is_freed());
}

#[test]
fn munmap_ends_when_frames_are_freed() -> Outcome {
    let expect = |seen: &Observer, notice| match notice {
        Notice::RangeBegin => expect_begin(seen),
        Notice::RangeEnd => assert!(!seen.is_mapped() && !seen.loads() && seen.is_freed()),
        _ => {}
    };
    observe(2, expect, |lab| lab.munmap(pages(1, 3)))
}

#[test]
fn mmap_over_a_mapping_is_an_munmap_first() -> Outcome {
    let expect = |seen: &Observer, notice| match notice {
        Notice::RangeBegin => expect_begin(seen),
        Notice::RangeEnd => assert!(!seen.is_mapped() && !seen.loads() && seen.is_freed()),
        _ => {}
    };
    observe(2, expect, |lab| lab.mmap(pages(1, 3), Protection::ReadWrite, SMALL))
}

#[test]
fn a_discard_ends_when_no_cpu_has_the_old_page_and_before_it_is_freed() -> Outcome {
    let expect = |seen: &Observer, notice| match notice {
        Notice::RangeBegin => expect_begin(seen),
        Notice::RangeEnd => assert!(!seen.is_mapped() && !seen.loads() && !seen.is_freed()),
        _ => {}
    };
    observe(2, expect, |lab| lab.discard(pages(1, 3)))
}

#[test]
fn mprotect_ends_when_no_cpu_can_store_any_more() -> Outcome {
    let expect = |seen: &Observer, notice| match notice {
        Notice::RangeBegin => expect_begin(seen),
        Notice::RangeEnd => assert!(seen.is_mapped() && !seen.stores() && seen.loads()),
        _ => {}
    };
    observe(2, expect, |lab| lab.mprotect(pages(1, 3), Protection::Read))
}

#[test]
fn a_migration_is_told_when_the_old_entry_is_gone_and_the_new_one_not_there() -> Outcome {
    let expect = |seen: &Observer, notice| {
        if notice == Notice::InvalidatePage {
            assert!(seen.space.lookup(page(2)).is_none());
            assert!(!seen.loads() && !seen.guest_loads() && !seen.is_freed());
        }
    };
    observe(1, expect, |lab| lab.migrate(page(2)))
}

#[test]
fn release_is_told_before_anything_is_unmapped() -> Outcome {
    let expect = |seen: &Observer, notice| {
        if notice == Notice::Release {
            assert!(seen.is_mapped() && seen.loads() && !seen.guest_loads());
        }
    };
    observe(1, expect, |lab| lab.exit_space())
}
