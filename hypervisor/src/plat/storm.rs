//! A storm: host operations on a guest's memory by a thread of their own, while its virtual processors run. For tests: what
//! the guest has written has to be there afterwards, whatever was done to the pages meanwhile.
//!
//! | operation | on |
//! |---|---|
//! | mprotect and back, write-protection, mremap and back | up to some pages anywhere |
//! | migration, aging, page-out, advice, collapse | the same |
//! | fork, and the end of the copies | the address space |
//! | discard | pages that the guest has given away for that |

use super::hostops::{HostOperationError, HostOperations};
use super::vm::Vm;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Turn};
use abi::hypercall::HostOperation as Op;
use addr::{Gpa, GpaRange, PAGE_SHIFT, PAGE_SIZE};
use core::sync::atomic::{AtomicU64, Ordering};
use firmware::Ram;
use spin::Mutex;

/// Most pages of one operation.
const MOST_PAGES: u64 = 8;
/// Operations between two looks of the coherence oracle.
const BETWEEN_CHECKS: u64 = 500;

/// Those that no guest notices.
const UNNOTICED: [Op; 10] = [
    Op::Migrate,
    Op::Age,
    Op::CountYoung,
    Op::PageOut,
    Op::Cold,
    Op::Collapse,
    Op::Fork,
    Op::DropForks,
    Op::Move,
    Op::WriteProtect,
];

/// What a guest's storm has done.
#[derive(Debug, Default)]
pub(crate) struct Storm {
    done: AtomicU64,
    /// Pages whose contents the guest has given away.
    given_away: Mutex<Option<GpaRange>>,
}

impl Storm {
    /// Operations done so far.
    #[must_use]
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// From now on these pages may read zero at any time.
    pub(crate) fn give_away(&self, range: GpaRange) {
        *self.given_away.lock() = Some(range);
    }
}

/// Whips up `operations` of them, or until the guest ends.
pub(super) fn whip(vm: &Vm, ram: Ram, operations: u64) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut forks = HostOperations::<PhysicalMemory>::default();
    log::debug!("{}: a storm of {operations} host operations", vm.name());
    while vm.storm.done() < operations && !vm.has_ended() {
        if sched::turn() == Turn::Over {
            sched::yield_now();
        }
        one(vm, &ram, &mut random, &mut forks);
        let done = vm.storm.done.fetch_add(1, Ordering::AcqRel) + 1;
        if done.is_multiple_of(BETWEEN_CHECKS) {
            vm.check(None);
        }
    }
}

fn one(vm: &Vm, ram: &Ram, random: &mut Random, forks: &mut HostOperations<PhysicalMemory>) {
    let whole = ram.low();
    let choice = random.below(UNNOTICED.len() as u64 + 3);
    match UNNOTICED.get(choice as usize) {
        Some(&operation) => {
            let (gpa, len) = random.pages_in(&whole);
            match forks.perform(&vm.memory, operation, gpa, len) {
                // So many copies, or no spare frame: nothing is wrong with that.
                Ok(_) | Err(HostOperationError::Forks(_) | HostOperationError::OutOfMemory) => {}
                Err(error) => log::debug!("storm: {operation:?} at {gpa}: {error}"),
            }
        }
        None if choice == UNNOTICED.len() as u64 => {
            let (gpa, len) = random.pages_in(&whole);
            if let Err(error) = vm.memory.protect(gpa, len, || ()) {
                log::warn!("storm: {error}");
            }
        }
        None => {
            let given_away = *vm.storm.given_away.lock();
            let Some(range) = given_away else { return };
            let (gpa, len) = random.pages_in(&range);
            if let Err(error) = vm.memory.discard(gpa, len) {
                log::warn!("storm: {error}");
            }
        }
    }
}

/// Xorshift: repeatable from run to run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Some pages of a range, which is whole pages: the first address, bytes.
    fn pages_in(&mut self, range: &GpaRange) -> (Gpa, u64) {
        let all = range.len() >> PAGE_SHIFT;
        let first = self.below(all);
        let pages = 1 + self.below(MOST_PAGES.min(all - first));
        (range.start().add(first << PAGE_SHIFT), pages * PAGE_SIZE)
    }
}
