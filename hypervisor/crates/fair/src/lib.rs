//! Weighted fair queuing (as in Linux's CFS, kernel/sched/fair.c): who of those that want a CPU gets it next.
//!
//! ```text
//!   runs for t ticks: virtual time += t · NORMAL / share          share = weight of the group / members that want to run
//!
//!                       ┌──────── queue: least virtual time first ───────┐
//!   push (wakes, or     │ floor ≤ ………………………………………………………………………………………… │──► pop: runs
//!   its slice is over) ►│                                                │──► take_last: another CPU, which is idle
//!                       └────────────────────────────────────────────────┘
//! ```
//!
//! The floor is the virtual time of whoever was last chosen: nobody in the queue has had less. Outside of a queue a
//! thread's account is relative to it (its lag), so that it means the same on another CPU; whoever leaves a CPU is still
//! outside when the next one is chosen, and his account follows the floor. Who sleeps earns, but never
//! more than a slice: after a long sleep he runs soon, and not for long at others' cost.
//!
//! All times are TSC ticks.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod account;
mod queue;

pub use account::{Account, Share};
pub use queue::RunQueue;

#[cfg(test)]
mod tests;
