//! Programs in bytes, on a machine of RAM.

mod computer;
mod entry;
#[cfg(feature = "kernel")]
mod kernel;
mod oracle;
mod programs;
mod startup;
