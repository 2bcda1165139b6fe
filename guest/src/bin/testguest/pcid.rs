//! PCIDs: the rules of CR4.PCIDE, CR3 and INVPCID, and what each flush drops, against the SDM (vol. 3A 4.10, vol. 2A INVPCID). Without PCIDs: that
//! there are none.
//!
//! ```text
//!   PCID 1, PCID 2: one root or two ─► read ─► the entry changes ─► MOV to CR3 with bit 63, there and back: the old page or the new one
//!                                                               └─► a flush of any kind: the new one
//! ```

use crate::Guest;
use crate::report::{Failure, same};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use guest::memory::Pages;
use guest::trap::{self, Frame};
use guest::{cpu, println};

const CR4_PGE: u64 = 1 << 7;
const CR4_PCIDE: u64 = 1 << 17;
const CR3_KEEPS: u64 = 1 << 63;
const PRESENT: u64 = 0b11;
const GLOBAL: u64 = 1 << 8;
const PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
/// Where the tested page is: nobody else has this half of a TiB.
const LINEAR: u64 = 1 << 39;
/// The second root, and what is below either; both share the page table. Then two pages, told apart by what they hold.
const ROOTS: [u64; 2] = [0, 1];
const POINTERS: [u64; 2] = [2, 3];
const DIRECTORIES: [u64; 2] = [4, 5];
const TABLE: u64 = 6;
const PAGES: [u64; 2] = [7, 8];
/// For descriptors.
const DESCRIPTOR: u64 = 9;
const COUNT: u64 = 10;
/// Kinds of INVPCID.
const ADDRESS: u64 = 0;
const ONE: u64 = 1;
const ALL: u64 = 2;
const ALL_BUT_GLOBAL: u64 = 3;

global_asm!(
    ".pushsection .text",
    // RDI: value; or RDI: kind, RSI: descriptor. An exception comes back as if the function had returned it.
    "pcid_set_cr3:",
    "mov cr3, rdi",
    "xor eax, eax",
    "ret",
    "pcid_set_cr4:",
    "mov cr4, rdi",
    "xor eax, eax",
    "ret",
    "pcid_invalidate:",
    "invpcid rdi, [rsi]",
    "xor eax, eax",
    "ret",
    "pcid_refused:",
    "mov eax, 1",
    "ret",
    ".popsection",
);

unsafe extern "sysv64" {
    fn pcid_set_cr3(value: u64) -> u64;
    fn pcid_set_cr4(value: u64) -> u64;
    fn pcid_invalidate(kind: u64, descriptor: u64) -> u64;
}
unsafe extern "C" {
    static pcid_refused: u8;
}

/// The exception that was refused with last: vector, error code, CR2.
static SEEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

fn refuse(frame: &mut Frame) -> bool {
    let values = [frame.vector, frame.error, cpu::cr2()];
    SEEN.iter().zip(values).for_each(|(place, value)| place.store(value, Ordering::SeqCst));
    frame.rip = (&raw const pcid_refused).addr() as u64;
    frame.vector == PROTECTION || frame.vector == PAGE_FAULT
}

/// What is tried is to be done, or to be refused with this exception.
fn expect(what: &'static str, vector: Option<u64>, refused: u64) -> Result<(), Failure> {
    same(what, 0, u64::from(vector.is_some()), refused)?;
    match vector {
        Some(vector) => same(what, 1, vector, SEEN[0].load(Ordering::SeqCst)),
        None => Ok(()),
    }
}

fn set_cr3(value: u64) -> u64 {
    // SAFETY: every root here maps the program, one to one.
    unsafe { pcid_set_cr3(value) }
}

fn set_cr4(value: u64) -> u64 {
    // SAFETY: only PCIDE and PGE change, or it is refused.
    unsafe { pcid_set_cr4(value) }
}

/// Off, and on.
fn change_pge() -> Result<(), Failure> {
    expect("CR4", None, set_cr4(cpu::cr4() & !CR4_PGE))?;
    expect("CR4", None, set_cr4(cpu::cr4() | CR4_PGE))
}

/// The tables.
struct Bench {
    pages: Pages,
    has_invpcid: bool,
    cases: u64,
}

/// A flush, and which PCID has to be loaded for it.
#[derive(Clone, Copy)]
enum Flush {
    /// MOV to CR3 without bit 63.
    Load,
    Invlpg,
    /// INVPCID while the other one is loaded, or this one.
    Invpcid {
        kind: u64,
        own: bool,
    },
    /// CR4.PGE, twice.
    Pge,
}

const FLUSHES: [Flush; 11] = [
    Flush::Load,
    Flush::Invlpg,
    Flush::Pge,
    Flush::Invpcid { kind: ADDRESS, own: true },
    Flush::Invpcid { kind: ONE, own: true },
    Flush::Invpcid { kind: ALL, own: true },
    Flush::Invpcid { kind: ALL_BUT_GLOBAL, own: true },
    Flush::Invpcid { kind: ADDRESS, own: false },
    Flush::Invpcid { kind: ONE, own: false },
    Flush::Invpcid { kind: ALL, own: false },
    Flush::Invpcid { kind: ALL_BUT_GLOBAL, own: false },
];

impl Bench {
    fn new(guest: &mut Guest) -> Result<Self, Failure> {
        let pages = guest.memory.take(COUNT)?;
        (0..COUNT).for_each(|page| pages.fill(page, |_| 0));
        // SAFETY: the boot code's root, which nobody writes any more.
        let boot = unsafe { core::ptr::with_exposed_provenance::<u64>(cpu::cr3() as usize).read_volatile() };
        let entry = |page: u64| pages.page(page).as_u64() | PRESENT;
        for number in 0..2 {
            let below = [(ROOTS, POINTERS[number]), (POINTERS, DIRECTORIES[number]), (DIRECTORIES, TABLE)];
            pages.write(ROOTS[number], 0, boot);
            for ((table, below), word) in below.into_iter().zip([1, 0, 0]) {
                pages.write(table[number], word, entry(below));
            }
            pages.write(PAGES[number], 0, number as u64);
        }
        let has_invpcid = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx >> 10 & 1 != 0;
        Ok(Self { pages, has_invpcid, cases: 0 })
    }

    fn root(&self, number: usize) -> u64 {
        self.pages.page(ROOTS[number]).as_u64()
    }

    /// Loads one of two PCIDs, 1 with the first root and 2 with the second.
    fn load(&self, pcid: u64, bits: u64) -> Result<(), Failure> {
        let value = self.root(pcid as usize - 1) | pcid;
        expect("MOV to CR3", None, set_cr3(value | bits))?;
        same("CR3", pcid, value, cpu::cr3())
    }

    /// The tested page is the first one or the second one, or not there.
    fn map(&self, page: Option<usize>, flags: u64) {
        let entry = page.map_or(0, |page| self.pages.page(PAGES[page]).as_u64() | PRESENT | flags);
        self.pages.write(TABLE, 0, entry);
    }

    /// Which page it is.
    fn reads(&self) -> u64 {
        // SAFETY: a page of this test's is there, or the exception ends the test.
        unsafe { core::ptr::with_exposed_provenance::<u64>(LINEAR as usize).read_volatile() }
    }

    fn finds(&mut self, what: &'static str, expected: u64) -> Result<(), Failure> {
        self.cases += 1;
        same(what, self.cases, expected, self.reads())
    }

    /// INVPCID; whether it was refused.
    fn invalidates(&self, kind: u64, low: u64, linear: u64) -> u64 {
        self.pages.write(DESCRIPTOR, 0, low);
        self.pages.write(DESCRIPTOR, 1, linear);
        // SAFETY: it only drops what is cached.
        unsafe { pcid_invalidate(kind, self.pages.page(DESCRIPTOR).as_u64()) }
    }

    fn refused(&mut self, what: &'static str, vector: u64, refused: u64) -> Result<(), Failure> {
        self.cases += 1;
        expect(what, Some(vector), refused)
    }

    /// Rules of CR4.PCIDE and CR3; PCIDs are on afterwards.
    fn registers(&mut self) -> Result<(), Failure> {
        let (cr3, cr4) = (self.root(0), cpu::cr4());
        expect("MOV to CR3", None, set_cr3(cr3))?;
        self.refused("bit 63 without PCIDs", PROTECTION, set_cr3(cr3 | CR3_KEEPS))?;
        // PCD.
        expect("MOV to CR3", None, set_cr3(cr3 | 1 << 4))?;
        self.refused("PCIDE with a PCID", PROTECTION, set_cr4(cr4 | CR4_PCIDE))?;
        expect("MOV to CR3", None, set_cr3(cr3))?;
        if self.has_invpcid {
            self.refused("a PCID without PCIDs", PROTECTION, self.invalidates(ONE, 1, 0))?;
            self.refused("an address' PCID without PCIDs", PROTECTION, self.invalidates(ADDRESS, 1, 0))?;
            expect("PCID 0", None, self.invalidates(ONE, 0, 0))?;
        }
        expect("PCIDE", None, set_cr4(cr4 | CR4_PCIDE))?;
        same("CR4", 0, cr4 | CR4_PCIDE, cpu::cr4())?;
        self.refused("an address that is too long", PROTECTION, set_cr3(cr3 | 1 << 62))?;
        self.load(1, 0)
    }

    /// Operands of INVPCID.
    fn operands(&mut self) -> Result<(), Failure> {
        for (kind, low, linear) in
            [(4, 0, 0), (ADDRESS, 1 << 12, 0), (ALL, 1 << 63, 0), (ADDRESS, 1, 1 << 47)]
        {
            self.refused("INVPCID", PROTECTION, self.invalidates(kind, low, linear))?;
        }
        // SAFETY: it only drops what is cached, or is refused.
        let at = |descriptor| unsafe { pcid_invalidate(ALL, descriptor) };
        self.refused("a descriptor outside of all addresses", PROTECTION, at(1 << 47))?;
        self.map(None, 0);
        expect("INVPCID", None, self.invalidates(ALL, 0, 0))?;
        self.refused("no descriptor", PAGE_FAULT, at(LINEAR))?;
        same("error code", 0, 0, SEEN[1].load(Ordering::SeqCst))?;
        same("CR2", 0, LINEAR, SEEN[2].load(Ordering::SeqCst))?;
        // Half of it is there.
        let end = LINEAR - 8;
        self.refused("half a descriptor", PAGE_FAULT, at(end))?;
        // RSP is in the stack segment, and the index has a scale: all forms that there are.
        let (place, base) = (self.pages.page(DESCRIPTOR).as_u64(), self.pages.page(0).as_u64());
        // SAFETY: as above; the descriptor is there.
        unsafe {
            asm!("invpcid {kind}, [{base} + {index} * 8 + 0x100]", kind = in(reg) ALL, base = in(reg) base,
                 index = in(reg) (place - base - 0x100) / 8, options(nostack));
            asm!("push 0", "push 0", "invpcid {kind}, [rsp]", "add rsp, 16", kind = in(reg) ALL);
        }
        self.cases += 2;
        Ok(())
    }

    /// What was cached may come back with its PCID, and does not after a flush.
    fn flush(&mut self, flush: Flush, flags: u64) -> Result<(), Failure> {
        self.map(Some(0), flags);
        self.load(2, 0)?;
        change_pge()?;
        self.load(1, 0)?;
        self.finds("before", 0)?;
        self.map(Some(1), flags);
        self.load(2, CR3_KEEPS)?;
        self.load(1, CR3_KEEPS)?;
        // It may be either.
        same("meanwhile", 0, 0, self.reads() >> 1)?;
        match flush {
            Flush::Load => self.load(1, 0)?,
            Flush::Invlpg => cpu::invalidate(LINEAR),
            Flush::Pge => change_pge()?,
            Flush::Invpcid { kind, own } => {
                if !own {
                    self.load(2, CR3_KEEPS)?;
                }
                expect("INVPCID", None, self.invalidates(kind, 1, LINEAR))?;
            }
        }
        self.load(1, CR3_KEEPS)?;
        self.finds("after", 1)
    }

    /// What a PCID cannot have.
    fn strangers(&mut self) -> Result<(), Failure> {
        // While 1 was loaded, there was nothing, and nothing global is left.
        self.map(None, 0);
        change_pge()?;
        self.load(2, 0)?;
        self.load(1, 0)?;
        self.load(2, CR3_KEEPS)?;
        self.map(Some(0), 0);
        self.finds("there now", 0)?;
        self.map(Some(1), 0);
        self.load(1, CR3_KEEPS)?;
        self.finds("what 1 has never seen", 1)?;
        // 7 was never loaded; 2 is flushed while 1 is loaded, and what it had is what 7 might be taken for.
        self.map(Some(0), 0);
        let seven = self.root(1) | 7;
        expect("MOV to CR3", None, set_cr3(seven | CR3_KEEPS))?;
        self.finds("what 7 has never seen", 0)?;
        // A global page of 2's that 1 drops.
        self.map(Some(0), GLOBAL);
        self.load(2, 0)?;
        cpu::invalidate(LINEAR);
        self.finds("global", 0)?;
        self.map(Some(1), GLOBAL);
        self.load(1, CR3_KEEPS)?;
        cpu::invalidate(LINEAR);
        self.load(2, CR3_KEEPS)?;
        self.finds("dropped for all", 1)
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    trap::set_exception_hook(refuse);
    let has_pcids = __cpuid(1).ecx >> 17 & 1 != 0;
    let mut bench = Bench::new(guest)?;
    println!("pcid: PCIDs {has_pcids}, INVPCID {}", bench.has_invpcid);
    if !has_pcids {
        return expect("PCIDE", Some(PROTECTION), set_cr4(cpu::cr4() | CR4_PCIDE));
    }
    bench.registers()?;
    if bench.has_invpcid {
        bench.operands()?;
    }
    for flush in FLUSHES {
        if bench.has_invpcid || !matches!(flush, Flush::Invpcid { .. }) {
            bench.flush(flush, 0)?;
        }
    }
    // What drops global pages, too.
    for flush in [Flush::Invlpg, Flush::Pge] {
        bench.flush(flush, GLOBAL)?;
    }
    bench.strangers()?;
    println!("pcid: {} cases", bench.cases);
    Ok(())
}
