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
use crate::memory::Memory;
use abi::hypercall::{BY_PORT, MARK_INIT};
use addr::Gpa;
use anyhow::{Context, Result, anyhow, bail, ensure};
use devices::{Board, Config, Effect, Ticks};
use firmware::{Entry, Guest, GuestWriter, Mode, Ram, Segment, WriteError};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, Msrs, kvm_msr_entry, kvm_pit_config, kvm_regs,
    kvm_segment,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::io::Write;

/// CR0: protection, extension type, paging. CR4: PAE. EFER: long mode, enabled and active.
const CR0: u64 = 1 << 31 | 1 << 4 | 1;
const CR4: u64 = 1 << 5;
const EFER: u64 = 1 << 10 | 1 << 8;
/// RFLAGS: the bit that is always set.
const FLAGS: u64 = 2;
/// CPUID leaf 1, ECX: x2APIC and the timer of deadlines, which KVM has with its own local APIC, and that there is a hypervisor, so that
/// Linux asks for its clock. KVM leaves it to its user to say so.
const TOLD: u32 = 1 << 21 | 1 << 24 | 1 << 31;
/// CPUID leaf 7, EBX: enhanced `rep movsb` and `stosb`. The processor has them, but KVM's own Linux was not told of fast strings.
const FAST_BYTES: u32 = 1 << 9;
/// IA32_MISC_ENABLE, and its bit for fast strings.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;

/// What it is started from.
pub(crate) struct Files<'a> {
    pub(crate) kernel: &'a str,
    pub(crate) initrd: &'a str,
    pub(crate) command_line: &'a str,
}

impl GuestWriter for Memory {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        Self::write(self, gpa.as_u64(), bytes).map_err(|_| WriteError::Hole(gpa))
    }
}

/// Runs it to its end; its status.
pub(crate) fn run(kvm: &Kvm, vm: &VmFd, mut memory: Memory, files: &Files<'_>) -> Result<u8> {
    let read = |path: &str| std::fs::read(path).with_context(|| path.to_owned());
    let (kernel, initrd) = (read(files.kernel)?, read(files.initrd)?);
    let bytes = memory.bytes() as u64;
    let guest = Guest {
        kernel: &kernel,
        initrd: Some(&initrd),
        append: files.command_line,
        ram: Ram::new(bytes).map_err(|error| anyhow!("{error}"))?,
        vcpus: 1,
        balloon: false,
    };
    let entry = firmware::boot(&guest, &mut memory).map_err(|error| anyhow!("{error}"))?;
    vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).context("KVM_CREATE_PIT2")?;
    let _memory = Calls::new(vm, memory)?;
    let mut vcpu = create(kvm, vm, &entry)?;
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

fn create(kvm: &Kvm, vm: &VmFd, entry: &Entry) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("KVM_GET_SUPPORTED_CPUID")?;
    let mut leaves = supported.as_slice().to_vec();
    leaves.iter_mut().filter(|leaf| leaf.function == 1).for_each(|leaf| leaf.ecx |= TOLD);
    leaves
        .iter_mut()
        .filter(|leaf| (leaf.function, leaf.index) == (7, 0))
        .for_each(|leaf| leaf.ebx |= FAST_BYTES);
    let leaves = CpuId::from_entries(&leaves).ok().context("too many CPUID leaves")?;
    vcpu.set_cpuid2(&leaves).context("KVM_SET_CPUID2")?;
    tell_of_fast_strings(&vcpu)?;
    let Mode::Long64 { cr3 } = entry.mode else { bail!("not a Linux with an entry in 64-bit mode") };
    let mut system = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    (system.cr0, system.cr3, system.cr4, system.efer) = (CR0, cr3.as_u64(), CR4, EFER);
    (system.gdt.base, system.gdt.limit) = (entry.gdt.base.as_u64(), entry.gdt.limit);
    let data = segment(&entry.data);
    (system.cs, system.tr) = (segment(&entry.code), segment(&entry.task));
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&system).context("KVM_SET_SREGS")?;
    let &Entry { rip, rax, rbx, rsi, .. } = entry;
    vcpu.set_regs(&kvm_regs { rip, rax, rbx, rsi, rflags: FLAGS, ..Default::default() })
        .context("KVM_SET_REGS")?;
    Ok(vcpu)
}

/// Without this bit Linux zeroes and copies in loops, though CPUID tells of fast `rep stosb` (SDM vol. 4, table 2-2). KVM leaves it clear.
fn tell_of_fast_strings(vcpu: &VcpuFd) -> Result<()> {
    let entry = kvm_msr_entry { index: MISC_ENABLE, data: FAST_STRINGS, ..Default::default() };
    let registers = Msrs::from_entries(&[entry]).ok().context("too many MSRs")?;
    ensure!(vcpu.set_msrs(&registers).context("KVM_SET_MSRS")? == 1, "no IA32_MISC_ENABLE");
    Ok(())
}

/// The rights, bit by bit (SDM vol. 3C table 25-2).
fn segment(segment: &Segment) -> kvm_segment {
    let bits = |at: u32, count: u32| (segment.rights >> at & ((1 << count) - 1)) as u8;
    kvm_segment {
        base: u64::from(segment.base),
        limit: segment.limit,
        selector: segment.selector,
        type_: bits(0, 4),
        s: bits(4, 1),
        dpl: bits(5, 2),
        present: bits(7, 1),
        avl: bits(12, 1),
        l: bits(13, 1),
        db: bits(14, 1),
        g: bits(15, 1),
        ..Default::default()
    }
}
