//! Prints what the loader said, and exits with `exit=N` of the command line.

use crate::Guest;
use crate::report::Failure;
use guest::{println, testdev};

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    println!("hello from a guest, entry {}: {}", guest.info.protocol(), guest.info.command_line());
    for range in guest.info.ram() {
        println!("RAM {range}");
    }
    if let Some(module) = guest.info.module() {
        println!("module {module}, bytes {}", module.len());
    }
    match guest.argument("exit") {
        Some(code) => testdev::exit(code as u32),
        None => Ok(()),
    }
}
