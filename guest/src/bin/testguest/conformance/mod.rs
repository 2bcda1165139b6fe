//! The permission matrix: what the processor, or whoever shadows its tables, allows, compared with what the SDM says (vol. 3A 4.6 to
//! 4.8). Present, write, user, NX, reserved bits at each level, for each page size; CR0.WP, EFER.NXE, SMEP, SMAP with EFLAGS.AC; loads,
//! stores and fetches, of the supervisor and of CPL 3. Arguments: `every=N` (11): of the ways on which two entries differ, each Nth; `apart=1`:
//! with SMAP and without CR0.WP each access has a way that was just laid, since a shadow is known to differ there (docs/shadow.md).
//!
//! ```text
//!   registers ─► way: page size, which entries differ how, A and D before ─► INVLPG ─► all kinds of access, one after the other
//!                                                                                          └─► fault, error code, CR2, what was
//!                                                                                              loaded and stored, A and D: as expected
//! ```
//!
//! Which access is the first of a way differs from way to way: nothing that an earlier one has left in a TLB, or in a shadow, may change what
//! a later one comes to.

mod expect;
mod probe;
mod tables;

use crate::Guest;
use crate::report::{Failure, same};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use expect::{ACCESSED, Attempt, Controls, DIRTY, Expected, Features, Kind, expect};
use guest::{cpu, println};
use probe::{Probe, Seen, UD2};
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
fn layouts(every: u64, mut visit: impl FnMut(&Layout)) {
    let mut number = 0;
    for entries in 2..=4 {
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

/// The walk over the matrix.
struct Matrix {
    features: Features,
    tables: Tables,
    probe: Probe,
    apart: bool,
    cases: u64,
    ways: u64,
    mismatches: u64,
}

impl Matrix {
    /// All kinds of access by one way.
    fn walk(&mut self, controls: Controls, layout: &Layout) {
        let is_apart = self.apart && controls.smap && !controls.protects_supervisor;
        let layout = &Layout { before: if is_apart { Before::Clear } else { layout.before }, ..*layout };
        self.tables.lay(layout, &self.features);
        let before = self.tables.entries();
        let mut after = Flags::of(&before);
        for attempt in attempts(controls, self.ways as usize) {
            if is_apart {
                self.tables.lay(layout, &self.features);
                after = Flags::of(&before);
            }
            let value = UD2 | self.cases << 16;
            let next = value + 0x1_0000_0000_0000;
            self.tables.set_target(value);
            let seen = self.probe.attempt(self.tables.linear(), attempt, next);
            let expected = expect(&self.features, controls, attempt, &before[..layout.entries]);
            after.note(&expected, attempt);
            let stored = expected.fault.is_none() && attempt.kind == Kind::Write;
            let is_right = self.is_as_expected(seen, &expected, attempt, value)
                && self.tables.target() == if stored { next } else { value }
                && after.allow(&before, &self.tables.entries());
            self.cases += 1;
            if !is_right {
                self.tell(controls, layout, attempt, seen, &expected);
            }
        }
        self.ways += 1;
    }

    fn is_as_expected(&self, seen: Seen, expected: &Expected, attempt: Attempt, value: u64) -> bool {
        match (seen, expected.fault) {
            (Seen::Done(loaded), None) => attempt.kind != Kind::Read || loaded == value,
            (Seen::Fault { code, cr2 }, Some(wanted)) => code == wanted && cr2 == self.tables.linear(),
            _ => false,
        }
    }

    fn tell(
        &mut self,
        controls: Controls,
        layout: &Layout,
        attempt: Attempt,
        seen: Seen,
        expected: &Expected,
    ) {
        self.mismatches += 1;
        if self.mismatches <= TOLD {
            println!("conformance: {controls:?} {layout:?} {attempt:?}");
            println!(
                "  expected {:x?}, seen {seen:x?}, entries {:x?}",
                expected.fault,
                &self.tables.entries()[..layout.entries]
            );
        }
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
    fn note(&mut self, expected: &Expected, attempt: Attempt) {
        for (number, (must, may)) in
            self.must.iter_mut().zip(&mut self.may).take(expected.entries).enumerate()
        {
            *may |= ACCESSED;
            if expected.fault.is_none() {
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
    let tables = Tables::new(guest)?;
    let probe = Probe::new(guest, tables.user_page(), tables.user_code())?;
    let apart = guest.argument("apart").is_some_and(|apart| apart != 0);
    let mut matrix = Matrix { features, tables, probe, apart, cases: 0, ways: 0, mismatches: 0 };
    let mut states = 0;
    for controls in features.controls() {
        controls.load();
        layouts(every, |layout| {
            if layout.fits(&features) {
                matrix.walk(controls, layout);
            }
        });
        states += 1;
    }
    let Features { physical_bits, gigantic_pages, no_execute, smep, smap } = features;
    println!(
        "conformance: {} accesses by {} ways in {states} states: NX {no_execute}, SMEP {smep}, SMAP {smap}, \
         1 GiB {gigantic_pages}, {physical_bits} bits",
        matrix.cases, matrix.ways
    );
    same("mismatches", 0, 0, matrix.mismatches)
}
