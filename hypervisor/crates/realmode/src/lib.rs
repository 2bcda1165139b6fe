//! Guest code that a processor without "unrestricted guest" cannot run, done in software: real mode, and protected mode
//! until every segment is one that VM entry accepts.
//!
//! ```text
//!   start-up IPI, or a state that VM entry refuses
//!        │
//!        ▼            ┌──────────────────────────────────────────────┐
//!   State ──► run ──► │ VM entry possible?  yes ─► Outcome::Enterable │ ──► the processor goes on
//!                     │ fetch ─► decode ─► execute ─► fault? deliver  │ ──► Outcome::{Spent, Wanted, Halted, Shutdown}
//!                     └───────────────────┬──────────────────────────┘ ──► Trouble: this guest ends
//!                                         ▼
//!                  Machine: memory, ports, CPUID, MSRs, control registers
//! ```
//!
//! The processor is a plain value, [`State`]; all else is behind [`Machine`]. Nothing is kept between two runs. An
//! instruction either happens or leaves the state as it was; a repeated one is as many steps as it has repetitions. A run
//! is bounded by steps. What is there and what is not: `docs/realmode.md`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod alu;
mod bits;
mod control;
mod cpu;
mod decimal;
mod descriptor;
mod entry;
mod event;
mod execute;
mod flags;
mod flow;
mod machine;
mod memory;
mod multiply;
mod operand;
mod run;
mod seam;
mod shift;
mod stack;
mod state;
mod strings;
mod system;

pub use control::Control;
pub use entry::{Obstacle, Rule};
pub use machine::{Access, Fault, Machine, Refusal};
pub use run::{Outcome, Trouble, interrupt, run};
pub use state::{Blocking, Segment, SegmentName, State, Table};

#[cfg(test)]
mod tests;
