//! The end of Herald: reason, registers, a back-trace with names, and the machine switched off with status 4.
//!
//! The names come from the boot package (`abi::package::Symbol`), so that the image carries none.

use crate::cpu::{self, descriptors, frame_pointer, traps::Frame};
use crate::link;
use abi::package::Symbol;
use abi::status::Status;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Once;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// Most return addresses of a back-trace.
const DEPTH: usize = 32;

static SYMBOLS: Once<&'static [u8]> = Once::new();
/// The CPU that panics, and 1; 0: none does.
static PANICKING: AtomicUsize = AtomicUsize::new(0);

/// Whether a CPU panics.
pub(crate) fn is_panicking() -> bool {
    PANICKING.load(Ordering::Relaxed) != 0
}

/// Takes the symbol payload of the boot package.
pub(crate) fn use_symbols(payload: &'static [u8]) {
    SYMBOLS.call_once(|| payload);
}

/// A trap that nobody expected.
pub(crate) fn trap(name: &str, error_code: u64, frame: &Frame) -> ! {
    begin();
    log::error!("panic: {name}, error code {error_code:#x}");
    log::error!("{frame}");
    print_address(frame.rip);
    back_trace(frame.frame_pointer());
    link::end_machine(Status::HeraldFailed, 0)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame = frame_pointer();
    begin();
    match info.location() {
        Some(location) => log::error!("panic at {location}: {}", info.message()),
        None => log::error!("panic: {}", info.message()),
    }
    log::error!("rbp {frame:016x}");
    back_trace(frame);
    link::end_machine(Status::HeraldFailed, 0)
}

/// A panic in a panic ends at once; other CPUs let the first one speak.
fn begin() {
    let own = cpu::index() + 1;
    match PANICKING.compare_exchange(0, own, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(first) if first == own => link::end_machine(Status::HeraldFailed, 0),
        Err(_) => cpu::halt(),
    }
}

/// Follows saved frame pointers as long as they stay in a stack and rise.
fn back_trace(mut frame: u64) {
    for _ in 0..DEPTH {
        let valid =
            frame.is_multiple_of(8) && descriptors::in_a_stack(frame) && descriptors::in_a_stack(frame + 8);
        if !valid {
            return;
        }
        // SAFETY: two aligned words in a mapped stack.
        let (next, return_address) =
            unsafe { ((frame as *const u64).read(), (frame as *const u64).add(1).read()) };
        print_address(return_address);
        if next <= frame {
            return;
        }
        frame = next;
    }
}

fn print_address(address: u64) {
    match SYMBOLS.get().and_then(|payload| find(payload, address)) {
        Some((name, offset)) => log::error!("  {address:016x} {name}+{offset:#x}"),
        None => log::error!("  {address:016x}"),
    }
}

/// The function that holds `address`, and how far into it that is.
fn find(payload: &'static [u8], address: u64) -> Option<(&'static str, u64)> {
    let (count, rest) = U32::ref_from_prefix(payload).ok()?;
    let (symbols, names) = <[Symbol]>::ref_from_prefix_with_elems(rest, count.get() as usize).ok()?;
    let index = symbols.partition_point(|symbol| symbol.address.get() <= address).checked_sub(1)?;
    let symbol = symbols.get(index)?;
    let offset = address - symbol.address.get();
    // A return address may be the first after a function that ends in a call.
    if offset > u64::from(symbol.size.get()) {
        return None;
    }
    let start = symbol.name_offset.get() as usize;
    let name = names.get(start..start.checked_add(symbol.name_len.get() as usize)?)?;
    Some((core::str::from_utf8(name).ok()?, offset))
}
