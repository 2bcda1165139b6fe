//! The permission matrix: what the processor, or whoever shadows its tables, allows, compared with what the SDM says (vol. 3A 4.3 to
//! 4.8), in each way that a processor translates: four levels, PAE, entries of 32 bits with and without pages of 4 MiB, and none at all.
//! Present, write, user, NX, reserved bits at each level, for each page size; CR0.WP, EFER.NXE, SMEP, SMAP with EFLAGS.AC; loads,
//! stores and fetches, of the supervisor and of CPL 3. Arguments: `every=N` (11): of the ways on which two entries differ, each Nth; `apart=1`:
//! with SMAP and without CR0.WP each access has a way that was just laid, since a shadow is known to differ there (docs/shadow.md).
//!
//! ```text
//!   mode, registers ─► way: page size, which entries differ how, A and D before ─► INVLPG ─► all kinds of access, one after the other
//!                                                                                          └─► fault, error code, CR2, what was
//!                                                                                              loaded and stored, A and D: as expected
//! ```
//!
//! Which access is the first of a way differs from way to way: nothing that an earlier one has left in a TLB, or in a shadow, may change what
//! a later one comes to.

mod expect;
mod legacy;
mod probe;
mod segments;
mod tables;

use crate::Guest;
use crate::report::{Failure, same};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use expect::{ACCESSED, Attempt, Controls, DIRTY, End, Expected, Features, Kind, Mode, expect};
use guest::{cpu, println};
use probe::{Seen, UD2};
use segments::Segments;
use tables::{Before, Layout, MARKS, Mark, Tables};

/// Mismatches that are told one by one.
const TOLD: u64 = 8;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_NXE: u64 = 1 << 11;

impl Features {
    fn of_this_processor() -> Self {
        let leaf7 = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
        let extended = __cpuid(0x8000_0001).edx;
        // SDM vol. 3A 4.1.4.
        let has_sizes = __cpuid(0x8000_0000).eax >= 0x8000_0008;
        Self {
            physical_bits: if has_sizes { __cpuid(0x8000_0008).eax & 0xff } else { 36 },
            gigantic_pages: extended >> 26 & 1 != 0,
            wide_pages: __cpuid(1).edx >> 17 & 1 != 0,
            no_execute: extended >> 20 & 1 != 0,
            smep: leaf7 >> 7 & 1 != 0,
            smap: leaf7 >> 20 & 1 != 0,
        }
    }

    /// All states of the registers that the processor can have.
    fn controls(&self) -> impl Iterator<Item = Controls> + use<> {
        let Self { no_execute, smep, smap, .. } = *self;
        (0..16u32)
            .map(|bits| Controls {
                protects_supervisor: bits & 1 == 0,
                no_execute: bits & 2 == 0,
                smep: bits & 4 != 0,
                smap: bits & 8 != 0,
            })
            .filter(move |state| {
                (no_execute || !state.no_execute) && (smep || !state.smep) && (smap || !state.smap)
            })
    }
}

impl Controls {
    fn load(self) {
        let with = |value: u64, bit: u64, is_set: bool| if is_set { value | bit } else { value & !bit };
        // SAFETY: the program is the supervisor's, may be written and fetched everywhere, and CPUID tells of what is set.
        unsafe {
            cpu::set_cr0(with(cpu::cr0() & !CR0_AM, CR0_WP, self.protects_supervisor));
            cpu::set_cr4(with(with(cpu::cr4(), CR4_SMEP, self.smep), CR4_SMAP, self.smap));
            cpu::wrmsr(cpu::EFER, with(cpu::rdmsr(cpu::EFER), EFER_NXE, self.no_execute));
            cpu::set_cr3(cpu::cr3());
        }
    }
}

/// All kinds of access, in an order of this way's; AC says nothing but where there is SMAP.
fn attempts(controls: Controls, way: usize) -> impl Iterator<Item = Attempt> {
    let kinds = [Kind::Read, Kind::Write, Kind::Fetch];
    let count = if controls.smap { 12 } else { 6 };
    // Each of these visits all numbers below either count.
    let step = [1, 5, 7, 11][way / count % 4];
    (0..count).map(move |number| (way + number * step) % count).map(move |number| Attempt {
        kind: kinds[number % 3],
        user: number / 3 % 2 == 1,
        aligned: number >= 6,
    })
}

/// All ways of all sizes that the arguments ask for.
fn layouts(mode: Mode, every: u64, mut visit: impl FnMut(&Layout)) {
    let mut number = 0;
    for entries in mode.least_entries()..=mode.shifts().len() {
        let mut one = |marks| {
            let before = [Before::Clear, Before::Accessed, Before::Dirty][number % 3];
            visit(&Layout { entries, marks, before });
            number += 1;
        };
        (0..3).for_each(|_| one([(0, Mark::None); 2]));
        let single = (0..entries).flat_map(|level| MARKS.map(|mark| (level, mark)));
        single.clone().for_each(|mark| one([mark, (0, Mark::None)]));
        let pairs = single.clone().flat_map(|first| single.clone().map(move |second| [first, second]));
        let pairs = pairs.filter(|[first, second]| first.0 < second.0);
        pairs.step_by(every as usize).for_each(&mut one);
    }
}

/// One access.
#[derive(Clone, Copy)]
struct Case {
    layout: Layout,
    /// The way, the root's entry first.
    planned: [u64; 4],
    /// It is laid anew.
    lays: bool,
    /// And CR3 is loaded.
    reloads: bool,
    attempt: Attempt,
    /// What the target holds.
    value: u64,
    /// What is written to it.
    next: u64,
}

impl Case {
    const NONE: Self = Self {
        layout: Layout { entries: 0, marks: [(0, Mark::None); 2], before: Before::Clear },
        planned: [0; 4],
        lays: false,
        reloads: false,
        attempt: Attempt { kind: Kind::Read, user: false, aligned: false },
        value: 0,
        next: 0,
    };

    fn entries(&self) -> &[u64] {
        &self.planned[..self.layout.entries]
    }
}

/// What came of it: also what the target and the entries hold by now.
#[derive(Clone, Copy)]
struct Outcome {
    seen: Seen,
    target: u64,
    entries: [u64; 4],
}

/// How many wait to be done in a row, and how many a way has at most.
const CASES: usize = 96;
const CASES_OF_WAY: usize = 12;

/// The walk over the matrix, in one mode.
struct Matrix<'a> {
    features: Features,
    segments: &'a Segments,
    tables: Tables,
    apart: bool,
    waiting: [Case; CASES],
    count: usize,
    /// The pointers may not be as a way without a mark has them.
    pointers_changed: bool,
    /// What A and D of the way may be.
    flags: Flags,
    cases: u64,
    ways: u64,
    mismatches: u64,
}
impl<'a> Matrix<'a> {
    fn new(
        guest: &mut Guest,
        (features, segments): (Features, &'a Segments),
        mode: Mode,
    ) -> Result<Self, Failure> {
        let tables = Tables::new(guest, mode)?;
        if mode == Mode::Long {
            // SAFETY: the boot code's first entry is there.
            unsafe { cpu::set_cr3(tables.root()) };
            probe::prepare(&tables);
        } else {
            legacy::prepare(&tables);
        }
        Ok(Self {
            features,
            segments,
            tables,
            apart: guest.argument("apart").is_some_and(|apart| apart != 0),
            waiting: [Case::NONE; CASES],
            count: 0,
            pointers_changed: false,
            flags: Flags::of(&[0; 4]),
            cases: 0,
            ways: 0,
            mismatches: 0,
        })
    }

    /// All kinds of access by one way, soon.
    fn walk(&mut self, controls: Controls, layout: &Layout) {
        let is_apart = self.apart && controls.smap && !controls.protects_supervisor;
        let layout = Layout { before: if is_apart { Before::Clear } else { layout.before }, ..*layout };
        let planned = self.tables.plan(&layout, &self.features);
        let marked = layout.has_marked_pointer(self.tables.mode());
        let reloads = core::mem::replace(&mut self.pointers_changed, marked) || marked;
        if self.count + CASES_OF_WAY > CASES {
            self.settle(controls);
        }
        for (number, attempt) in attempts(controls, self.ways as usize).enumerate() {
            let value = UD2 | (self.cases & 0x7fff) << 16;
            let next = value | 1 << 31;
            // What loads pointers in vain leaves the processor those of before.
            let lays = number == 0 || is_apart || marked;
            self.waiting[self.count] = Case { layout, planned, lays, reloads, attempt, value, next };
            self.count += 1;
            self.cases += 1;
        }
        self.ways += 1;
    }

    /// Does what waits, in the state of the registers that it was meant for.
    fn settle(&mut self, controls: Controls) {
        let waiting = self.waiting;
        let cases = &waiting[..core::mem::take(&mut self.count)];
        if self.tables.mode() == Mode::Long {
            for case in cases {
                let outcome = probe::perform(&self.tables, case);
                self.judge(controls, case, &outcome);
            }
            return;
        }
        // Pointers are loaded on the way there: good ones.
        let plain = Layout { entries: self.tables.mode().shifts().len(), ..Case::NONE.layout };
        self.tables.lay(&self.tables.plan(&plain, &self.features)[..plain.entries]);
        for (case, record) in cases.iter().zip(legacy::perform(&self.tables, self.segments, cases)) {
            let outcome = legacy::outcome(record, &self.tables, case);
            self.judge(controls, case, &outcome);
        }
    }

    fn judge(&mut self, controls: Controls, case: &Case, outcome: &Outcome) {
        let Case { attempt, value, next, .. } = *case;
        let mode = self.tables.mode();
        if case.lays {
            self.flags = Flags::of(&case.planned);
        }
        let expected = expect(&self.features, (mode, controls), attempt, case.entries());
        self.flags.note(&expected, (mode, attempt));
        let stored = expected.end == End::Done && attempt.kind == Kind::Write;
        let is_right = is_as_expected(outcome.seen, &expected, case, self.tables.linear())
            && outcome.target == if stored { next } else { value }
            && self.flags.allow(&case.planned, &outcome.entries);
        if !is_right {
            self.tell(controls, case, outcome, &expected);
        }
    }

    fn tell(&mut self, controls: Controls, case: &Case, outcome: &Outcome, expected: &Expected) {
        self.mismatches += 1;
        if self.mismatches <= TOLD {
            let Case { layout, attempt, .. } = case;
            println!("conformance: {:?} {controls:?} {layout:?} {attempt:?}", self.tables.mode());
            println!(
                "  expected {:x?}, seen {:x?}, entries {:x?}",
                expected.end,
                outcome.seen,
                &outcome.entries[..layout.entries]
            );
        }
    }
}

fn is_as_expected(seen: Seen, expected: &Expected, case: &Case, linear: u64) -> bool {
    match (seen, expected.end) {
        (Seen::Done(loaded), End::Done) => case.attempt.kind != Kind::Read || loaded == case.value,
        (Seen::Fault { code, cr2 }, End::Fault(wanted)) => code == wanted && cr2 == linear,
        (Seen::Refused, End::Refused) => true,
        _ => false,
    }
}

/// A and D of the entries: which have to be set by now, and which may be.
struct Flags {
    must: [u64; 4],
    may: [u64; 4],
}

impl Flags {
    fn of(entries: &[u64; 4]) -> Self {
        let flags = entries.map(|entry| entry & (ACCESSED | DIRTY));
        Self { must: flags, may: flags }
    }

    /// Section 4.8: A is set where a translation has used an entry, D where one was for a store. Whether a walk that ends with a fault sets A
    /// of the entries that it came by is the processor's own matter.
    fn note(&mut self, expected: &Expected, (mode, attempt): (Mode, Attempt)) {
        let flags = self.must.iter_mut().zip(&mut self.may).take(expected.entries).enumerate();
        for (number, (must, may)) in flags.skip(mode.pointers()) {
            *may |= ACCESSED;
            if expected.end == End::Done {
                *must |= ACCESSED;
                if attempt.kind == Kind::Write && number + 1 == expected.entries {
                    *must |= DIRTY;
                    *may |= DIRTY;
                }
            }
        }
    }

    /// Whether the entries are those of before, but for A and D.
    fn allow(&self, before: &[u64; 4], now: &[u64; 4]) -> bool {
        before.iter().zip(now).zip(self.must.iter().zip(&self.may)).all(|((before, now), (must, may))| {
            let rest = !(ACCESSED | DIRTY);
            before & rest == now & rest && now & must == *must && now & !rest & !may == 0
        })
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let every = guest.argument("every").unwrap_or(11).max(1);
    let features = Features::of_this_processor();
    let segments = Segments::new(guest)?;
    let Features { physical_bits, gigantic_pages, no_execute, smep, smap, .. } = features;
    println!(
        "conformance: NX {no_execute}, SMEP {smep}, SMAP {smap}, 1 GiB {gigantic_pages}, {physical_bits} bits"
    );
    let mut mismatches = 0;
    for mode in Mode::ALL {
        let mut matrix = Matrix::new(guest, (features, &segments), mode)?;
        let mut states = 0;
        for controls in features.controls() {
            controls.load();
            layouts(mode, every, |layout| {
                if layout.fits(mode, &features) {
                    matrix.walk(controls, layout);
                }
            });
            matrix.settle(controls);
            states += 1;
        }
        println!(
            "conformance: {mode:?}: {} accesses by {} ways in {states} states",
            matrix.cases, matrix.ways
        );
        mismatches += matrix.mismatches;
    }
    same("mismatches", 0, 0, mismatches)
}
