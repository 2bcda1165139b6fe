//! The loader as a UEFI application: reads the files of \herald on the volume that it was started from, leaves boot
//! services, and starts Herald.
//!
//! ```text
//!   firmware ──► here ──► \herald (one package) ──► image ──► ExitBootServices ──► trampoline.s ──► Herald
//! ```
//!
//! **What Herald makes of memory.** It may use all that the hand-off calls usable, which is the firmware's memory too once boot
//! services are gone, but for the package, the image and the hand-off itself, which lie there. What it needs until it has
//! tables of its own, this loader's last tables, lies in memory that the map calls reserved ([`start`]).
//!
//! What goes wrong before ExitBootServices is said on the firmware's console, and firmware goes on with another way to
//! boot; all memory is its own again.
#![no_std]
#![no_main]

mod error;
mod files;
mod firmware;
mod pages;
mod start;

use abi::handoff::{HandOff, Loader};
use abi::package::{Kind, Table};
use core::fmt::{Arguments, Write};
use core::time::Duration;
use error::UefiError;
use loader::image::Image;
use loader::{LoadError, efi};
use pages::Pages;
use start::Start;
use uefi::boot::{self, MemoryType};
use uefi::{Status, entry, system, table};

/// How long a message stays, at least.
const TIME_TO_READ: Duration = Duration::from_secs(5);

#[entry]
fn main() -> Status {
    // SAFETY: every processor in 64-bit mode has a TSC, and firmware does not forbid it to itself.
    let start_tsc = unsafe { core::arch::x86_64::_rdtsc() };
    match Loaded::new(start_tsc) {
        Ok(loaded) => loaded.enter(),
        Err(error) => {
            say(format_args!("{error}"));
            boot::stall(TIME_TO_READ);
            error.status()
        }
    }
}

/// Everything in its place.
struct Loaded {
    /// Without the memory map, which changes until the end.
    handoff: HandOff,
    /// Where it goes.
    handoff_pages: Pages,
    start: Start,
    /// The package and the image, which stay when boot services go.
    _kept: [Pages; 2],
}

impl Loaded {
    fn new(start_tsc: u64) -> Result<Self, UefiError> {
        let mut package = files::read_package()?;
        let package_range = package.range();
        let bytes = package.bytes();
        let table = Table::parse(bytes).map_err(LoadError::from)?;
        let elf =
            table.find(Kind::Herald).and_then(|entry| entry.payload(bytes)).ok_or(LoadError::NoHerald)?;
        let image = Image::parse(elf)?;
        let (mut image_pages, place) = Pages::for_image(image.linked())?;
        image.load(image_pages.part(place))?;
        let mut handoff = HandOff::new(Loader::Uefi);
        handoff.package_start = package_range.start().as_u64();
        handoff.package_len = table.total_len();
        handoff.image_start = place.start().as_u64();
        handoff.image_len = place.len();
        handoff.rsdp = firmware::rsdp();
        handoff.screen = firmware::screen();
        handoff.start_tsc = start_tsc;
        let start = Start::new(image.linked(), place, image.entry())?;
        let handoff_pages = Pages::new(size_of::<HandOff>() as u64, MemoryType::LOADER_DATA)?;
        Ok(Self { handoff, handoff_pages, start, _kept: [package, image_pages] })
    }

    /// Leaves boot services and starts Herald. If firmware will not let go, `uefi` resets the machine.
    fn enter(mut self) -> ! {
        // SAFETY: no protocol is open any more, and nothing here is firmware's but the stack, which stays until Herald has
        // its own.
        let map = unsafe { boot::exit_boot_services(None) };
        for region in efi::regions(firmware::descriptors(&map)) {
            // There is room for as many.
            let _ = self.handoff.push_region(region);
        }
        let address = self.handoff_pages.range().start();
        self.handoff.seal_at(address.as_u64());
        self.handoff_pages.put(&self.handoff);
        self.start.jump(address)
    }
}

fn has_boot_services() -> bool {
    // SAFETY: firmware's table stays where it is, and says itself when they are gone.
    table::system_table_raw().is_some_and(|table| !unsafe { table.as_ref() }.boot_services.is_null())
}

/// Says it on the firmware's console, if it has one; boot services are there.
fn say(message: Arguments<'_>) {
    // SAFETY: as above.
    if table::system_table_raw().is_some_and(|table| !unsafe { table.as_ref() }.stdout.is_null()) {
        // A console that fails cannot be told.
        let _ = system::with_stdout(|console| console.write_fmt(format_args!("Herald: {message}\n")));
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if has_boot_services() {
        say(format_args!("loader: {info}"));
        boot::stall(TIME_TO_READ);
        // SAFETY: this image's own handle; nothing of it runs after this.
        let _ = unsafe { boot::exit(boot::image_handle(), Status::ABORTED, 0, core::ptr::null_mut()) };
    }
    loop {
        // SAFETY: nothing is left to do, and nobody to tell.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
