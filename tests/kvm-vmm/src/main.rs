//! A small monitor for Linux' KVM: the other side of `cargo xtask bench --vs kvm`. It runs one kernel on one
//! virtual processor, or two, and answers the calls that Herald's test guests make, by the system calls that do the same.
//!
//! ```text
//!   guest ── OUT 0xe8: call, range ──► KVM ──► this program ──► madvise, mprotect, fork, KVM_GET_DIRTY_LOG, ksmd, lru_gen
//!         ── OUT 0x3f8 ──► what it says, kept until the end: a console would interrupt what is measured
//!         ── OUT 0xf4 ──► the end, with that status
//! ```
//!
//! Usage: `kvm-vmm KERNEL MIB COMMAND-LINE`. `abi::hypercall` has the calls. With a fourth argument, an initial RAM disk, the
//! kernel is a Linux, on a board like Herald's ([`linux`]). `--second` before all: with a second virtual processor ([`second`]).

mod books;
mod calls;
mod dirty_log;
mod kernel;
mod linux;
mod memory;
mod second;
mod vcpu;

use abi::hypercall::{BY_PORT_SIGNATURE, CPUID_LEAF};
use anyhow::{Context, Result, bail};
use calls::Calls;
use kernel::Files;
use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::{Kvm, VcpuExit, VmFd};
use memory::Memory;
use second::Second;
use std::io::Write;
use std::process::ExitCode;

const CONSOLE: u16 = 0x3f8;
const LINE_STATUS: u16 = CONSOLE + 5;
/// Line status: the transmitter is empty.
const READY: u8 = 0x60;
/// Where Intel's processors of old want a task-state segment of KVM's own: below the BIOS, outside RAM.
const TASK_STATE: usize = 0xfffb_d000;

fn main() -> ExitCode {
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("kvm-vmm: {error:#}");
            ExitCode::from(4)
        }
    }
}

fn run() -> Result<u8> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let has_second = arguments.first().is_some_and(|first| first == "--second");
    arguments.drain(..usize::from(has_second));
    let [kernel, mib, command_line, initrd @ ..] = &arguments[..] else {
        bail!("usage: kvm-vmm [--second] KERNEL MIB COMMAND-LINE [INITRD]")
    };
    let mib: usize = mib.parse().with_context(|| format!("`{mib}` MiB"))?;
    let files = Files { kernel, initrd: initrd.first().map(String::as_str), command_line };
    let kvm = Kvm::new().context("/dev/kvm")?;
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    vm.set_tss_address(TASK_STATE).context("KVM_SET_TSS_ADDR")?;
    let memory = Memory::new(mib << 20)?;
    if files.initrd.is_some() {
        linux::run(&kvm, &vm, memory, &files)
    } else {
        bench(&kvm, &vm, memory, &files, has_second)
    }
}

/// Runs the test guest to its end; its status.
fn bench(kvm: &Kvm, vm: &VmFd, mut memory: Memory, files: &Files<'_>, has_second: bool) -> Result<u8> {
    let entry = kernel::load(files, &mut memory)?;
    let mut calls = Calls::new(vm, memory)?;
    let second = has_second.then(|| Second::create(kvm, vm, tell_of_calls)).transpose()?;
    let mut vcpu = vcpu::create(kvm, vm, 0, tell_of_calls)?;
    vcpu::begin(&vcpu, &entry)?;
    let mut said = Vec::new();
    loop {
        match vcpu.run().context("KVM_RUN")? {
            VcpuExit::IoOut(port, _) if port == u16::from(abi::hypercall::BY_PORT) => {
                let since = books::ticks();
                let mut registers = vcpu.get_regs().context("KVM_GET_REGS")?;
                let answer = calls.answer(&registers);
                registers.rax = answer.value;
                registers.rdx = books::ticks() - since - answer.ticks;
                vcpu.set_regs(&registers).context("KVM_SET_REGS")?;
            }
            VcpuExit::IoOut(CONSOLE, data) => said.extend_from_slice(data),
            VcpuExit::IoOut(abi::testdev::EXIT, data) => {
                std::io::stdout().write_all(&said)?;
                return Ok(data.first().copied().unwrap_or_default());
            }
            VcpuExit::IoIn(LINE_STATUS, data) => data.fill(READY),
            VcpuExit::IoIn(_, data) => data.fill(u8::MAX),
            VcpuExit::MmioWrite(address, data) if has_second => {
                second.iter().try_for_each(|second| second.apic_written(address, data))?;
            }
            VcpuExit::IoOut(..) | VcpuExit::Intr => {}
            other => {
                let reason = format!("{other:?}");
                std::io::stdout().write_all(&said)?;
                bail!("the guest ended by {reason}");
            }
        }
    }
}

/// Has CPUID say how calls are made here.
fn tell_of_calls(leaves: &mut Vec<kvm_cpuid_entry2>) {
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| BY_PORT_SIGNATURE[at + byte]));
    let (ebx, ecx, edx) = (word(0), word(4), word(8));
    leaves.push(kvm_cpuid_entry2 {
        function: CPUID_LEAF,
        eax: CPUID_LEAF,
        ebx,
        ecx,
        edx,
        ..Default::default()
    });
}
