//! Registers of a guest that neither the VMCS nor [`crate::vmx::GuestRegisters`] holds: x87 and vector state with XCR0,
//! debug registers, some MSRs. Herald uses none of them, so they stay in the processor while the virtual processor has it,
//! and are saved when another may get it.

use crate::cpu::fpu;
use alloc::vec::Vec;
use core::arch::asm;
use raw_cpuid::CpuId;
use vmxdefs::msr::{self, SWITCHED, TSC_AUX};
use x86::msr::{rdmsr, wrmsr};

/// DR6 after reset (SDM vol. 3A table 10-1).
const DR6: u64 = 0xffff_0ff0;

/// One virtual processor's, while they are not in a processor.
#[derive(Clone)]
pub(super) struct Extended {
    pub(super) vectors: fpu::Area,
    /// XCR0 as the guest has set it.
    pub(super) xcr0: u64,
    /// Values of MSRs, by number.
    pub(super) msrs: Vec<(u32, u64)>,
    /// DR0 to DR3, DR6.
    pub(super) debug: [u64; 5],
}

impl Extended {
    /// The state after reset.
    pub(super) fn new() -> Self {
        let rdtscp = CpuId::new()
            .get_extended_processor_and_feature_identifiers()
            .is_some_and(|features| features.has_rdtscp());
        let numbers = SWITCHED.into_iter().chain(rdtscp.then_some(TSC_AUX));
        Self {
            vectors: fpu::Area::new(),
            xcr0: 1,
            msrs: numbers.map(|number| (number, 0)).collect(),
            debug: [0, 0, 0, 0, DR6],
        }
    }

    /// Whether a processor takes all of it: what it refuses is #GP in Herald.
    pub(super) fn is_legal(&self) -> bool {
        let msrs = self.msrs.iter().all(|&(number, value)| msr::is_legal(number, value));
        // MOV to DR6 (SDM vol. 3B 18.2.6): the upper half is 0.
        msrs && fpu::is_possible(self.xcr0) && self.debug[4] >> 32 == 0
    }

    /// XSETBV by the guest, which has the processor now; `false` where it lacks a component.
    pub(super) fn set_xcr0(&mut self, value: u64) -> bool {
        let done = fpu::set_xcr0(value);
        if done {
            self.xcr0 = value;
        }
        done
    }

    /// Takes everything from the processor.
    pub(super) fn save(&mut self) {
        self.vectors.save();
        for (number, value) in &mut self.msrs {
            // SAFETY: every processor with long mode has these, and TSC_AUX only stands there if it exists.
            *value = unsafe { rdmsr(*number) };
        }
        self.debug = read_debug();
    }

    /// Puts everything into the processor.
    pub(super) fn restore(&self) {
        self.vectors.restore(self.xcr0);
        for (number, value) in &self.msrs {
            // SAFETY: as above; the values are what the processor took from the guest before, or such as it would take
            // (`is_legal`). Herald neither calls by SYSCALL nor uses SWAPGS or RDTSCP.
            unsafe { wrmsr(*number, *value) };
        }
        write_debug(&self.debug);
    }
}

fn read_debug() -> [u64; 5] {
    let mut debug = [0; 5];
    let [dr0, dr1, dr2, dr3, dr6] = &mut debug;
    // SAFETY: reads registers; DR7 is off in root mode (SDM vol. 3C 28.5.1), so nothing can be detected.
    unsafe {
        asm!(
            "mov {}, dr0",
            "mov {}, dr1",
            "mov {}, dr2",
            "mov {}, dr3",
            "mov {}, dr6",
            out(reg) * dr0,
            out(reg) * dr1,
            out(reg) * dr2,
            out(reg) * dr3,
            out(reg) * dr6,
            options(nomem, nostack)
        );
    }
    debug
}

fn write_debug(&[dr0, dr1, dr2, dr3, dr6]: &[u64; 5]) {
    // SAFETY: breakpoints that DR7 does not enable in root mode.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}",
             in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3, in(reg) dr6, options(nomem, nostack));
    }
}
