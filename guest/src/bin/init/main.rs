//! /init of the tiny Linux: the first process, a static program without a libc.
//!
//! It marks its first instructions by a hypercall (Herald's boot time ends there), mounts what a shell
//! needs, has free memory reported, starts the shell with job control on the console, and powers the machine off when the shell
//! ends. As process 1 it also reaps orphans and obeys the signals of busybox `halt`, `poweroff` and `reboot`.
//! With the argument `measure` (behind `--` on the kernel's command line) it measures instead, and powers off.
#![no_std]
#![no_main]

mod measure;
mod sys;

use core::ptr;
use guest::hypercall;
use sys::{Pipe, Reboot, SIGCHLD, SIGTERM, SIGUSR1, SIGUSR2, SignalSet};

/// The smallest block that the kernel reports to its host as free, as a power of two of pages: 256 KiB. Of its own accord Linux
/// takes 4 MiB, and reports nothing while fewer than 32 such blocks are free.
const REPORTED_ORDER: &str = "6";

/// Bytes of a pipe whose slots, 40 bytes for each page, take more than 128 KiB: a block of [`REPORTED_ORDER`].
const PIPE_OF_ONE_BLOCK: usize = 16 << 20;

const HANDLED: SignalSet = SignalSet::of(&[SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM]);

/// The stack is aligned to 16 bytes at a process's entry (System V ABI 3.4.1), as `call` wants it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "mov rdi, rsp", "call {main}", "ud2", main = sym main)
}

extern "C" fn main(stack: *const usize) -> ! {
    hypercall::mark_init();
    // SAFETY: handed on from the entry.
    if unsafe { sys::first_argument(stack) } == Some(c"measure") {
        measure::all();
        end(Reboot::PowerOff);
    }
    sys::mount(c"proc", c"/proc");
    sys::mount(c"sysfs", c"/sys");
    sys::mount(c"devtmpfs", c"/dev");
    report_free_memory();
    sys::set_host_name("herald");
    HANDLED.block();
    let shell = sys::fork();
    if shell == 0 {
        run_shell();
    }
    if shell < 0 {
        sys::complain("init: cannot fork\n");
        end(Reboot::PowerOff);
    }
    loop {
        match HANDLED.wait() {
            SIGUSR1 => end(Reboot::Halt),
            SIGUSR2 => end(Reboot::PowerOff),
            SIGTERM => end(Reboot::Restart),
            SIGCHLD => reap_all(shell),
            _ => {}
        }
    }
}

/// The first pass of reporting comes 2 s after its start. Where the machine is slow that was before this process was there, for
/// blocks of 4 MiB, and reported nothing with less than 128 MiB free; the next one comes after a block is freed.
fn report_free_memory() {
    sys::set(c"/sys/module/page_reporting/parameters/page_reporting_order", REPORTED_ORDER);
    if let Ok(pipe) = Pipe::new() {
        // A kernel that has no such block has nothing to report either.
        let _ = pipe.widen(PIPE_OF_ONE_BLOCK);
        pipe.close();
    }
}

fn run_shell() -> ! {
    HANDLED.unblock();
    // /dev/console, which the kernel opened for us, cannot become a controlling terminal; the tty behind it
    // can. Another console than the first serial port does without job control.
    sys::open_stdio(c"/dev/ttyS0");
    sys::take_terminal();
    let argv = [c"sh".as_ptr().cast(), ptr::null()];
    let envp = [
        c"PATH=/bin".as_ptr().cast(),
        c"HOME=/".as_ptr().cast(),
        c"TERM=linux".as_ptr().cast(),
        c"PS1=\\h:\\w\\$ ".as_ptr().cast(),
        ptr::null(),
    ];
    sys::exec(c"/bin/sh", &argv, &envp);
    sys::complain("init: cannot execute /bin/sh\n");
    sys::exit(127);
}

/// Signals of one number do not queue: one SIGCHLD can stand for several children.
fn reap_all(shell: isize) {
    while let Some(pid) = sys::reap() {
        if pid == shell {
            end(Reboot::PowerOff);
        }
    }
}

fn end(how: Reboot) -> ! {
    sys::reboot(how);
    // Refused. Process 1 must not exit: that is a kernel panic.
    loop {
        HANDLED.wait();
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::complain("init: panic\n");
    sys::exit(1);
}
