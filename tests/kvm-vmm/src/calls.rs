//! The calls, each by the system call that does the same. Ticks are those of the system call alone.
//!
//! | call | here |
//! |---|---|
//! | discard | madvise(DONTNEED) |
//! | protect, read-only, writable | mprotect |
//! | fork, end of forks | fork, of a child that sleeps until it is killed |
//! | logs | KVM_SET_USER_MEMORY_REGION with KVM_MEM_LOG_DIRTY_PAGES, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG of the range |
//! | cold | madvise(PAGEOUT): pages that it finds young it makes old, and leaves |
//! | page out | madvise(PAGEOUT), of pages that are old |
//! | age all | lru_gen |
//! | merge | madvise(MERGEABLE), and ksmd until it has been round once more |

use crate::books::{self, AgingPass, ticks};
use crate::dirty_log;
use crate::memory::{Memory, Range, Rights};
use abi::hypercall::{DISCARD, FAILED, HOST_OPERATION, HostOperation as Op, PROTECT, UNKNOWN};
use anyhow::{Context, Result};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use rustix::mm::Advice;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::time::Duration;

const PAGE: u64 = 4096;
/// What ksmd is to do (Linux: Documentation/admin-guide/mm/ksm.rst).
const STOP: u64 = 0;
const GO: u64 = 1;
const UNMERGE: u64 = 2;
/// Between two looks at how far ksmd is.
const MOMENT: Duration = Duration::from_millis(1);

/// What a call answers, and what the system call took.
pub(crate) struct Answer {
    pub(crate) value: u64,
    pub(crate) ticks: u64,
}

/// Who answers them.
pub(crate) struct Calls<'a> {
    vm: &'a VmFd,
    memory: Memory,
    children: Vec<Pid>,
}

/// Runs `what`; the ticks that it took.
fn timed(what: impl FnOnce() -> Result<()>) -> Result<Answer> {
    let since = ticks();
    what()?;
    Ok(Answer { value: 0, ticks: ticks() - since })
}

const fn counter(value: u64) -> Answer {
    Answer { value, ticks: 0 }
}

impl<'a> Calls<'a> {
    /// Gives the memory to the machine, in one slot. What was merged before is parted, so that counts begin at nothing.
    pub(crate) fn new(vm: &'a VmFd, memory: Memory) -> Result<Self> {
        books::set_ksm("run", UNMERGE)?;
        books::set_ksm("run", STOP)?;
        dirty_log::enable(vm)?;
        let calls = Self { vm, memory, children: Vec::new() };
        calls.set_slot(0)?;
        Ok(calls)
    }

    fn set_slot(&self, flags: u32) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags,
            guest_phys_addr: 0,
            memory_size: self.memory.bytes() as u64,
            userspace_addr: self.memory.address(),
        };
        // SAFETY: the memory is mapped to the end of the program.
        unsafe { self.vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")
    }

    /// Answers the call in the guest's registers.
    pub(crate) fn answer(&mut self, registers: &kvm_regs) -> Answer {
        self.perform(registers).unwrap_or_else(|error| {
            eprintln!("kvm-vmm: call {:#x}, {}: {error:#}", registers.rax, registers.rdx);
            counter(FAILED)
        })
    }

    fn perform(&mut self, registers: &kvm_regs) -> Result<Answer> {
        let (gpa, len) = (registers.rbx, registers.rcx);
        let range = self.memory.range(gpa, len)?;
        match registers.rax {
            DISCARD => timed(|| range.advise(Advice::LinuxDontNeed)),
            PROTECT => timed(|| {
                range.protect(Rights::None)?;
                range.protect(Rights::ReadWrite)
            }),
            HOST_OPERATION => match Op::from_u64(registers.rdx) {
                Some(operation) => self.operation(operation, range, gpa, len),
                None => Ok(counter(UNKNOWN)),
            },
            _ => Ok(counter(UNKNOWN)),
        }
    }

    fn operation(&mut self, operation: Op, range: Range, gpa: u64, len: u64) -> Result<Answer> {
        match operation {
            Op::Nothing => Ok(counter(0)),
            Op::Exits => books::kvm("exits").map(counter),
            Op::Flushes => books::kvm("tlb_flush").map(counter),
            Op::ReadOnly => timed(|| range.protect(Rights::Read)),
            Op::Writable => timed(|| range.protect(Rights::ReadWrite)),
            Op::HugePages => timed(|| range.advise(Advice::LinuxHugepage)),
            Op::AgeAll => {
                let pass = AgingPass::next()?;
                timed(|| pass.run())
            }
            Op::Cold => timed(|| range.advise(Advice::LinuxPageOut)),
            Op::PageOut => {
                let before = books::swapped()?;
                let answer = timed(|| range.advise(Advice::LinuxPageOut))?;
                Ok(Answer { value: books::swapped()? - before, ..answer })
            }
            Op::Fork => timed(|| self.fork()),
            Op::DropForks => timed(|| self.end_children()),
            Op::BeginLog => timed(|| self.set_slot(KVM_MEM_LOG_DIRTY_PAGES)),
            Op::Harvest => self.harvest(gpa, len),
            Op::EndLog => timed(|| self.set_slot(0)),
            Op::Merge => merge(range),
            _ => Ok(counter(UNKNOWN)),
        }
    }

    fn fork(&mut self) -> Result<()> {
        // SAFETY: the child only sleeps, and holds what it has from its parent.
        match unsafe { libc::fork() } {
            -1 => Err(std::io::Error::last_os_error()).context("fork"),
            0 => loop {
                // SAFETY: waits for a signal, which ends it.
                unsafe { libc::pause() };
            },
            child => {
                self.children.extend(Pid::from_raw(child));
                Ok(())
            }
        }
    }

    fn end_children(&mut self) -> Result<()> {
        for child in self.children.drain(..) {
            kill_process(child, Signal::KILL).context("kill")?;
            waitpid(Some(child), WaitOptions::empty()).context("waitpid")?;
        }
        Ok(())
    }

    /// The log of all RAM, and the next one of the range begins; the pages of the range in it.
    fn harvest(&self, gpa: u64, len: u64) -> Result<Answer> {
        let since = ticks();
        let mut bitmap = self.vm.get_dirty_log(0, self.memory.bytes()).context("KVM_GET_DIRTY_LOG")?;
        let pages = gpa / PAGE..(gpa + len) / PAGE;
        dirty_log::clear(self.vm, &mut bitmap, &pages)?;
        let ticks = ticks() - since;
        let is_set = |page: &u64| bitmap[(page / 64) as usize] >> (page % 64) & 1 == 1;
        Ok(Answer { value: pages.filter(is_set).count() as u64, ticks })
    }
}

/// One round of ksmd, without a pause, as long as it takes by the clock; the pages that have become others.
fn merge(range: Range) -> Result<Answer> {
    let before = books::ksm("pages_sharing")?;
    books::set_ksm("sleep_millisecs", 0)?;
    books::set_ksm("pages_to_scan", 1 << 16)?;
    let rounds = books::ksm("full_scans")?;
    let answer = timed(|| {
        range.advise(Advice::LinuxMergeable)?;
        books::set_ksm("run", GO)?;
        while books::ksm("full_scans")? == rounds {
            std::thread::sleep(MOMENT);
        }
        books::set_ksm("run", STOP)
    })?;
    Ok(Answer { value: books::ksm("pages_sharing")?.saturating_sub(before), ..answer })
}
