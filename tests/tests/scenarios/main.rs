//! What a user would notice, operation by operation, on the simulated machine. After every step of the bench the
//! oracle looks at everything.

mod aging;
mod ahead;
mod around;
mod chain;
mod device_deaf;
mod device_races;
mod device_tlb;
mod exhaustion;
mod frames;
mod huge;
mod machine;
mod map;
mod migrate;
mod order;
mod races;
mod release;
mod shadow;
mod slots;
mod zeroed;

use addr::PageSize;
use mm::{CpuIndex, Protection};
use mmu::Observer;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tests::Violation;
use tests::lab::{DeviceId, GuestId, Lab, Verdict, gpage, pages};
use tests::machine::Options;

const GUEST: GuestId = GuestId(0);
const DEVICE: DeviceId = DeviceId(0);
const CPU0: CpuIndex = CpuIndex(0);
const CPU1: CpuIndex = CpuIndex(1);
const SMALL: PageSize = PageSize::Size4K;
const HUGE: PageSize = PageSize::Size2M;

type Outcome = Result<(), Violation>;

/// A bench with `count` pages of guest RAM, mapped readable and writable in small pages, none touched.
fn lab(count: u64) -> Lab {
    lab_with(Options::default(), count)
}

fn lab_with(options: Options, count: u64) -> Lab {
    let lab = Lab::with_ram(options, count);
    assert_eq!(lab.mmap(pages(0, count), Protection::ReadWrite, SMALL), Ok(Verdict::Done));
    lab
}

/// Has the guest store `value` + page number into each of its pages, on both CPUs' caches.
fn fill(lab: &Lab, count: u64, value: u64) -> Outcome {
    for index in 0..count {
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index), value + index)?, Verdict::Done);
        assert_eq!(lab.guest_load(GUEST, CPU1, gpage(index))?, Verdict::Value(value + index));
    }
    Ok(())
}

/// Has somebody listen to all calls of the address space from now on; the last 64 are kept.
fn observe(lab: &Lab) -> Arc<Observer> {
    const KEPT: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
    let observer = Arc::new(Observer::with_ring(KEPT));
    lab.space.register(Arc::clone(&observer) as Arc<dyn mm::notifier::MmuNotifier>);
    observer
}
