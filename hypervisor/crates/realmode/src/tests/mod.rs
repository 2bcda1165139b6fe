//! Programs in bytes, on a machine of RAM.

mod computer;
mod oracle;
