//! The platform: what makes a virtual machine of a host address space, an EPT and device models.
//!
//! ```text
//!   exit handlers ──► Vm ─┬─ memory   gpa, hva, EPT; host operations on guest memory
//!                         ├─ board    devices::Board: ports, MMIO, interrupts, timers
//!                         ├─ console  the guest's UART ◄──► the link
//!                         ├─ ticks    where time goes
//!                         ├─ stirrer  disturbances, for tests
//!                         └─ hostops  host operations that a test guest asks for
//! ```

mod console;
mod end;
mod hostops;
mod memory;
mod module;
mod run;
mod stir;
mod store;
mod ticks;
mod vm;

pub(crate) use end::End;
pub(crate) use hostops::HostOperationError;
pub(crate) use run::{Machine, Outcome, run};
pub(crate) use vm::{MachineClock, Vm};
