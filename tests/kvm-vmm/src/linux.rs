//! A Linux guest, whose files, command line, memory map and ACPI tables are those that Herald gives one, and the boot protocol too
//! (`firmware`). What KVM has, KVM does: local APIC, I/O APIC, PIC, PIT. The rest of the board is Herald's (`devices`).
//!
//! ```text
//!   /init, by OUT 0xe8 ──► the ticks since the first entry          COM1 ──► what it says, kept until the end
//! ```
//!
//! COM1 interrupts nobody: Linux' log polls it, and so does `/init measure`.

use crate::books::ticks;
use crate::calls::Calls;
use crate::kernel::{self, Files};
use crate::memory::Memory;
use crate::vcpu;
use abi::hypercall::{BY_PORT, MARK_INIT};
use anyhow::{Context, Result, anyhow, ensure};
use devices::{Board, Config, Effect, Ticks};
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_pit_config};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::io::Write;

/// CPUID leaf 1, ECX: x2APIC and the timer of deadlines, which KVM has with its own local APIC, and that there is a hypervisor, so that
/// Linux asks for its clock. KVM leaves it to its user to say so.
const TOLD: u32 = 1 << 21 | 1 << 24 | 1 << 31;
/// CPUID leaf 7, EBX: enhanced `rep movsb` and `stosb`. The processor has them, but KVM's own Linux is told not to use them.
const FAST_BYTES: u32 = 1 << 9;
/// IA32_MISC_ENABLE, and its bit for fast strings.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;

/// Runs it to its end; its status.
pub(crate) fn run(kvm: &Kvm, vm: &VmFd, mut memory: Memory, files: &Files<'_>) -> Result<u8> {
    let bytes = memory.bytes() as u64;
    let entry = kernel::load(files, &mut memory)?;
    vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).context("KVM_CREATE_PIT2")?;
    let _memory = Calls::new(vm, memory)?;
    let mut vcpu = vcpu::create(kvm, vm, 0, tell)?;
    tell_of_fast_strings(&vcpu)?;
    vcpu::begin(&vcpu, &entry)?;
    let board = Board::new(&Config {
        vcpus: 1,
        tsc_hz: u64::from(vcpu.get_tsc_khz().context("KVM_GET_TSC_KHZ")?) * 1000,
        ram_bytes: bytes,
        ram_end: bytes,
        boot_seconds: 0,
        shortest_period: 0,
        balloon: None,
    });
    follow(&mut vcpu, board)
}

/// Whoever samples an emulated machine from outside stops here: the guest is to begin. Nothing else happens.
fn stand_still() {
    // SAFETY: a register is exchanged with itself.
    unsafe { core::arch::asm!("xchg bx, bx", options(nomem, nostack, preserves_flags)) };
}

fn follow(vcpu: &mut VcpuFd, mut board: Board) -> Result<u8> {
    stand_still();
    let (mut said, since) = (Vec::new(), ticks());
    let end = loop {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) => break Err(anyhow!(error).context("KVM_RUN")),
        };
        let now = ticks() - since;
        match exit {
            VcpuExit::IoOut(port, data) if port == u16::from(BY_PORT) && number(data) == MARK_INIT as u32 => {
                said.extend_from_slice(format!("cost: boot, to /init {now}\n").as_bytes());
            }
            VcpuExit::IoOut(port, data) => {
                match board.port_write(port, data.len() as u8, number(data), Ticks(now)) {
                    Effect::PowerOff => break Ok(0),
                    Effect::Exit(status) => break Ok(status as u8),
                    Effect::Reset => break Err(anyhow!("the guest has reset itself")),
                    Effect::None | Effect::ProtectPage(_) | Effect::Balloon => {}
                }
                board.console_output(&mut |bytes| said.extend_from_slice(bytes));
            }
            VcpuExit::IoIn(port, data) => {
                let width = data.len().min(size_of::<u32>());
                let value = board.port_read(port, width as u8, Ticks(now)).to_le_bytes();
                data[..width].copy_from_slice(&value[..width]);
            }
            VcpuExit::MmioRead(_, data) => data.fill(u8::MAX),
            VcpuExit::MmioWrite(..) | VcpuExit::Intr => {}
            other => break Err(anyhow!("the guest ended by {other:?}")),
        }
    };
    std::io::stdout().write_all(&said)?;
    end
}

fn number(data: &[u8]) -> u32 {
    data.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn tell(leaves: &mut Vec<kvm_cpuid_entry2>) {
    for leaf in leaves {
        match (leaf.function, leaf.index) {
            (1, _) => leaf.ecx |= TOLD,
            (7, 0) => leaf.ebx |= FAST_BYTES,
            _ => {}
        }
    }
}

/// Without this bit Linux zeroes and copies in loops, though CPUID tells of fast `rep stosb` (SDM vol. 4, table 2-2). KVM leaves it clear.
fn tell_of_fast_strings(vcpu: &VcpuFd) -> Result<()> {
    let entry = kvm_msr_entry { index: MISC_ENABLE, data: FAST_STRINGS, ..Default::default() };
    let registers = Msrs::from_entries(&[entry]).ok().context("too many MSRs")?;
    ensure!(vcpu.set_msrs(&registers).context("KVM_SET_MSRS")? == 1, "no IA32_MISC_ENABLE");
    Ok(())
}
