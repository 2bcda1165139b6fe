//! An implicit access, of the LDT, to a user's page with RFLAGS.AC set: SMAP stops it all the same (SDM vol. 3A 4.6.1). An emulator that lets
//! it pass is told of, and no failure; but it comes to an end.

use crate::Guest;
use crate::report::{Failure, same};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use guest::trap::{self, Frame};
use guest::{cpu, println};

const CR4_SMAP: u64 = 1 << 21;
const PAGE_FAULT: u64 = 14;
/// Where the LDT is: nobody else has this half of a TiB.
const LINEAR: u64 = 1 << 39;
/// Present, written, the user's.
const GRANTED: u64 = 0b111;
/// Code and data as the boot code has them, and an LDT of 8 bytes at `LINEAR`, of 16 bytes (SDM vol. 3A 3.4.5, 8.2.3).
const SEGMENTS: [u64; 5] = [
    0,
    0x0020_9b00_0000_0000,
    0x0000_9300_0000_0000,
    0x82 << 40 | 7 | (LINEAR & 0xff_ffff) << 16 | (LINEAR >> 24 & 0xff) << 56,
    LINEAR >> 32,
];
const LDT: u16 = 24;
/// The first of the LDT.
const SELECTOR: u64 = 4;

global_asm!(
    ".pushsection .text",
    // RDI: selector. A page fault comes back as if the function had returned it.
    "implicit_load:",
    "stac",
    "mov es, edi",
    "xor eax, eax",
    "implicit_end:",
    "clac",
    "ret",
    "implicit_refused:",
    "mov eax, 1",
    "jmp implicit_end",
    ".popsection",
);

unsafe extern "sysv64" {
    fn implicit_load(selector: u64) -> u64;
}
unsafe extern "C" {
    static implicit_refused: u8;
}

/// Error code and CR2 of the page fault.
static SEEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn refuse(frame: &mut Frame) -> bool {
    SEEN.iter()
        .zip([frame.error, cpu::cr2()])
        .for_each(|(place, value)| place.store(value, Ordering::SeqCst));
    frame.rip = (&raw const implicit_refused).addr() as u64;
    frame.vector == PAGE_FAULT
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).ebx >> 20 & 1 == 0 {
        println!("implicit: no SMAP");
        return Ok(());
    }
    trap::set_exception_hook(refuse);
    let pages = guest.memory.take(6)?;
    (0..6).for_each(|page| pages.fill(page, |_| 0));
    // SAFETY: the boot code's root, which nobody writes any more.
    let boot = unsafe { core::ptr::with_exposed_provenance::<u64>(cpu::cr3() as usize).read_volatile() };
    pages.write(0, 0, boot);
    pages.write(0, 1, pages.page(1).as_u64() | GRANTED);
    (1..4).for_each(|table| pages.write(table, 0, pages.page(table + 1).as_u64() | GRANTED));
    pages.write(4, 0, SEGMENTS[2]);
    SEGMENTS.into_iter().zip(0..).for_each(|(descriptor, word)| pages.write(5, word, descriptor));
    let base = pages.page(5).as_u64();
    let pointer: [u16; 5] = [size_of_val(&SEGMENTS) as u16 - 1, base as u16, (base >> 16) as u16, 0, 0];
    // SAFETY: the tables map the program, one to one; its segments are in the new table, at their places.
    unsafe {
        cpu::set_cr3(pages.page(0).as_u64());
        asm!("lgdt [{}]", "lldt {:x}", in(reg) &raw const pointer, in(reg) LDT, options(readonly, nostack));
        cpu::set_cr4(cpu::cr4() | CR4_SMAP);
    }
    // SAFETY: ES is no segment of 64-bit code's. A page fault comes back.
    let refused = unsafe { implicit_load(SELECTOR) };
    println!("implicit: {}", if refused == 0 { "passed" } else { "refused" });
    if refused == 0 {
        return Ok(());
    }
    same("error code", 0, 1, SEEN[0].load(Ordering::SeqCst))?;
    same("CR2", 0, LINEAR, SEEN[1].load(Ordering::SeqCst))
}
