//! Accesses outside long mode, many at a time: what is to be stored, tried and looked at is a list, which code of 32 bits goes through.
//!
//! ```text
//!   long mode ─► CR0.PG, EFER.LME off ─► CR4, CR3, CR0 of the mode ─┬─► stores ─► INVLPG, MOV to CR3 or nothing ─► IRETD to either level ─┐
//!                                                                   │                              └── #GP ──┐                            │
//!        as it was  ◄─────────────────── the list is at its end ◄───┴──── what came, and lies there by now ◄─┴── #UD: done, #PF ◄─────────┘
//! ```

use super::expect::Mode;
use super::probe::{ALIGNMENT_CHECK, Code, FLAGS, Seen, entry_of};
use super::segments::{CODE, CODE_32, DATA, DATA_32, Segments, USER_CODE_32, USER_DATA_32};
use super::tables::Tables;
use super::{CASES, Case, Outcome};
use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use guest::cpu;

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u32 = 1 << 8;

/// Words that are stored before an attempt, and looked at afterwards: the target's, and three entries'.
const WORDS: usize = 7;

/// One attempt: what it takes, and what came of it.
#[repr(C)]
pub(super) struct Record {
    /// How many words are stored: all, or the target's alone.
    stores: AtomicU32,
    refresh: AtomicU32,
    to: AtomicU32,
    code: AtomicU32,
    data: AtomicU32,
    flags: AtomicU32,
    linear: AtomicU32,
    value: AtomicU32,
    places: [AtomicU32; WORDS],
    words: [AtomicU32; WORDS],
    vector: AtomicU32,
    error: AtomicU32,
    cr2: AtomicU32,
    eip: AtomicU32,
    eax: AtomicU32,
}

/// `Record::refresh`: what drops what is cached.
const BY_NOTHING: u32 = 0;
const BY_INVLPG: u32 = 1;
const BY_CR3: u32 = 2;

impl Record {
    const fn new() -> Self {
        Self {
            stores: AtomicU32::new(0),
            refresh: AtomicU32::new(BY_NOTHING),
            to: AtomicU32::new(0),
            code: AtomicU32::new(0),
            data: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            linear: AtomicU32::new(0),
            value: AtomicU32::new(0),
            places: [const { AtomicU32::new(0) }; WORDS],
            words: [const { AtomicU32::new(0) }; WORDS],
            vector: AtomicU32::new(0),
            error: AtomicU32::new(0),
            cr2: AtomicU32::new(0),
            eip: AtomicU32::new(0),
            eax: AtomicU32::new(0),
        }
    }
}

/// Registers of both sides, and where the list is.
#[repr(C)]
struct Sides {
    stack: AtomicU64,
    /// Operands of LIDT: the program's, and the one for here.
    long_vectors: [AtomicU32; 4],
    vectors: [AtomicU32; 2],
    stack_32: AtomicU32,
    long: [AtomicU32; 3],
    legacy: [AtomicU32; 3],
    next: AtomicU32,
    end: AtomicU32,
}

static RECORDS: [Record; CASES] = [const { Record::new() }; CASES];
static SIDES: Sides = Sides {
    stack: AtomicU64::new(0),
    long_vectors: [const { AtomicU32::new(0) }; 4],
    vectors: [const { AtomicU32::new(0) }; 2],
    stack_32: AtomicU32::new(0),
    long: [const { AtomicU32::new(0) }; 3],
    legacy: [const { AtomicU32::new(0) }; 3],
    next: AtomicU32::new(0),
    end: AtomicU32::new(0),
};
/// Gates of exceptions.
static GATES: [AtomicU64; 32] = [const { AtomicU64::new(0) }; 32];
/// A gate for interrupts, of 32 bits, present (SDM vol. 3A figure 6-2).
const GATE: u64 = 0x8e00 << 32;
const STUB_BYTES: u64 = 16;

global_asm!(
    ".pushsection .text",
    "conformance_legacy:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "mov [rdi + {stack}], rsp",
    "sidt [rdi + {long_vectors}]",
    "mov ebp, edi",
    "push {code_32}",
    "lea rax, [rip + 2f]",
    "push rax",
    "retfq",
    ".code32",
    "2:",
    "mov eax, {data_32}", "mov ss, eax",
    // Good for both levels: IRETD would take the supervisor's away.
    "mov eax, {user_data_32}", "mov ds, eax", "mov es, eax",
    // SDM vol. 3A 9.8.5.4.
    "mov eax, cr0", "and eax, 0x7fffffff", "mov cr0, eax",
    "mov ecx, 0xc0000080", "rdmsr", "and eax, {not_lme}", "wrmsr",
    "mov eax, [ebp + {legacy} + 4]", "mov cr4, eax",
    "mov eax, [ebp + {legacy} + 8]", "mov cr3, eax",
    "mov eax, [ebp + {legacy}]", "mov cr0, eax",
    "lidt [ebp + {vectors}]",
    "mov [ebp + {stack_32}], esp",
    // EBX: the record.
    "conformance_next:",
    "mov ebx, [ebp + {next}]",
    "cmp ebx, [ebp + {end}]",
    "jae conformance_done",
    "add dword ptr [ebp + {next}], {size}",
    "xor esi, esi",
    "3:",
    "mov edx, [ebx + esi * 4 + {places}]", "mov eax, [ebx + esi * 4 + {words}]", "mov [edx], eax",
    "inc esi",
    "cmp esi, [ebx + {stores}]",
    "jb 3b",
    "mov edi, [ebx + {linear}]",
    "cmp dword ptr [ebx + {refresh}], {by_invlpg}",
    "jb 5f",
    "je 4f",
    "mov eax, cr3", "mov cr3, eax",
    "jmp 5f",
    "4:",
    "invlpg [edi]",
    "5:",
    "push dword ptr [ebx + {data}]", "push esp", "push dword ptr [ebx + {flags}]",
    "push dword ptr [ebx + {code}]", "push dword ptr [ebx + {to}]",
    "mov eax, [ebx + {value}]",
    "iretd",
    ".set conformance_vector, 0",
    ".balign 16",
    "conformance_stubs:",
    ".rept 32",
    ".balign 16",
    "push conformance_vector",
    "jmp conformance_end",
    ".set conformance_vector, conformance_vector + 1",
    ".endr",
    "conformance_end:",
    "mov [ebx + {eax}], eax",
    "pop eax", "mov [ebx + {vector}], eax",
    // #DF, #TS to #PF, #AC have an error code.
    "xor ecx, ecx", "mov edx, 0x27d00", "bt edx, eax",
    "jnc 6f",
    "pop ecx",
    "6:",
    "mov [ebx + {error}], ecx",
    "pop eax", "mov [ebx + {eip}], eax",
    "mov eax, cr2", "mov [ebx + {cr2}], eax",
    "mov esp, [ebp + {stack_32}]",
    "push 2", "popfd",
    "xor esi, esi",
    "7:",
    "mov edx, [ebx + esi * 4 + {places}]", "mov eax, [edx]", "mov [ebx + esi * 4 + {words}], eax",
    "inc esi",
    "cmp esi, {word_count}",
    "jb 7b",
    "jmp conformance_next",
    "conformance_done:",
    "mov eax, cr0", "and eax, 0x7fffffff", "mov cr0, eax",
    "mov eax, [ebp + {long} + 4]", "mov cr4, eax",
    "mov eax, [ebp + {long} + 8]", "mov cr3, eax",
    "mov ecx, 0xc0000080", "rdmsr", "or eax, {lme}", "wrmsr",
    "mov eax, [ebp + {long}]", "mov cr0, eax",
    "push {code_64}",
    "mov eax, offset conformance_long",
    "push eax",
    "retf",
    ".code64",
    "conformance_long:",
    "mov eax, {data_64}", "mov ds, eax", "mov es, eax", "mov ss, eax",
    "mov edi, ebp",
    "lidt [rdi + {long_vectors}]",
    "mov rsp, [rdi + {stack}]",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",
    ".balign 16",
    ".code32",
    "conformance_code_32:",
    "mov eax, [edi]", "ud2",
    ".balign 16",
    "mov [edi], eax", "ud2",
    ".balign 16",
    ".code64",
    ".popsection",
    stack = const offset_of!(Sides, stack),
    long_vectors = const offset_of!(Sides, long_vectors),
    vectors = const offset_of!(Sides, vectors),
    stack_32 = const offset_of!(Sides, stack_32),
    long = const offset_of!(Sides, long),
    legacy = const offset_of!(Sides, legacy),
    next = const offset_of!(Sides, next),
    end = const offset_of!(Sides, end),
    size = const size_of::<Record>(),
    stores = const offset_of!(Record, stores),
    refresh = const offset_of!(Record, refresh),
    to = const offset_of!(Record, to),
    code = const offset_of!(Record, code),
    data = const offset_of!(Record, data),
    flags = const offset_of!(Record, flags),
    linear = const offset_of!(Record, linear),
    value = const offset_of!(Record, value),
    places = const offset_of!(Record, places),
    words = const offset_of!(Record, words),
    vector = const offset_of!(Record, vector),
    error = const offset_of!(Record, error),
    cr2 = const offset_of!(Record, cr2),
    eip = const offset_of!(Record, eip),
    eax = const offset_of!(Record, eax),
    word_count = const WORDS,
    by_invlpg = const BY_INVLPG,
    lme = const EFER_LME,
    not_lme = const !EFER_LME,
    code_32 = const CODE_32,
    data_32 = const DATA_32,
    user_data_32 = const USER_DATA_32,
    code_64 = const CODE,
    data_64 = const DATA,
);

unsafe extern "sysv64" {
    fn conformance_legacy(sides: &Sides);
}
unsafe extern "C" {
    static conformance_stubs: u8;
    static conformance_code_32: Code;
}

/// All that the program has lies below 4 GiB.
fn low(address: usize) -> u32 {
    address as u32
}

fn set<const N: usize>(places: &[AtomicU32; N], values: [u64; N]) {
    places.iter().zip(values).for_each(|(place, value)| place.store(value as u32, Ordering::SeqCst));
}

/// Has the user's code where CPL 3 finds it, and gates that lead here.
pub(super) fn prepare(tables: &Tables) {
    // SAFETY: labels of the code above, 32 bytes.
    tables.set_user_code(unsafe { &conformance_code_32 });
    let stubs = (&raw const conformance_stubs).addr() as u64;
    for (gate, stub) in GATES.iter().zip((stubs..).step_by(STUB_BYTES as usize)) {
        let target = stub & 0xffff | u64::from(CODE_32) << 16 | stub >> 16 << 48;
        gate.store(target | GATE, Ordering::SeqCst);
    }
    let (base, limit) = (GATES.as_ptr().addr() as u64, size_of_val(&GATES) as u64 - 1);
    set(&SIDES.vectors, [base << 16 | limit, base >> 16]);
}

/// Does some cases in a row; their records.
pub(super) fn perform(tables: &Tables, segments: &Segments, cases: &[Case]) -> &'static [Record] {
    cases.iter().zip(&RECORDS).for_each(|(case, record)| fill(record, tables, case));
    let (cr0, cr3, cr4) = (cpu::cr0(), cpu::cr3(), cpu::cr4());
    let (paging, pae, pse) = match tables.mode() {
        Mode::Long | Mode::Pae => (CR0_PG, CR4_PAE, 0),
        Mode::Narrow { large: true } => (CR0_PG, 0, CR4_PSE),
        Mode::Narrow { large: false } => (CR0_PG, 0, 0),
        Mode::Off => (0, 0, 0),
    };
    set(&SIDES.long, [cr0, cr4, cr3]);
    set(&SIDES.legacy, [cr0 & !CR0_PG | paging, cr4 & !(CR4_PAE | CR4_PSE) | pae | pse, tables.root()]);
    let first = RECORDS.as_ptr();
    SIDES.next.store(low(first.addr()), Ordering::SeqCst);
    SIDES.end.store(low(first.addr() + cases.len() * size_of::<Record>()), Ordering::SeqCst);
    // SAFETY: the tables map the program one to one, and the code comes back with all registers as they were. Whatever an attempt comes to,
    // an exception ends it. Only the target and entries on its way are written.
    segments.with_32_bits(|| unsafe { conformance_legacy(&SIDES) });
    &RECORDS[..cases.len()]
}

fn fill(record: &Record, tables: &Tables, case: &Case) {
    let (attempt, linear) = (case.attempt, tables.linear());
    let supervisor_code = (&raw const conformance_code_32).addr() as u64;
    let to = entry_of(attempt, linear, [supervisor_code, tables.user_code()]);
    let flags = if attempt.aligned { FLAGS | ALIGNMENT_CHECK } else { FLAGS };
    let (code, data) = if attempt.user { (USER_CODE_32, USER_DATA_32) } else { (CODE_32, DATA_32) };
    let refresh = match (case.lays, case.reloads) {
        (true, true) => BY_CR3,
        (true, false) => BY_INVLPG,
        (false, _) => BY_NOTHING,
    };
    let (mut places, mut words) = ([tables.target_address(); WORDS], [case.value; WORDS]);
    let mut count = 1;
    for (level, &entry) in case.entries().iter().enumerate() {
        let halves = if tables.mode().is_narrow() { 1 } else { 2 };
        for half in 0..halves {
            (places[count], words[count]) = (tables.address(level) + half * 4, entry >> (half * 32));
            count += 1;
        }
    }
    set(&record.places, places);
    set(&record.words, words);
    let stores = if case.lays { count } else { 1 };
    let takes = [&record.stores, &record.refresh, &record.to, &record.code, &record.data, &record.flags];
    let values = [stores as u32, refresh, low(to as usize), code, data, flags as u32];
    takes.iter().zip(values).for_each(|(place, value)| place.store(value, Ordering::SeqCst));
    record.linear.store(linear as u32, Ordering::SeqCst);
    record.value.store(case.next as u32, Ordering::SeqCst);
}

/// What a record tells.
pub(super) fn outcome(record: &Record, tables: &Tables, case: &Case) -> Outcome {
    let value = |place: &AtomicU32| u64::from(place.load(Ordering::SeqCst));
    let word = |index: usize| value(&record.words[index]);
    let came = [&record.vector, &record.error, &record.cr2, &record.eip, &record.eax].map(value);
    let count = case.entries().len();
    let entries = core::array::from_fn(|level| match tables.mode().is_narrow() {
        _ if level >= count => 0,
        true => word(1 + level),
        false => word(1 + 2 * level) | word(2 + 2 * level) << 32,
    });
    Outcome { seen: Seen::of(came, value(&record.to)), target: word(0), entries }
}
