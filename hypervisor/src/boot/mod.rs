//! From the loader's jump to a Herald with memory, traps and a log.
//!
//! ```text
//!   _start ─► start(hand-off) ─► memory map ─► own tables ─► heap ─► frames ─► traps ─► disks ─► run
//! ```

mod acpi;
mod clock;
mod entry;
mod memory;
mod settings;

use crate::io::{self, Disks};
use crate::physmem::{PhysicalMemory, fixed_bytes};
use crate::{cpu, link, logger, panic};
use abi::config::{BootConfig, Swap};
use abi::handoff::{HandOff, HandOffError};
use abi::package::{Kind, PackageError, Table, file_name};
use addr::{Hpa, HpaRange, PAGE_SHIFT};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mm::Host;
use paging::OutOfTables;
use spin::Mutex;
use startup::acpi::Processor;
use startup::config::ConfigError;
use startup::memory::PlanError;

pub(crate) use clock::{boot_seconds, shortest_period};
pub(crate) use memory::extend_heap;

/// Why Herald cannot start.
#[derive(Clone, Debug)]
pub(crate) enum BootError {
    /// The hand-off is no good.
    HandOff(HandOffError),
    /// The boot package is no good.
    Package(PackageError),
    /// The boot package holds no configuration.
    NoConfig,
    /// The configuration cannot be read.
    Config(postcard::Error),
    /// The configuration file is wrong.
    Settings(ConfigError),
    /// There is not enough memory.
    Memory(PlanError),
    /// The boot package is not in usable memory.
    PackagePlace {
        /// First byte, host physical.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// Tables ran out.
    Tables(OutOfTables),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HandOff(error) => error.fmt(f),
            Self::Package(error) => error.fmt(f),
            Self::NoConfig => f.write_str("the boot package holds no configuration"),
            Self::Config(error) => write!(f, "the configuration cannot be read: {error}"),
            Self::Settings(error) => write!(f, "{}: {error}", file_name::SETTINGS),
            Self::Memory(error) => error.fmt(f),
            Self::PackagePlace { start, len } => {
                write!(f, "the boot package, {len} bytes at {start:#x}, is not in usable memory")
            }
            Self::Tables(error) => write!(f, "not enough memory for Herald itself: {error}"),
        }
    }
}

/// What start-up leaves to the rest of Herald.
pub(crate) struct Machine {
    /// All memory.
    pub memory: Arc<PhysicalMemory>,
    /// The boot package.
    pub package: &'static [u8],
    /// Its entries.
    pub table: Table<'static>,
    /// What to do.
    pub config: BootConfig<'static>,
    /// TSC frequency in Hz.
    pub tsc_hz: u64,
    /// Disks that are Herald's.
    pub disks: Mutex<Disks>,
    /// Processors that firmware knows.
    pub processors: Vec<Processor>,
    /// Where others than this one can be started from.
    pub low_pages: Option<HpaRange>,
}

/// Bytes of the tables of swap, with something to spare: an entry of the memory manager's and one of the device's for each slot.
const fn swap_tables(swap: &Swap) -> u64 {
    let slots = (swap.ram >> PAGE_SHIFT) * tiers::PAGES_PER_FRAME + (swap.disk >> PAGE_SHIFT);
    slots * mm::BYTES_PER_SLOT + slots * tiers::BYTES_PER_SLOT + slots / 2
}

/// Starts everything that needs no guest.
///
/// # Errors
/// [`BootError`].
fn prepare(handoff: Hpa) -> Result<Machine, BootError> {
    let handoff_at = handoff;
    // SAFETY: the loader's promise (`abi::handoff`): RDI holds the address, which is identity-mapped. It is
    // copied here, and checked before anything in it is believed.
    let handoff = unsafe { *(handoff.as_u64() as *const HandOff) };
    handoff.check().map_err(BootError::HandOff)?;
    cpu::screen::init(&handoff.screen);
    let memory = memory::take_over(&handoff, handoff_at)?;
    cpu::screen::use_own_mapping(&handoff.screen);
    cpu::enable_features();
    cpu::descriptors::init();
    cpu::local::init_boot_cpu();
    cpu::traps::init();
    cpu::space::init(memory.root());
    cpu::stacks::init(&memory);
    // SAFETY: the loader has put the package there; it was reserved, and nobody writes to it.
    let package = unsafe { fixed_bytes(Hpa::new(handoff.package_start), handoff.package_len) };
    let table = Table::parse(package).map_err(BootError::Package)?;
    if let Some(symbols) = table.find(Kind::Symbols).and_then(|entry| entry.payload(package)) {
        panic::use_symbols(symbols);
    }
    let config = settings::read(&table, package)?;
    logger::set_level(config.log);
    memory::extend_heap(&memory, swap_tables(&config.swap));
    let processors = acpi::read(&memory, &handoff, handoff_at).map_or(Vec::new(), |found| found.processors);
    cpu::interrupts::init_pic();
    if config.inject.x2apic {
        cpu::timer::switch_to_x2apic_mode();
    }
    cpu::timer::init();
    cpu::local::announce(cpu::timer::id());
    cpu::serial::listen();
    let tsc_hz = if config.tsc_hz == 0 { clock::measure_tsc() } else { config.tsc_hz };
    log::info!(
        "{} MiB of memory, {} MiB free, TSC at {} MHz",
        memory.frames().total() >> 8,
        memory.frames().free_count() >> 8,
        tsc_hz / 1_000_000,
    );
    let disks = Mutex::new(io::probe(&memory, tsc_hz));
    let low_pages = memory::low_pages(&handoff, handoff_at);
    Ok(Machine { memory, package, table, config, tsc_hz, disks, processors, low_pages })
}

/// The first Rust code: the log, then everything else.
extern "sysv64" fn start(handoff: u64) -> ! {
    cpu::local::init_boot_cpu();
    sync::set_current_cpu(cpu::index);
    cpu::serial::init();
    link::init();
    logger::init();
    match prepare(Hpa::new(handoff)) {
        Ok(machine) => crate::run(machine),
        Err(error) => crate::end(crate::failed(&error)),
    }
}
