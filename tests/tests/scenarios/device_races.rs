//! Races of a device's access against the host's changes, forced by code that runs at a chosen seam. No sleeps, no
//! luck.
//!
//! ```text
//!   snapshot ─► fault_in: the leaf is read ─► lock, check, install, transfer ─► unlock
//!                                          ▲                         ▲
//!                              load hook ──┘         Event::Transfer ┘
//! ```

use crate::{CPU0, CPU1, DEVICE, GUEST, Outcome, lab};
use addr::Hva;
use mm::notifier::MmuNotifier;
use mmu::{DeviceTlb, DeviceTlbError};
use paging::HostEntry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::{Event, Machine};

/// Runs `meddle` on another thread, to its end, when a device's access to page 1 has read the primary leaf and not
/// yet installed its entry. The access holds the mmap lock for reading then.
fn when_resolved(lab: &Lab, meddle: impl FnOnce() + Send + 'static) -> Outcome {
    lab.store(CPU0, page(1), 41)?;
    let leaf = paging::walk::<HostEntry, _>(&*lab.machine, lab.space.root(), page(1).as_u64());
    lab.machine.set_load_hook(leaf.at, move || thread::spawn(meddle).join().expect("no panic"));
    Ok(())
}

fn load(tlb: &DeviceTlb<Machine>, hva: Hva) -> Result<u64, DeviceTlbError> {
    let mut bytes = [0; 8];
    tlb.read(hva, &mut bytes).map(|()| u64::from_le_bytes(bytes))
}

fn retries(lab: &Lab) -> u64 {
    lab.device(DEVICE).tlb.stats().snapshot().retries
}

#[test]
fn a_page_that_migrates_during_a_devices_fault_is_resolved_again() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    when_resolved(&lab, move || {
        space.migrate_page(page(1)).expect("migrates");
    })?;
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Value(41));
    assert_eq!(retries(&lab), 1);
    lab.finish()
}

#[test]
fn a_devices_store_is_not_lost_in_the_frame_that_a_migration_leaves() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    when_resolved(&lab, move || {
        space.migrate_page(page(1)).expect("migrates");
    })?;
    assert_eq!(lab.device_store(DEVICE, page(1), 42)?, Verdict::Done);
    assert_eq!(retries(&lab), 1);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(42));
    lab.finish()
}

#[test]
fn a_page_that_is_discarded_during_a_devices_fault_reads_zero() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    when_resolved(&lab, move || {
        space.discard(page(1), 4096).expect("is mapped");
    })?;
    assert_eq!(load(&lab.device(DEVICE).tlb, page(1)), Ok(0));
    assert_eq!(retries(&lab), 1);
    lab.check()?;
    lab.finish()
}

#[test]
fn a_release_during_a_devices_fault_leaves_no_entry() -> Outcome {
    let lab = lab(4);
    let tlb = Arc::clone(&lab.device(DEVICE).tlb);
    when_resolved(&lab, move || tlb.release())?;
    let tlb = &lab.device(DEVICE).tlb;
    assert_eq!(load(tlb, page(1)), Err(DeviceTlbError::Released { address: page(1) }));
    assert_eq!(tlb.entries(), []);
    lab.finish()
}

/// Two ranges under way, ended in the other order and with other bounds: an access waits for the last.
#[test]
fn a_device_waits_until_every_range_over_its_page_has_ended() -> Outcome {
    let lab = lab(8);
    lab.store(CPU0, page(1), 41)?;
    let tlb = Arc::clone(&lab.device(DEVICE).tlb);
    tlb.invalidate_range_begin(pages(0, 2));
    tlb.invalidate_range_begin(pages(5, 2));
    let device = Arc::clone(&tlb);
    let access = thread::spawn(move || load(&device, page(1)));
    let tries = |more: u64| {
        let seen = retries(&lab);
        while retries(&lab) < seen + more {
            assert!(!access.is_finished(), "an access inside a range");
            thread::yield_now();
        }
        assert_eq!(tlb.entries(), [], "installed inside a range");
    };
    tries(3);
    tlb.invalidate_range_end(pages(7, 1));
    tries(3);
    tlb.invalidate_range_end(pages(0, 8));
    assert_eq!(access.join().expect("no panic"), Ok(41));
    drop(tlb);
    lab.check()?;
    lab.finish()
}

#[test]
fn a_device_need_not_wait_for_a_range_elsewhere() -> Outcome {
    let lab = lab(8);
    let tlb = &lab.device(DEVICE).tlb;
    tlb.invalidate_range_begin(pages(2, 6));
    assert_eq!(load(tlb, page(1)), Ok(0));
    assert_eq!(retries(&lab), 0);
    tlb.invalidate_range_end(pages(2, 6));
    lab.finish()
}

/// The primary entry is clear, but the frame is not copied before the device's bytes have arrived in it.
#[test]
fn a_migration_waits_for_the_bytes_under_way() -> Outcome {
    let lab = lab(4);
    lab.store(CPU0, page(1), 41)?;
    let migration: Arc<Mutex<Option<JoinHandle<_>>>> = Arc::default();
    let (started, space) = (Arc::clone(&migration), Arc::clone(&lab.space));
    lab.machine.set_hook(move |event| {
        if !matches!(event, Event::Transfer(_)) || started.lock().expect("no panic").is_some() {
            return;
        }
        let other = Arc::clone(&space);
        let thread = thread::spawn(move || other.migrate_page(page(1)));
        while space.lookup(page(1)).is_some() && !thread.is_finished() {
            thread::yield_now();
        }
        assert!(!thread.is_finished(), "migrated under a transfer");
        *started.lock().expect("no panic") = Some(thread);
    });
    let tlb = &lab.device(DEVICE).tlb;
    assert_eq!(tlb.write(page(1), &42u64.to_le_bytes()), Ok(()));
    let thread = migration.lock().expect("no panic").take().expect("was started");
    thread.join().expect("no panic").expect("migrates");
    lab.machine.clear_hook();
    assert_eq!(load(tlb, page(1)), Ok(42));
    lab.check()?;
    lab.finish()
}

/// Devices and the host at work at once, on a page that the host keeps moving: each store stays.
#[test]
fn devices_and_migrations_at_once_lose_no_store() -> Outcome {
    const ROUNDS: u64 = 500;
    let lab = lab(4);
    lab.store(CPU1, page(1), 0)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                lab.space.migrate_page(page(1)).expect("migrates");
                lab.space.test_and_clear_young(page(1));
            }
        });
        for value in 1..=ROUNDS {
            let tlb = &lab.device(DEVICE).tlb;
            assert_eq!(tlb.write(page(1), &value.to_le_bytes()), Ok(()));
            assert_eq!(load(tlb, page(1)), Ok(value));
        }
        over.store(true, Ordering::Relaxed);
    });
    lab.check()?;
    lab.finish()
}
