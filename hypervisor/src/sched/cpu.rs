//! Each CPU's queue, its sleepers, and the switch.
//!
//! | lock | protects |
//! |---|---|
//! | `queue`, rank `RunQueue` | threads that want to run here |
//! | `sleepers`, rank `RunQueue` | deadlines of threads that were parked here |
//!
//! `running` is the CPU's own: nobody else looks at it.

use super::switch::switch;
use super::thread::Thread;
use crate::cpu::local::MAX_CPUS;
use crate::cpu::{self, tsc};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use fair::{Account, RunQueue};
use sync::{Mutex, Rank};

/// Ticks that a thread may be ahead of another one that waits. Set at start-up.
static SLICE: AtomicU64 = AtomicU64::new(1 << 20);
/// CPUs that take part: 0 to this.
static ONLINE: AtomicUsize = AtomicUsize::new(0);

type Sleepers = BTreeMap<(u64, usize), Arc<Thread>>;

struct Cpu {
    queue: Mutex<RunQueue<Arc<Thread>>>,
    /// Length of the queue, to be looked at without the lock.
    waiting: AtomicUsize,
    sleepers: Mutex<Sleepers>,
    /// The first of their deadlines, to be looked at without the lock; all ones: there is none.
    next_wake: AtomicU64,
    /// Its idle thread runs.
    idle: AtomicBool,
    /// Nobody has waited since its thread's last look: nobody was kept waiting. Its own, as what is `running`.
    alone: AtomicBool,
    running: Own<Option<Running>>,
}

/// What only the CPU that runs may look at.
struct Own<T>(RefCell<T>);

// SAFETY: `own` alone gives access, to the CPU that runs, with interrupts off; handlers do not use it.
unsafe impl<T: Send> Sync for Own<T> {}

/// The thread on a CPU.
struct Running {
    thread: Arc<Thread>,
    idle: Arc<Thread>,
    account: Account,
    /// Up to when it has been charged.
    charged: u64,
    handover: Option<(Arc<Thread>, Account, Leaving)>,
}

/// Why a thread leaves its CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaving {
    /// Its turn is over.
    Queued,
    /// It waits.
    Parked,
    /// It has ended.
    Gone,
}

static CPUS: [Cpu; MAX_CPUS] = [const { Cpu::new() }; MAX_CPUS];

impl Cpu {
    const fn new() -> Self {
        Self {
            queue: Mutex::new(Rank::RunQueue, RunQueue::new()),
            waiting: AtomicUsize::new(0),
            sleepers: Mutex::new(Rank::RunQueue, BTreeMap::new()),
            next_wake: AtomicU64::new(u64::MAX),
            idle: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            running: Own(RefCell::new(None)),
        }
    }

    fn push(&self, account: Account, thread: Arc<Thread>) {
        let mut queue = self.queue.lock();
        queue.push(account, thread);
        self.waiting.store(queue.len(), Ordering::Release);
    }

    /// As at the last look: nobody was kept waiting since, so there is nothing to charge.
    #[inline]
    fn is_left_alone(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.alone.load(Ordering::Relaxed)
    }

    fn note_next_wake(&self, sleepers: &Sleepers) {
        let next = sleepers.first_key_value().map_or(u64::MAX, |((deadline, _), _)| *deadline);
        self.next_wake.store(next, Ordering::Release);
    }

    fn take(
        &self,
        take: impl FnOnce(&mut RunQueue<Arc<Thread>>) -> Option<(Account, Arc<Thread>)>,
    ) -> Option<(Account, Arc<Thread>)> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut queue = self.queue.lock();
        let taken = take(&mut queue);
        self.waiting.store(queue.len(), Ordering::Release);
        taken
    }
}

fn own<T>(use_it: impl FnOnce(&mut Running) -> T) -> T {
    let mut running = CPUS[cpu::index()].running.0.borrow_mut();
    use_it(running.as_mut().expect("a CPU that has started has its idle thread"))
}

/// The CPU that runs takes part from now on; its idle thread is the caller. `slice`: ticks that a thread may be ahead.
pub(super) fn start(slice: u64) {
    SLICE.store(slice, Ordering::Relaxed);
    let index = cpu::index();
    let this = &CPUS[index];
    let idle = Thread::idle();
    this.alone.store(true, Ordering::Relaxed);
    *this.running.0.borrow_mut() = Some(Running {
        thread: Arc::clone(&idle),
        idle,
        account: Account::default(),
        charged: tsc(),
        handover: None,
    });
    ONLINE.fetch_max(index + 1, Ordering::AcqRel);
}

/// How many CPUs take part.
#[must_use]
pub(crate) fn online() -> usize {
    ONLINE.load(Ordering::Acquire)
}

/// Indices of the CPUs that take part.
pub(crate) fn cpus() -> core::ops::Range<usize> {
    0..online()
}

pub(super) fn slice() -> u64 {
    SLICE.load(Ordering::Relaxed)
}

/// The thread that runs.
pub(crate) fn current() -> Arc<Thread> {
    own(|running| Arc::clone(&running.thread))
}

/// Makes another CPU look at its queue.
fn kick(index: usize) {
    if index != cpu::index() {
        cpu::kick(index);
    }
}

/// Puts a thread that wants to run where it ran last, or where nothing runs.
pub(super) fn enqueue(account: Account, thread: Arc<Thread>) {
    let last = thread.last_cpu.load(Ordering::Relaxed);
    let is_idle = |index: &usize| {
        CPUS[*index].idle.load(Ordering::Relaxed) && CPUS[*index].waiting.load(Ordering::Relaxed) == 0
    };
    let target = if is_idle(&last) { last } else { cpus().find(is_idle).unwrap_or(last) };
    CPUS[target].push(account, thread);
    kick(target);
}

/// Whether a thread may go on, and for how long.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// Until TSC `deadline`; `None`: nobody waits.
    GoesOn(Option<u64>),
    /// Another thread's turn has come.
    Over,
}

/// Asks whether the caller may go on. Wakes sleepers that are due.
pub(crate) fn turn() -> Turn {
    let this = &CPUS[cpu::index()];
    let sleeper = this.next_wake.load(Ordering::Acquire);
    if this.is_left_alone() && tsc() < sleeper {
        return Turn::GoesOn(Some(sleeper).filter(|&next| next != u64::MAX));
    }
    turn_among_others(this)
}

/// Whether nobody waits for this CPU, and the caller has not left it since [`turn`] said that it may go on: until the time that
/// it was told then, it may.
#[inline]
#[must_use]
pub(crate) fn is_left_alone() -> bool {
    CPUS[cpu::index()].is_left_alone()
}

/// The same where somebody waits, has waited, or is to be woken.
#[inline(never)]
fn turn_among_others(this: &Cpu) -> Turn {
    let now = tsc();
    let sleeper = wake_sleepers(now);
    let waiting = this.waiting.load(Ordering::Acquire);
    let left = own(|running| {
        running.charge(now);
        if waiting == 0 {
            this.alone.store(true, Ordering::Relaxed);
            return None;
        }
        this.queue.lock().ticks_left(running.account, running.thread.share(), slice())
    });
    // Whoever went idle while a thread was on its way into this queue may not have seen it.
    if waiting != 0 {
        wake_idle();
    }
    match left {
        Some(0) => Turn::Over,
        left => {
            let end = left.map(|left| now.saturating_add(left));
            Turn::GoesOn([end, sleeper].into_iter().flatten().min())
        }
    }
}

/// Makes a CPU that has nothing to do, if there is one, look for something.
pub(crate) fn wake_idle() {
    cpus().find(|&index| CPUS[index].idle.load(Ordering::Relaxed)).into_iter().for_each(kick);
}

impl Running {
    /// Charges what the thread has had since it was charged last; nothing for the time in which nobody waited.
    fn charge(&mut self, now: u64) {
        let ran = now.saturating_sub(self.charged);
        self.charged = now;
        let alone = &CPUS[cpu::index()].alone;
        if alone.load(Ordering::Relaxed) {
            alone.store(false, Ordering::Relaxed);
            self.account = Account::default();
        } else {
            self.account.charge(ran, self.thread.share());
        }
    }
}

/// Gives the CPU to whoever's turn it is. No lock is held.
pub(crate) fn yield_now() {
    leave(Leaving::Queued);
}

/// The next thread for this CPU: from its own queue, else from another CPU's. `leaver`: of whoever ran until now.
fn next(leaver: &mut Account) -> Option<(Account, Arc<Thread>)> {
    let here = cpu::index();
    let own = CPUS[here].take(|queue| queue.pop(leaver));
    own.or_else(|| {
        cpus().filter(|&index| index != here).find_map(|index| CPUS[index].take(RunQueue::take_last))
    })
}

/// Switches to another thread, or to the idle one. Returns when the caller runs again.
pub(super) fn leave(why: Leaving) {
    let found = own(|running| {
        running.charge(tsc());
        next(&mut running.account)
    });
    if found.is_none() && why == Leaving::Queued {
        return;
    }
    let resident = current().resident.leave();
    let (saved, target) = own(|running| {
        let (account, thread) = found.unwrap_or_else(|| (Account::default(), Arc::clone(&running.idle)));
        thread.last_cpu.store(cpu::index(), Ordering::Relaxed);
        let target = thread.saved.get();
        let left = core::mem::replace(&mut running.thread, thread);
        let saved = left.saved.get();
        running.handover = Some((left, running.account, why));
        running.account = account;
        (saved, target)
    });
    // SAFETY: the handover keeps the thread that is left alive; the one that is entered was taken from a queue by this
    // CPU alone, or is its idle thread. Interrupts are off, `own` is not in use, and callers hold no lock.
    unsafe { switch(saved, *target) };
    finish_switch();
    resident.inspect(|resident| resident.take());
}

/// Makes the thread that was left available. The first thing that a thread does on a CPU.
pub(super) fn finish_switch() {
    let Some((thread, account, why)) = own(|running| running.handover.take()) else { return };
    let is_idle = own(|running| Arc::ptr_eq(&running.idle, &thread));
    match why {
        _ if is_idle => {}
        Leaving::Queued => CPUS[cpu::index()].push(account, thread),
        Leaving::Parked if thread.set_parked(account) => {}
        Leaving::Parked => CPUS[cpu::index()].push(account, thread),
        Leaving::Gone => thread.set_gone(),
    }
}

/// A deadline of a parked thread.
#[must_use]
pub(super) struct Sleeper {
    cpu: usize,
    key: (u64, usize),
}

impl Sleeper {
    /// The thread is awake.
    pub(super) fn cancel(self) {
        let cpu = &CPUS[self.cpu];
        let thread = {
            let mut sleepers = cpu.sleepers.lock();
            let thread = sleepers.remove(&self.key);
            cpu.note_next_wake(&sleepers);
            thread
        };
        drop(thread);
    }
}

/// Lets a thread that is about to park be unparked at TSC `deadline`, by this CPU.
pub(super) fn sleep(deadline: u64, thread: &Arc<Thread>) -> Sleeper {
    let cpu = cpu::index();
    let key = (deadline, Arc::as_ptr(thread) as usize);
    let mut sleepers = CPUS[cpu].sleepers.lock();
    sleepers.insert(key, Arc::clone(thread));
    CPUS[cpu].note_next_wake(&sleepers);
    Sleeper { cpu, key }
}

/// Unparks the sleepers of this CPU that are due; when the next one is.
pub(super) fn wake_sleepers(now: u64) -> Option<u64> {
    let this = &CPUS[cpu::index()];
    if this.next_wake.load(Ordering::Acquire) <= now {
        let mut due = Vec::new();
        let mut sleepers = this.sleepers.lock();
        while let Some(first) = sleepers.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove());
        }
        this.note_next_wake(&sleepers);
        drop(sleepers);
        due.iter().for_each(Thread::unpark);
    }
    Some(this.next_wake.load(Ordering::Acquire)).filter(|&next| next != u64::MAX)
}

/// The idle thread of this CPU says whether it has nothing to do.
pub(super) fn set_idle(idle: bool) {
    // SeqCst: whoever pushes looks at it afterwards, and the idle CPU looks at its queue.
    CPUS[cpu::index()].idle.store(idle, Ordering::SeqCst);
}

/// Whether a thread waits for this CPU.
#[must_use]
pub(crate) fn others_wait() -> bool {
    CPUS[cpu::index()].waiting.load(Ordering::Relaxed) != 0
}

/// Whether a thread waits for some CPU.
pub(super) fn somebody_waits() -> bool {
    cpus().any(|index| CPUS[index].waiting.load(Ordering::SeqCst) != 0)
}
