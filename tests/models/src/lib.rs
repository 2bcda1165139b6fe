//! Models of concurrency: the product itself on the simulated machine, in every order of its steps that a bound allows.
//!
//! ```text
//!            setup ──► thread 1 ┐
//!   (alone)            thread 2 ├─ one runs at a time; at each switch point    ──► end: contents, oracle
//!                      thread 3 ┘  the search decides who goes on                  (alone)
//!              ▲                                                                       │
//!              └───────────── again, with the next schedule ───────────────────────────┘
//! ```
//!
//! A switch point is an access to anything that threads have in common: a lock, an atomic, an entry of a table, a flush,
//! a page that is copied, an access of a program through its CPU. To go on with the same thread costs nothing, and so
//! does a switch where a thread waits or ends; a switch away from a thread that could go on is a *preemption*. The
//! search is depth-first over all schedules with at most so many preemptions (Musuvathi and Qadeer, "Iterative Context
//! Bounding", PLDI 2007): most races need one or two. What lies beyond is sampled at random, from a fixed seed.
//!
//! A schedule that fails is printed, and run again alone where the environment variable [`SCHEDULE`] has it.
#![forbid(unsafe_code)]

mod journal;
mod model;
mod programs;
mod search;

pub use model::{Bounds, Failure, Model, Report};
pub use programs::{
    Found, GUEST, Held, Program, Touch, Word, by_device, ends_well, everybody_reads, frame_of, in_memory, map,
};

/// Names the environment variable with the schedule to run: `step:thread,step:thread,...`, as it is printed.
pub const SCHEDULE: &str = "HERALD_MODEL_SCHEDULE";

/// Names the environment variable with the number of preemptions that a search goes to, if that is more than the model's
/// own.
pub const PREEMPTIONS: &str = "HERALD_MODEL_PREEMPTIONS";
