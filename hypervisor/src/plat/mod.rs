//! The platform: what makes a virtual machine of a host address space, an EPT and device models.
//!
//! ```text
//!   exit handlers ──► Vm ─┬─ memory   gpa, hva, EPT; host operations on guest memory
//!                         ├─ board    devices::Board: ports, MMIO, interrupts, timers
//!                         ├─ balloon  pages that the guest gives back
//!                         ├─ clone    a copy of it that runs beside it
//!                         ├─ snapshot the same copy, written to a disk, part: what of it is there already; restore: a guest that goes on from one
//!                         ├─ console  the guest's UART ◄──► the link; input
//!                         ├─ control  each virtual processor, seen from outside; ticks: where its time goes
//!                         ├─ reclaim  a thread that keeps frames free; oom: who ends where there are none
//!                         ├─ merge    a thread that makes one page of equal ones
//!                         ├─ pause    the oracle looks while nobody works on the memory
//!                         ├─ stirrer  disturbances, storm: host operations beside the running guest; for tests
//!                         └─ hostops  host operations that a test guest asks for
//! ```

mod ahead;
mod balloon;
mod clone;
mod console;
mod control;
mod end;
mod hostops;
mod input;
mod memory;
mod merge;
mod module;
mod oom;
mod part;
mod pause;
mod reclaim;
mod report;
mod restore;
mod run;
mod snapshot;
mod stir;
mod store;
mod storm;
mod swap;
mod ticks;
mod upheaval;
mod vm;

pub(crate) use clone::{Asker, CloneError};
pub(crate) use control::Control;
pub(crate) use end::End;
pub(crate) use hostops::HostOperationError;
pub(crate) use oom::{Verdict, judge};
pub(crate) use run::{Machine, Outcome, run};
pub(crate) use snapshot::SnapshotError;
pub(crate) use ticks::Ticks;
pub(crate) use vm::{Clock, Vm};
