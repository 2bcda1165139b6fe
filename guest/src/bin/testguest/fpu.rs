//! FPU, SSE and AVX registers survive exits of every kind. This program is soft-float: no register of the
//! FPU changes unless these functions do it. FXSAVE image: SDM 1, table 10-2; XSAVE header: 13.4.2.

use crate::Guest;
use crate::report::{Failure, same};
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use guest::memory::Pages;
use guest::{apic, port, println};

/// Bytes of the FXSAVE image up to the last XMM register.
const LEGACY_USED: usize = 416;
/// First byte of the XSAVE header: XSTATE_BV.
const HEADER: usize = 512;
const AREA_BYTES: usize = 1024;
/// x87, SSE and AVX state, as XCR0 and XSTATE_BV have them.
const LEGACY: u64 = 0b11;
const AVX: u64 = 0b111;
const ROUNDS: u64 = 64;

/// An area for FXSAVE and XSAVE.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Area([u8; AREA_BYTES]);

impl Area {
    const ZERO: Self = Self([0; AREA_BYTES]);

    /// Other values in each register each round; the control words stay valid.
    fn patterned(round: u64, avx_offset: Option<usize>) -> Self {
        let mut area = Self::ZERO;
        // FCW: all exceptions masked, the precision varies. MXCSR: masked, the rounding varies.
        area.0[0..2].copy_from_slice(&(0x007f | (round as u16 & 1) << 9).to_le_bytes());
        area.0[24..28].copy_from_slice(&(0x1f80 | (round as u32 & 3) << 13).to_le_bytes());
        // All x87 registers in use (the abridged tag word).
        area.0[4] = 0xff;
        for register in 0..8 {
            area.put(32 + register * 16, 10, round);
        }
        for register in 0..16 {
            area.put(160 + register * 16, 16, round);
        }
        let mut components = LEGACY;
        if let Some(offset) = avx_offset {
            components = AVX;
            area.put(offset, 256, round);
        }
        area.0[HEADER..HEADER + 8].copy_from_slice(&components.to_le_bytes());
        area
    }

    fn put(&mut self, at: usize, len: usize, round: u64) {
        for (index, byte) in self.0[at..at + len].iter_mut().enumerate() {
            *byte = ((at + index) as u64 * 7 + round * 31 + 1) as u8;
        }
    }

    fn compare(&self, loaded: &Self, from: usize, len: usize) -> Result<(), Failure> {
        // Bytes 28 to 31 are MXCSR's mask, which is the CPU's.
        (from..from + len)
            .filter(|at| !(28..32).contains(at))
            .try_for_each(|at| same("byte of FPU state", at as u64, loaded.0[at].into(), self.0[at].into()))
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let pages = guest.memory.take(2 * ROUNDS)?;
    for round in 0..ROUNDS {
        let loaded = Area::patterned(round, None);
        let mut stored = Area::ZERO;
        // SAFETY: both areas are aligned and 512 bytes at least; no Rust code uses the registers.
        unsafe { asm!("fxrstor64 [{}]", in(reg) &raw const loaded, options(readonly, nostack)) };
        cause_exits(&pages, round);
        // SAFETY: as above.
        unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut stored, options(nostack)) };
        stored.compare(&loaded, 0, LEGACY_USED)?;
    }
    match enable_avx() {
        None => println!("fpu: no AVX here"),
        Some(offset) => (0..ROUNDS).try_for_each(|round| avx_round(&pages, round, offset))?,
    }
    Ok(())
}

fn avx_round(pages: &Pages, round: u64, offset: usize) -> Result<(), Failure> {
    let loaded = Area::patterned(round, Some(offset));
    let mut stored = Area::ZERO;
    let mask = AVX as u32;
    // SAFETY: both areas are aligned and large enough (`enable_avx` checked); the header is valid.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) &raw const loaded, in("eax") mask, in("edx") 0, options(readonly, nostack));
    }
    cause_exits(pages, ROUNDS + round);
    // SAFETY: as above.
    unsafe {
        asm!("xsave64 [{}]", in(reg) &raw mut stored, in("eax") mask, in("edx") 0, options(nostack));
    }
    stored.compare(&loaded, 0, LEGACY_USED)?;
    stored.compare(&loaded, offset, 256)
}

/// Turns AVX on where there is any; the offset of its state in an XSAVE area.
fn enable_avx() -> Option<usize> {
    const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
    if __cpuid(1).ecx & XSAVE_AND_AVX != XSAVE_AND_AVX {
        return None;
    }
    let offset = __cpuid_count(0xd, 2).ebx as usize;
    if offset + 256 > AREA_BYTES {
        return None;
    }
    // SAFETY: CPUID shows XSAVE and AVX; CR4 gains OSXSAVE (bit 18) and XCR0 the three components.
    unsafe {
        asm!("mov {0}, cr4", "or {0}, 0x40000", "mov cr4, {0}", out(reg) _, options(nostack));
        asm!("xsetbv", in("ecx") 0, in("eax") AVX as u32, in("edx") 0, options(nostack));
    }
    Some(offset)
}

/// CPUID, a port, a device register and a page fault of the host.
fn cause_exits(pages: &Pages, round: u64) {
    let _ = __cpuid(0);
    let _ = port::read8(0xe0);
    let _ = apic::LocalApic::current().read(apic::VERSION);
    pages.write(round, 0, round);
}
