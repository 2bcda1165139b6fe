//! Kernel threads: one for each virtual processor, and for work in the background.
//!
//! ```text
//!              pop                    park, nothing to do yet
//!   queued ──────────► running ───────────────────────────────► parked
//!     ▲                  │  │ exit ─► gone                        │
//!     └── turn is over ──┘                                        │
//!     └──────────────────── unpark, or a deadline ────────────────┘
//! ```
//!
//! Each CPU has a queue (`fair::RunQueue`, weighted fair). A CPU whose queue is empty takes a thread from another one; if
//! there is none, its idle thread zeroes free frames, and halts it. Nothing is preempted in root mode: a thread gives its CPU up where it asks
//! whether its turn is over, which a virtual processor does before each entry, with a timer that ends its stay in the guest.
//! No spin lock is held across a switch.
//!
//! Whoever leaves a CPU is made available to others by the next thread on that CPU, once its stack is not in use any more:
//! that is the handover.

mod cpu;
mod idle;
mod resident;
mod switch;
mod thread;

pub(crate) use cpu::{Turn, current, is_left_alone, online, others_wait, turn, wake_idle, yield_now};
pub(crate) use idle::run as idle;
pub(crate) use resident::{Resident, Residing, reside};
pub(crate) use thread::{Group, JoinHandle, Thread, park, spawn};
