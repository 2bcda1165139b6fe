//! The bare-metal tests, in one kernel, which multiboot-1 loaders start, and those that use Linux' 64-bit entry. The command line names the test, with `key=number`
//! arguments beside it; other words are ignored (a loader may put the file's name first).
//!
//! A test that passes prints `NAME: ok` on COM1 and exits with 0. Else a line says what differed, and the
//! code tells more: 1 the test failed, 2 no such test, 3 panic, 4 an exception.
#![no_std]
#![no_main]

mod bigmem;
mod boot;
mod clone;
mod conformance;
mod costs;
mod cpus;
mod crowd;
mod device;
mod dirtylog;
mod fpu;
mod fwcfg;
mod hello;
mod hostops;
mod implicit;
mod interrupts;
mod merge;
mod mmio;
mod mmio_forms;
mod model;
mod notifier;
mod once;
mod pcid;
mod ports;
mod realmode;
mod report;
mod rewrite;
mod smp;
mod snapshot;
mod spin;
mod storm;
mod sweep;
mod timer;
mod triplefault;
mod versus;

use addr::Gpa;
use guest::bootinfo::Info;
use guest::memory::Memory;
use guest::{println, testdev, trap};
use report::Failure;

const EXIT_OK: u32 = 0;
const EXIT_FAILED: u32 = 1;
const EXIT_USAGE: u32 = 2;
const EXIT_PANIC: u32 = 3;

/// What a test gets.
pub(crate) struct Guest {
    info: Info,
    memory: Memory,
}

impl Guest {
    /// The value of `key=number` on the command line, decimal or 0x.
    fn argument(&self, key: &str) -> Option<u64> {
        let value = self.info.command_line().split_ascii_whitespace().find_map(|word| {
            let (name, value) = word.split_once('=')?;
            (name == key).then_some(value)
        })?;
        match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => value.parse().ok(),
        }
    }
}

type Test = fn(&mut Guest) -> Result<(), Failure>;

const TESTS: [(&str, Test); 28] = [
    ("hello", hello::run),
    ("notifier", notifier::run),
    ("costs", costs::run),
    ("crowd", crowd::run),
    ("hostops", hostops::run),
    ("device", device::run),
    ("dirtylog", dirtylog::run),
    ("triplefault", triplefault::run),
    ("mmio", mmio::run),
    ("timer", timer::run),
    ("interrupts", interrupts::run),
    ("ports", ports::run),
    ("fwcfg", fwcfg::run),
    ("fpu", fpu::run),
    ("bigmem", bigmem::run),
    ("smp", smp::run),
    ("realmode", realmode::run),
    ("spin", spin::run),
    ("storm", storm::run),
    ("sweep", sweep::run),
    ("clone", clone::run),
    ("merge", merge::run),
    ("snapshot", snapshot::run),
    ("versus", versus::run),
    ("conformance", conformance::run),
    ("rewrite", rewrite::run),
    ("pcid", pcid::run),
    ("implicit", implicit::run),
];

unsafe extern "C" {
    /// The page-directory-pointer table of the boot code.
    static mut boot_pointers: [u64; 512];
    /// Where the linker script ends the image.
    static image_end: u8;
}

/// Called by the boot code with the loader's magic number, and where its information is.
extern "C" fn main(magic: u32, block: u32) -> ! {
    // SAFETY: the boot code calls `main` once, with its segments and nothing enabled.
    unsafe { trap::install() };
    // SAFETY: the boot code passes the registers on as they were.
    let info = match unsafe { Info::new(magic, block) } {
        Ok(info) => info,
        Err(error) => usage(format_args!("{error}")),
    };
    let end = Gpa::new((&raw const image_end).addr() as u64);
    let pointers = &raw mut boot_pointers;
    // SAFETY: nobody else refers to the table; the memory behind the image is nobody's.
    let memory = match unsafe { Memory::new(&info, end, &mut *pointers) } {
        Ok(memory) => memory,
        Err(error) => usage(format_args!("{error}")),
    };
    let mut words = info.command_line().split_ascii_whitespace();
    let Some((name, test)) = words.find_map(|word| TESTS.iter().find(|(name, _)| *name == word)) else {
        usage(format_args!("no test named in \"{}\"", info.command_line()));
    };
    match test(&mut Guest { info, memory }) {
        Ok(()) => {
            println!("{name}: ok");
            testdev::exit(EXIT_OK)
        }
        Err(failure) => {
            println!("{name}: FAILED: {failure}");
            testdev::exit(EXIT_FAILED)
        }
    }
}

fn usage(reason: core::fmt::Arguments<'_>) -> ! {
    println!("testguest: {reason}");
    for (name, _) in TESTS {
        println!("  {name}");
    }
    testdev::exit(EXIT_USAGE)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{info}");
    testdev::exit(EXIT_PANIC)
}
