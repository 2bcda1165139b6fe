//! Linux system calls, x86-64 ABI (arch/x86/entry/syscalls/syscall_64.tbl): number in RAX, arguments in
//! RDI, RSI, RDX, R10, R8, R9, result in RAX, -errno from -4095 to -1. RCX and R11 are lost.

use core::arch::asm;
use core::ffi::CStr;

/// Open for reading and writing (`O_RDWR`).
const O_RDWR: usize = 2;
const SIG_BLOCK: usize = 0;
const SIG_UNBLOCK: usize = 1;
/// Bytes of the kernel's signal set.
const SIGSET_BYTES: usize = 8;
const CLONE_SIGCHLD: usize = 17;
const WNOHANG: usize = 1;
const TIOCSCTTY: usize = 0x540e;
const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
const F_SETPIPE_SZ: usize = 1031;
const REBOOT_MAGIC1: usize = 0xfee1_dead;
const REBOOT_MAGIC2: usize = 672_274_793;

/// `SIGUSR1`: busybox `halt`.
pub(crate) const SIGUSR1: u32 = 10;
/// `SIGUSR2`: busybox `poweroff`.
pub(crate) const SIGUSR2: u32 = 12;
/// `SIGTERM`: busybox `reboot`.
pub(crate) const SIGTERM: u32 = 15;
/// `SIGCHLD`: a child ended.
pub(crate) const SIGCHLD: u32 = 17;

/// What reboot(2) shall do (include/uapi/linux/reboot.h).
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Reboot {
    /// Start again.
    Restart = 0x0123_4567,
    /// Stop, power stays on.
    Halt = 0xcdef_0123,
    /// Stop, power off.
    PowerOff = 0x4321_fedc,
}

#[repr(transparent)]
struct Number(usize);

const READ: Number = Number(0);
const MMAP: Number = Number(9);
const MPROTECT: Number = Number(10);
const MUNMAP: Number = Number(11);
const PIPE: Number = Number(22);
const GETPPID: Number = Number(110);
const IOCTL: Number = Number(16);
const RT_SIGPROCMASK: Number = Number(14);
const DUP2: Number = Number(33);
const OPEN: Number = Number(2);
const WRITE: Number = Number(1);
const CLOSE: Number = Number(3);
const FCNTL: Number = Number(72);
const CLONE: Number = Number(56);
const EXECVE: Number = Number(59);
const EXIT: Number = Number(60);
const WAIT4: Number = Number(61);
const SETSID: Number = Number(112);
const RT_SIGTIMEDWAIT: Number = Number(128);
const MOUNT: Number = Number(165);
const REBOOT: Number = Number(169);
const IOPL: Number = Number(172);
const SETHOSTNAME: Number = Number(170);

/// A system call that has to succeed, and has not.
pub(crate) struct Refusal {
    /// Which one.
    pub(crate) what: &'static str,
    /// Its error (`errno`).
    pub(crate) error: isize,
}

/// The result of `what`, unless it is an error.
fn accepted(what: &'static str, result: isize) -> Result<isize, Refusal> {
    if result < 0 { Err(Refusal { what, error: -result }) } else { Ok(result) }
}

/// Arguments that are left out are 0.
///
/// # Safety
/// Pointers among the arguments must be good for what the call reads and writes.
unsafe fn call<const N: usize>(number: &Number, args: [usize; N]) -> isize {
    let mut six = [0; 6];
    six[..N].copy_from_slice(&args);
    let args = six;
    let result;
    // SAFETY: the ABI above; what the kernel writes is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number.0 => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

fn address(text: &CStr) -> usize {
    text.as_ptr() as usize
}

/// Mounts the pseudo file system `kind` at `target`. A failure (not configured) is not fatal.
pub(crate) fn mount(kind: &CStr, target: &CStr) {
    // SAFETY: both strings end in NUL and outlive the call; the option pointer may be null.
    unsafe { call(&MOUNT, [address(kind), address(target), address(kind), 0, 0]) };
}

/// Sets the host name.
pub(crate) fn set_host_name(name: &str) {
    // SAFETY: the kernel reads `len` bytes.
    unsafe { call(&SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0]) };
}

/// Opens `path` for reading and writing as file descriptors 0, 1 and 2; false if that fails.
pub(crate) fn open_stdio(path: &CStr) -> bool {
    // SAFETY: a NUL-terminated path; the other arguments are numbers.
    let fd = unsafe { call(&OPEN, [address(path), O_RDWR, 0, 0, 0]) };
    let Ok(fd) = usize::try_from(fd) else {
        return false;
    };
    for target in 0..3 {
        // SAFETY: numbers only.
        unsafe { call(&DUP2, [fd, target, 0, 0, 0]) };
    }
    true
}

/// Writes a setting of the kernel's, if it has it.
pub(crate) fn set(path: &CStr, value: &str) {
    // SAFETY: a NUL-terminated path; the other arguments are numbers.
    let fd = unsafe { call(&OPEN, [address(path), O_RDWR, 0, 0, 0]) };
    let Ok(fd) = usize::try_from(fd) else { return };
    // SAFETY: the kernel reads `len` bytes of the value, and closes what was opened here.
    unsafe {
        call(&WRITE, [fd, value.as_ptr() as usize, value.len(), 0, 0]);
        call(&CLOSE, [fd, 0, 0, 0, 0]);
    }
}

/// Writes to standard error.
pub(crate) fn complain(text: &str) {
    // SAFETY: the kernel reads `len` bytes.
    unsafe { call(&WRITE, [2, text.as_ptr() as usize, text.len(), 0, 0]) };
}

/// Makes the caller the leader of a new session whose controlling terminal is file descriptor 0.
pub(crate) fn take_terminal() {
    // SAFETY: numbers only.
    unsafe {
        call(&SETSID, [0; 5]);
        call(&IOCTL, [0, TIOCSCTTY, 0, 0, 0]);
    }
}

/// A set of signals, as the kernel has it: bit N-1 is signal N.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct SignalSet(u64);

impl SignalSet {
    /// The set of these signals.
    pub(crate) const fn of(signals: &[u32]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < signals.len() {
            bits |= 1 << (signals[index] - 1);
            index += 1;
        }
        Self(bits)
    }

    fn address(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    /// Keeps these signals pending until [`Self::wait`] takes them.
    pub(crate) fn block(&self) {
        // SAFETY: the kernel reads eight bytes; the old set is not asked for.
        unsafe { call(&RT_SIGPROCMASK, [SIG_BLOCK, self.address(), 0, SIGSET_BYTES, 0]) };
    }

    /// Undoes [`Self::block`].
    pub(crate) fn unblock(&self) {
        // SAFETY: as in `block`.
        unsafe { call(&RT_SIGPROCMASK, [SIG_UNBLOCK, self.address(), 0, SIGSET_BYTES, 0]) };
    }

    /// Sleeps until one of these (blocked) signals is pending, and takes it. 0 if interrupted.
    pub(crate) fn wait(&self) -> u32 {
        // SAFETY: the kernel reads eight bytes; no siginfo and no time-out are given.
        let signal = unsafe { call(&RT_SIGTIMEDWAIT, [self.address(), 0, 0, SIGSET_BYTES, 0]) };
        u32::try_from(signal).unwrap_or(0)
    }
}

/// Copies the process: 0 in the child, the child's process number in the parent, else -errno.
pub(crate) fn fork() -> isize {
    // SAFETY: without CLONE_VM the child has memory of its own; a zero stack keeps the parent's address.
    unsafe { call(&CLONE, [CLONE_SIGCHLD, 0, 0, 0, 0]) }
}

/// The same, where a copy has to be.
///
/// # Errors
/// The kernel has refused.
pub(crate) fn try_fork() -> Result<isize, Refusal> {
    accepted("fork", fork())
}

/// Becomes another program. Returns only if that failed.
pub(crate) fn exec(path: &CStr, argv: &[*const u8], envp: &[*const u8]) {
    // SAFETY: `path` is NUL-terminated and both arrays end in a null pointer, as main.rs builds them.
    unsafe { call(&EXECVE, [address(path), argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0]) };
}

/// Collects one child that has ended; its process number, or `None` if there is no such child.
pub(crate) fn reap() -> Option<isize> {
    // SAFETY: neither status nor usage is asked for; all children are meant (-1).
    let pid = unsafe { call(&WAIT4, [usize::MAX, 0, WNOHANG, 0, 0]) };
    (pid > 0).then_some(pid)
}

/// Ends this process.
pub(crate) fn exit(code: usize) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { call(&EXIT, [code, 0, 0, 0, 0]) };
    }
}

/// Ends the machine. Returns if the kernel refuses, or for `Halt` never.
pub(crate) fn reboot(how: Reboot) {
    // SAFETY: numbers only.
    unsafe { call(&REBOOT, [REBOOT_MAGIC1, REBOOT_MAGIC2, how as usize, 0, 0]) };
}

/// The first word behind the program's own name, among those that a process finds on its stack (System V ABI 3.4.1). The kernel
/// hands /init what is behind `--` on its own command line.
///
/// # Safety
/// `stack` is what RSP was at the process's entry.
pub(crate) unsafe fn first_argument(stack: *const usize) -> Option<&'static CStr> {
    // SAFETY: the caller's promise: a count, so many pointers to texts that end in NUL and stay, and a null pointer.
    unsafe { (stack.read() > 1).then(|| CStr::from_ptr((stack.add(2).read() as *const u8).cast())) }
}

/// Waits until a child has ended.
///
/// # Errors
/// There is none.
pub(crate) fn wait() -> Result<(), Refusal> {
    // SAFETY: neither status nor usage is asked for; all children are meant (-1).
    accepted("wait4", unsafe { call(&WAIT4, [usize::MAX, 0, 0, 0]) }).map(drop)
}

/// Lets this process use all ports (iopl 3); whether the kernel does.
pub(crate) fn allow_ports() -> bool {
    // SAFETY: numbers only.
    unsafe { call(&IOPL, [3]) == 0 }
}

/// A system call that does next to nothing.
pub(crate) fn parent() {
    // SAFETY: no arguments.
    unsafe { call(&GETPPID, []) };
}

/// A channel between processes: where it is read, and where it is written.
#[derive(Clone, Copy)]
pub(crate) struct Pipe([i32; 2]);

impl Pipe {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives none.
    pub(crate) fn new() -> Result<Self, Refusal> {
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two numbers.
        let result = unsafe { call(&PIPE, [ends.as_mut_ptr() as usize]) };
        accepted("pipe", result).map(|_| Self(ends))
    }

    /// Makes it wide enough for so many bytes, in pages.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub(crate) fn widen(&self, bytes: usize) -> Result<(), Refusal> {
        // SAFETY: no pointers.
        let result = unsafe { call(&FCNTL, [self.0[1] as usize, F_SETPIPE_SZ, bytes]) };
        accepted("fcntl", result).map(drop)
    }

    /// Closes both ends.
    pub(crate) fn close(self) {
        for end in self.0 {
            // SAFETY: no pointers.
            unsafe { call(&CLOSE, [end as usize]) };
        }
    }

    /// Sends a byte.
    ///
    /// # Errors
    /// Nobody can read it.
    pub(crate) fn send(&self) -> Result<(), Refusal> {
        // SAFETY: the kernel reads one byte.
        let sent = unsafe { call(&WRITE, [self.0[1] as usize, (&raw const *b"." as usize), 1]) };
        accepted("write", sent).map(drop)
    }

    /// Waits for a byte.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn receive(&self) -> Result<(), Refusal> {
        let mut byte = 0u8;
        // SAFETY: the kernel writes one byte.
        let received = unsafe { call(&READ, [self.0[0] as usize, &raw mut byte as usize, 1]) };
        accepted("read", received).map(drop)
    }
}

/// Anonymous memory of this process.
pub(crate) struct Pages {
    start: *mut u8,
    count: usize,
}

impl Pages {
    const BYTES: usize = 4096;

    /// So many pages that nobody has touched.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn new(count: usize) -> Result<Self, Refusal> {
        let (rights, none) = (PROT_READ | PROT_WRITE, usize::MAX);
        // SAFETY: a new mapping, wherever there is room.
        let start = unsafe { call(&MMAP, [0, count * Self::BYTES, rights, MAP_PRIVATE_ANONYMOUS, none, 0]) };
        accepted("mmap", start).map(|start| Self { start: start as *mut u8, count })
    }

    /// Writes to each.
    pub(crate) fn touch(&mut self) {
        for page in 0..self.count {
            // SAFETY: inside the mapping, which is written nowhere else; only before `protect` (below).
            unsafe { self.start.add(page * Self::BYTES).write_volatile(1) };
        }
    }

    /// Forbids to write to them: the last that is done with them but for their end.
    ///
    /// # Errors
    /// The kernel has refused.
    pub(crate) fn protect(self) -> Result<Protected, Refusal> {
        // SAFETY: they are of a mapping of this process, and nobody writes to them any more.
        let result = unsafe { call(&MPROTECT, [self.start as usize, self.count * Self::BYTES, PROT_READ]) };
        accepted("mprotect", result).map(|_| Protected { _pages: self })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: a mapping of this process, which nobody uses any more.
        unsafe { call(&MUNMAP, [self.start as usize, self.count * Self::BYTES]) };
    }
}

/// Pages that can only be read.
pub(crate) struct Protected {
    _pages: Pages,
}
