//! A thread, and how it waits.
//!
//! ```text
//!   ACTIVE ◄──── unpark ──── PARKED          an unpark of an active thread is kept for its next park:
//!     │ ▲                      ▲               park returns at once then
//!     │ └── park ── NOTIFIED   │
//!     ├─ unpark ───────▲       │
//!     └─ park ─► off its CPU ──┘
//! ```

use super::cpu::{self, Leaving};
use super::resident::Slot;
use super::switch;
use crate::cpu::stacks::Stack;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use fair::{Account, Share};
use mm::OutOfFrames;
use spin::Mutex;

/// Running, or in a queue.
const ACTIVE: u8 = 0;
/// The same, and somebody has called `unpark`.
const NOTIFIED: u8 = 1;
/// Off its CPU until somebody calls `unpark`.
const PARKED: u8 = 2;

/// Threads that share a weight: the virtual processors of a guest.
#[derive(Debug)]
pub(crate) struct Group {
    weight: u32,
    /// Members that run or are in a queue.
    active: AtomicU32,
}

impl Group {
    /// A group of this weight; 100 is the normal one.
    #[must_use]
    pub(crate) fn new(weight: u32) -> Arc<Self> {
        Arc::new(Self { weight, active: AtomicU32::new(0) })
    }

    fn share(&self) -> Share {
        Share::new(self.weight, self.active.load(Ordering::Relaxed))
    }
}

type Body = Box<dyn FnOnce() + Send>;

/// A kernel thread.
pub(crate) struct Thread {
    group: Arc<Group>,
    /// `None`: the idle thread of a CPU, on the stack that the CPU has started with.
    _stack: Option<Stack>,
    /// Where it goes on.
    pub(super) saved: UnsafeCell<u64>,
    body: Mutex<Option<Body>>,
    state: AtomicU8,
    /// The CPU on which it ran last.
    pub(super) last_cpu: AtomicUsize,
    /// While it is parked: what it has had, and since when it has been.
    parked: Mutex<(Account, u64)>,
    gone: AtomicBool,
    waiter: Mutex<Option<Arc<Thread>>>,
    /// What it has in its CPU.
    pub(super) resident: Slot,
}

// SAFETY: `saved` is written by the CPU that leaves the thread and read by the one that enters it next; the handover (see
// the module `sched`) and the lock of a run queue lie between the two.
unsafe impl Sync for Thread {}
// SAFETY: as above; nothing in it belongs to a CPU.
unsafe impl Send for Thread {}

impl Thread {
    /// The thread that runs when a CPU starts.
    pub(super) fn idle() -> Arc<Self> {
        Arc::new(Self::new(Group::new(1), None, None))
    }

    fn new(group: Arc<Group>, stack: Option<Stack>, body: Option<Body>) -> Self {
        Self {
            group,
            _stack: stack,
            saved: UnsafeCell::new(0),
            body: Mutex::new(body),
            state: AtomicU8::new(ACTIVE),
            last_cpu: AtomicUsize::new(crate::cpu::index()),
            parked: Mutex::new((Account::default(), 0)),
            gone: AtomicBool::new(false),
            waiter: Mutex::new(None),
            resident: Slot::default(),
        }
    }

    /// Its share of a CPU, as things are.
    pub(super) fn share(&self) -> Share {
        self.group.share()
    }

    /// Lets it go on, now or at its next [`park`]. Takes the lock of a run queue.
    pub(crate) fn unpark(self: &Arc<Self>) {
        // AcqRel: what was done before is seen by whoever goes on.
        let old = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
            ACTIVE => Some(NOTIFIED),
            PARKED => Some(ACTIVE),
            _ => None,
        });
        if old == Ok(PARKED) {
            self.group.active.fetch_add(1, Ordering::Relaxed);
            let (mut account, since) = *self.parked.lock();
            let slept = crate::cpu::tsc().saturating_sub(since);
            account.credit(slept, self.share(), cpu::slice());
            cpu::enqueue(account, Arc::clone(self));
        }
    }

    /// Takes a notification that came since the last park.
    fn take_notification(&self) -> bool {
        self.state.compare_exchange(NOTIFIED, ACTIVE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// It is off its CPU, and may be unparked from now on; `false`: somebody has done so already.
    pub(super) fn set_parked(&self, account: Account) -> bool {
        *self.parked.lock() = (account, crate::cpu::tsc());
        self.group.active.fetch_sub(1, Ordering::Relaxed);
        let parked = self.state.compare_exchange(ACTIVE, PARKED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if !parked {
            self.state.store(ACTIVE, Ordering::Release);
            self.group.active.fetch_add(1, Ordering::Relaxed);
        }
        parked
    }

    /// It is off its CPU for good.
    pub(super) fn set_gone(&self) {
        self.group.active.fetch_sub(1, Ordering::Relaxed);
        self.gone.store(true, Ordering::Release);
        if let Some(waiter) = self.waiter.lock().take() {
            waiter.unpark();
        }
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("state", &self.state).finish_non_exhaustive()
    }
}

/// A thread that somebody may wait for.
#[must_use]
#[derive(Debug)]
pub(crate) struct JoinHandle(Arc<Thread>);

impl JoinHandle {
    /// The thread.
    pub(crate) fn thread(&self) -> &Arc<Thread> {
        &self.0
    }

    /// Whether it has ended, and all that its body owned is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }

    /// Waits until it has ended, and all that its body owned is gone.
    pub(crate) fn join(self) {
        *self.0.waiter.lock() = Some(cpu::current());
        while !self.is_over() {
            park(None);
        }
    }
}

/// Starts a thread.
///
/// # Errors
/// [`OutOfFrames`]: there is no stack for it.
pub(crate) fn spawn(
    group: &Arc<Group>,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle, OutOfFrames> {
    let stack = Stack::new()?;
    let top = stack.top();
    let thread = Arc::new(Thread::new(Arc::clone(group), Some(stack), Some(Box::new(body))));
    // SAFETY: the stack is the thread's own, and nobody else knows it; `start` never returns.
    unsafe { *thread.saved.get() = switch::prepare(top, start) };
    group.active.fetch_add(1, Ordering::Relaxed);
    cpu::enqueue(Account::default(), Arc::clone(&thread));
    Ok(JoinHandle(thread))
}

/// Where every thread begins.
extern "sysv64" fn start() -> ! {
    cpu::finish_switch();
    let thread = cpu::current();
    let body = thread.body.lock().take();
    drop(thread);
    if let Some(body) = body {
        body();
    }
    cpu::leave(Leaving::Gone);
    unreachable!("a thread that has gone runs again")
}

/// Waits for [`Thread::unpark`], or until TSC `deadline`. May return earlier: the caller looks again at what it waits for.
/// No lock is held.
pub(crate) fn park(deadline: Option<u64>) {
    let thread = cpu::current();
    if thread.take_notification() {
        return;
    }
    let sleeper = deadline.map(|deadline| cpu::sleep(deadline, &thread));
    drop(thread);
    cpu::leave(Leaving::Parked);
    if let Some(sleeper) = sleeper {
        sleeper.cancel();
    }
}
