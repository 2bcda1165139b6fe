//! Interrupts and exceptions (SDM 3, 6.10-6.15): one table of 256 gates, each with a stub of 16 bytes that
//! pushes the vector, and an error code where the CPU does not push one.
//!
//! Interrupts are counted and acknowledged: vectors of the PIC (0x20-0x2f) there, all others at the local
//! APIC. An exception that no test has asked for ([`set_exception_hook`]) is printed, and ends the guest with [`EXIT_EXCEPTION`].

use crate::{apic, cpu, pic, println, testdev};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Code of a guest that ended by an exception.
pub const EXIT_EXCEPTION: u32 = 4;

/// Selector of the 64-bit code segment, as the boot code made it.
const CODE: u16 = 8;
/// First vector that is not an exception.
const FIRST_INTERRUPT: u64 = 32;
/// Gate type: present, 64-bit interrupt gate (SDM 3, figure 6-8).
const INTERRUPT_GATE: u8 = 0x8e;
const STUB_BYTES: usize = 16;

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Gate>() == 16);

const EMPTY_GATE: Gate =
    Gate { offset_low: 0, selector: 0, stack: 0, kind: 0, offset_middle: 0, offset_high: 0, reserved: 0 };

struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: `install` alone writes, once, on the only CPU; afterwards only the CPU reads it.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([EMPTY_GATE; 256]));
static COUNTS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];
static LAST_TSC: AtomicU64 = AtomicU64::new(0);
static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static EXCEPTION_HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Operand of LIDT.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// What the stubs leave on the stack, lowest address first; what is changed here is so once the handler has returned.
#[repr(C)]
pub struct Frame {
    /// R15 first, RAX last.
    pub registers: [u64; 15],
    /// Which exception or interrupt.
    pub vector: u64,
    /// Its error code, 0 where it has none.
    pub error: u64,
    /// Where it came.
    pub rip: u64,
    /// In which code segment.
    pub cs: u64,
    /// RFLAGS.
    pub flags: u64,
    /// The stack.
    pub rsp: u64,
    /// Its segment.
    pub ss: u64,
}

global_asm!(
    ".set vector, 0",
    ".global trap_stubs",
    ".balign 16",
    "trap_stubs:",
    ".rept 256",
    ".balign 16",
    // These push an error code of their own: #DF, #TS to #PF, #AC, #CP, #VC, #SX.
    ".set coded, (vector == 8) + (vector == 17) + (vector == 21) + (vector == 29) + (vector == 30)",
    ".if (coded == 0) & ((vector < 10) + (vector > 14) != 0)",
    "push 0",
    ".endif",
    "push vector",
    "jmp trap_common",
    ".set vector, vector + 1",
    ".endr",
    "trap_common:",
    "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp", "push r8",
    "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
    // The CPU aligned RSP to 16 before it pushed five words; 17 more are 176 bytes: aligned again.
    "cld",
    "mov rdi, rsp",
    "call {handle}",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
    "pop rbp", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rbx", "pop rax",
    "add rsp, 16",
    "iretq",
    handle = sym handle,
);

unsafe extern "C" {
    /// Label of the first stub. Not a function to call.
    fn trap_stubs();
}

/// Loads the table. Interrupts are off, and stay so.
///
/// # Safety
/// Called once, with the boot code's segments in place.
pub unsafe fn install() {
    let stubs = (trap_stubs as *const ()).addr();
    let table = TABLE.0.get();
    for vector in 0..256 {
        let stub = stubs + vector * STUB_BYTES;
        let gate = Gate {
            offset_low: stub as u16,
            selector: CODE,
            kind: INTERRUPT_GATE,
            offset_middle: (stub >> 16) as u16,
            offset_high: (stub >> 32) as u32,
            ..EMPTY_GATE
        };
        // SAFETY: the caller's promise: nobody else uses the table yet.
        unsafe { (*table)[vector] = gate };
    }
    load();
}

/// Uses the table on this CPU, too.
pub fn load() {
    let table = TABLE.0.get();
    let pointer = TablePointer { limit: (size_of::<Table>() - 1) as u16, base: table.addr() as u64 };
    // SAFETY: the table is static, and each gate leads to a stub once the first CPU has called `install`.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
}

/// Interrupts that have come at this vector.
#[must_use]
pub fn count(vector: u8) -> u32 {
    COUNTS[usize::from(vector)].load(Ordering::SeqCst)
}

/// TSC at the last interrupt.
#[must_use]
pub fn last_tsc() -> u64 {
    LAST_TSC.load(Ordering::SeqCst)
}

/// Has `hook` called with the vector in each interrupt handler, before the interrupt is acknowledged.
pub fn set_hook(hook: fn(u8)) {
    HOOK.store(hook as *mut (), Ordering::SeqCst);
}

/// Has `hook` called for each exception; whether it was one that the test has asked for.
pub fn set_exception_hook(hook: fn(&mut Frame) -> bool) {
    EXCEPTION_HOOK.store(hook as *mut (), Ordering::SeqCst);
}

fn is_wanted(frame: &mut Frame) -> bool {
    let hook = EXCEPTION_HOOK.load(Ordering::SeqCst);
    if hook.is_null() {
        return false;
    }
    // SAFETY: only `set_exception_hook` stores anything but null, and it stores a function of this type.
    let hook = unsafe { core::mem::transmute::<*mut (), fn(&mut Frame) -> bool>(hook) };
    hook(frame)
}

extern "C" fn handle(frame: &mut Frame) {
    if frame.vector < FIRST_INTERRUPT {
        if is_wanted(frame) {
            return;
        }
        fatal(frame);
    }
    let vector = frame.vector as u8;
    LAST_TSC.store(cpu::rdtsc(), Ordering::SeqCst);
    COUNTS[usize::from(vector)].fetch_add(1, Ordering::SeqCst);
    let hook = HOOK.load(Ordering::SeqCst);
    if !hook.is_null() {
        // SAFETY: only `set_hook` stores anything but null, and it stores a function of this type.
        let hook = unsafe { core::mem::transmute::<*mut (), fn(u8)>(hook) };
        hook(vector);
    }
    if pic::VECTORS.contains(&vector) {
        pic::acknowledge(vector);
    } else {
        apic::LocalApic::current().acknowledge();
    }
}

fn fatal(frame: &Frame) -> ! {
    println!(
        "exception {} error {:#x} at {:#x}, rsp {:#x}, cr2 {:#x}, flags {:#x}",
        frame.vector,
        frame.error,
        frame.rip,
        frame.rsp,
        cpu::cr2(),
        frame.flags
    );
    testdev::exit(EXIT_EXCEPTION)
}
