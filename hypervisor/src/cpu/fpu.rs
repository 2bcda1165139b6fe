//! x87 and vector registers, and XCR0, which says what of them there is (SDM vol. 1 ch. 13). Herald is built without them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use raw_cpuid::CpuId;
use spin::Once;
use x86::controlregs::{Xcr0, xcr0_write};

/// Components of state that a guest can have: x87, SSE, AVX.
const OFFERED: u64 = 0b111;
/// Bytes that FXSAVE writes.
const LEGACY_BYTES: u32 = 512;
/// FCW and MXCSR after reset (SDM vol. 3A table 10-1), and where they lie.
const FCW: (usize, [u8; 2]) = (0, [0x7f, 0x03]);
const MXCSR: (usize, [u8; 2]) = (24, [0x80, 0x1f]);

/// What the processor has.
struct Support {
    /// The components among those offered; 0 where there is no XSAVE.
    components: u64,
    /// Bytes for all that XCR0 can name.
    bytes: u32,
}

fn support() -> &'static Support {
    static SUPPORT: Once<Support> = Once::new();
    SUPPORT.call_once(|| {
        if !CpuId::new().get_feature_info().is_some_and(|features| features.has_xsave()) {
            return Support { components: 0, bytes: LEGACY_BYTES };
        }
        // Leaf 0xd: EDX:EAX has the bits that XCR0 may have, ECX the bytes for all of them (SDM vol. 1 13.3).
        let leaf = __cpuid_count(0xd, 0);
        Support { components: u64::from(leaf.eax) & OFFERED, bytes: leaf.ecx.max(LEGACY_BYTES + 64) }
    })
}

/// Whether this processor has such an XCR0: x87 is in it, and SSE where AVX is (SDM vol. 1 13.3).
fn is_legal(value: u64) -> bool {
    value & !support().components == 0 && value & 1 != 0 && value & 0b110 != 0b100
}

/// Whether a virtual processor can have such an XCR0 here: also the one after reset, where there is no XSAVE.
#[must_use]
pub(crate) fn is_possible(xcr0: u64) -> bool {
    xcr0 == 1 || is_legal(xcr0)
}

/// Sets XCR0, which Herald itself has no use for; `false` where the processor lacks XSAVE or a component.
#[must_use]
pub(crate) fn set_xcr0(value: u64) -> bool {
    let legal = is_legal(value);
    if legal {
        // SAFETY: all components exist, x87 among them, and CR4.OSXSAVE is set where there is XSAVE.
        unsafe { xcr0_write(Xcr0::from_bits_unchecked(value)) };
    }
    legal
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Memory for the registers.
#[derive(Clone)]
pub(crate) struct Area(Box<[Line]>);

impl Area {
    /// The state after reset. The header behind the legacy part says that XSAVE's components are in it.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut lines = vec![Line([0; 64]); support().bytes.div_ceil(64) as usize].into_boxed_slice();
        for (place, bytes) in [FCW, MXCSR] {
            lines[0].0[place..place + 2].copy_from_slice(&bytes);
        }
        Self(lines)
    }

    /// The bytes, in the standard format of XSAVE (SDM vol. 1 13.4).
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|line| line.0).collect()
    }

    /// Takes the bytes of another one, which may be of another length: what both have in common lies where it lies in each.
    /// `false`: there is not even the legacy part, or a header that this processor would refuse.
    #[must_use]
    pub(crate) fn adopt(&mut self, bytes: &[u8]) -> bool {
        let header = LEGACY_BYTES as usize..LEGACY_BYTES as usize + 64;
        // What FXSAVE has left has no header: x87 and SSE are there.
        let mut with_header;
        let bytes = if bytes.len() == header.start {
            with_header = bytes.to_vec();
            with_header.resize(header.end, 0);
            with_header[header.start] = (support().components & 0b11) as u8;
            &with_header[..]
        } else {
            bytes
        };
        // The components that are there, then zeros (SDM vol. 1 13.4.2); bits of MXCSR that are none (10.2.3).
        let Some((components, rest)) = bytes.get(header).and_then(|header| header.split_first_chunk()) else {
            return false;
        };
        let mxcsr = bytes[MXCSR.0 + 2..MXCSR.0 + 4] == [0; 2];
        let known = u64::from_le_bytes(*components) & !support().components == 0;
        if !mxcsr || !known || rest.iter().any(|&byte| byte != 0) {
            return false;
        }
        self.0.iter_mut().zip(bytes.chunks(64)).for_each(|(line, bytes)| {
            line.0[..bytes.len()].copy_from_slice(bytes);
        });
        true
    }

    /// Takes them from the processor.
    pub(crate) fn save(&mut self) {
        let (area, components) = (self.0.as_mut_ptr(), support().components);
        // SAFETY: the area is as large as the processor asks for, and aligned to 64 bytes. All components are
        // enabled, so that none is left out that the guest has switched off meanwhile.
        unsafe {
            if set_xcr0(components) {
                asm!("xsave64 [{}]", in(reg) area, in("eax") components as u32, in("edx") 0, options(nostack));
            } else {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack));
            }
        }
    }

    /// Puts them into the processor, and XCR0 besides.
    pub(crate) fn restore(&self, xcr0: u64) {
        let (area, components) = (self.0.as_ptr(), support().components);
        // SAFETY: as above; the area holds what was saved, or the state after reset.
        unsafe {
            if set_xcr0(components) {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") components as u32, in("edx") 0, options(nostack));
                let restored = set_xcr0(xcr0);
                debug_assert!(restored, "XCR0 {xcr0:#x} was legal before");
            } else {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack));
            }
        }
    }
}
