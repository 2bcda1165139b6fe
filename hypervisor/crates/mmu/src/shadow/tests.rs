//! The guest's tables as its processor reads them: each mode, each right, each reserved bit.

extern crate std;

mod rmap;

use super::walk::{GuestPaging, GuestTables, LinearAccess, PageFault, Translation, WalkEnd, Width, walk};
use addr::Gpa;
use std::cell::RefCell;
use std::collections::BTreeMap;

const PG_PE: u64 = 1 << 31 | 1;
const WP: u64 = 1 << 16;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const LONG: u64 = 1 << 8 | 1 << 10;
const NXE: u64 = 1 << 11;

const P: u64 = 1 << 0;
const W: u64 = 1 << 1;
const U: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const XD: u64 = 1 << 63;

/// Tables in words of 32 bits; what is not there reads 0, and above 1 GiB there is no memory.
#[derive(Default)]
struct Tables {
    words: RefCell<BTreeMap<u64, u32>>,
    /// What the guest writes right before the next exchange.
    meanwhile: RefCell<Option<(u64, u64)>>,
}

impl Tables {
    fn put(&self, at: u64, entry: u64) {
        let mut words = self.words.borrow_mut();
        words.insert(at, entry as u32);
        words.insert(at + 4, (entry >> 32) as u32);
    }

    fn put_32(&self, at: u64, entry: u64) {
        self.words.borrow_mut().insert(at, entry as u32);
    }

    fn get(&self, at: u64) -> u64 {
        let words = self.words.borrow();
        let word = |at| u64::from(words.get(&at).copied().unwrap_or(0));
        word(at) | word(at + 4) << 32
    }

    fn get_32(&self, at: u64) -> u64 {
        self.get(at) & 0xffff_ffff
    }
}

impl GuestTables for Tables {
    type Error = ();

    fn load(&self, at: Gpa, width: Width) -> Result<u64, ()> {
        let at = at.as_u64();
        let mask = if width == Width::Bits32 { 0xffff_ffff } else { u64::MAX };
        Ok(if at >> 30 != 0 { mask } else { self.get(at) & mask })
    }

    fn exchange(&self, at: Gpa, width: Width, old: u64, new: u64) -> Result<bool, ()> {
        if let Some((at, entry)) = self.meanwhile.borrow_mut().take() {
            self.put(at, entry);
        }
        let same = self.load(at, width)? == old;
        match width {
            Width::Bits32 if same => self.put_32(at.as_u64(), new),
            Width::Bits64 if same => self.put(at.as_u64(), new),
            Width::Bits32 | Width::Bits64 => {}
        }
        Ok(same)
    }
}

fn paging(cr4: u64, efer: u64) -> GuestPaging {
    let (cr0, cr3) = (PG_PE | WP, 0x1000);
    GuestPaging { cr0, cr3, cr4, efer, pdptes: [0; 4], physical_bits: 40, gigantic_pages: true }
}

fn long() -> GuestPaging {
    paging(PAE, LONG | NXE)
}

const READ: LinearAccess = LinearAccess { write: false, fetch: false, user: false, passes_smap: false };
const WRITE: LinearAccess = LinearAccess { write: true, ..READ };
const FETCH: LinearAccess = LinearAccess { fetch: true, ..READ };

const fn user(access: LinearAccess) -> LinearAccess {
    LinearAccess { user: true, ..access }
}

/// Four levels for address 0x40_2000 and its neighbours, with these entries' flags from the root on.
fn four(flags: [u64; 4]) -> Tables {
    let tables = Tables::default();
    for (at, entry) in [(0x1000, 0x2000), (0x2000, 0x3000), (0x3010, 0x4000), (0x4010, 0x5_5000)]
        .into_iter()
        .zip(flags)
        .map(|((at, frame), flags)| (at, frame | flags))
    {
        tables.put(at, entry);
    }
    tables
}

const LINEAR: u64 = 0x40_2123;

fn result(tables: &Tables, paging: &GuestPaging, access: LinearAccess) -> Result<Translation, u32> {
    at(tables, paging, LINEAR, access)
}

fn at(tables: &Tables, paging: &GuestPaging, linear: u64, access: LinearAccess) -> Result<Translation, u32> {
    walk(tables, paging, linear, access).map_err(|end| match end {
        WalkEnd::Fault(PageFault { code }) => code,
        WalkEnd::Failed(()) => panic!("the host does not fail"),
    })
}

#[test]
fn without_paging_linear_is_physical() {
    let off = GuestPaging { cr0: 1, ..paging(0, 0) };
    let found = at(&Tables::default(), &off, 0x1_1234_5678, user(WRITE));
    let gpa = Gpa::new(0x1234_5678);
    assert_eq!(found, Ok(Translation { gpa, shift: 12, write: true, user: true, execute: true }));
}

#[test]
fn four_levels_set_a_everywhere_and_d_in_the_leaf() {
    let tables = four([P | W | U; 4]);
    let gpa = Gpa::new(0x5_5123);
    let clean = Translation { gpa, shift: 12, write: false, user: true, execute: true };
    assert_eq!(result(&tables, &long(), READ), Ok(clean), "a store has yet to set D");
    let entries = |tables: &Tables| [0x1000, 0x2000, 0x3010, 0x4010].map(|at| tables.get(at) & (A | D));
    assert_eq!(entries(&tables), [A; 4]);
    assert_eq!(result(&tables, &long(), WRITE), Ok(Translation { write: true, ..clean }));
    assert_eq!(entries(&tables), [A, A, A, A | D]);
    assert_eq!(result(&tables, &long(), READ), Ok(Translation { write: true, ..clean }));
}

#[test]
fn a_refused_access_leaves_no_trace() {
    let tables = four([P | W | U, P | W, P | W | U, P | W | U]);
    assert_eq!(result(&tables, &long(), user(READ)), Err(PageFault::PRESENT | PageFault::USER));
    assert_eq!(tables.get(0x1000) & A, 0);
}

#[test]
fn rights_are_those_of_all_levels() {
    let all = P | W | U;
    for level in 0..4 {
        let with = |flags| {
            let mut levels = [all; 4];
            levels[level] = flags;
            four(levels)
        };
        let protected = PageFault::PRESENT;
        let write = PageFault::WRITE;
        let fetch = PageFault::FETCH;
        let user_bit = PageFault::USER;
        assert_eq!(result(&with(P | U), &long(), WRITE), Err(protected | write), "level {level}");
        assert_eq!(result(&with(P | U), &long(), user(WRITE)), Err(protected | write | user_bit));
        assert!(result(&with(P | U), &long(), user(READ)).is_ok());
        assert_eq!(result(&with(P | W), &long(), user(READ)), Err(protected | user_bit));
        assert!(result(&with(P | W), &long(), WRITE).is_ok());
        assert_eq!(result(&with(all | XD), &long(), FETCH), Err(protected | fetch));
        assert_eq!(result(&with(all | XD), &long(), user(FETCH)), Err(protected | fetch | user_bit));
        assert_eq!(result(&with(0), &long(), user(WRITE)), Err(write | user_bit), "not present");
    }
}

#[test]
fn xd_is_reserved_where_it_means_nothing() {
    let no_nx = paging(PAE, LONG);
    let reserved = PageFault::PRESENT | PageFault::RESERVED;
    assert_eq!(result(&four([P | W, P | W, P | W, P | W | XD]), &no_nx, READ), Err(reserved));
    // And a fetch is not told apart.
    assert_eq!(result(&four([0; 4]), &no_nx, FETCH), Err(0));
    assert_eq!(result(&four([0; 4]), &paging(PAE | SMEP, LONG), FETCH), Err(PageFault::FETCH));
}

#[test]
fn reserved_bits_come_before_rights_and_behind_presence() {
    let reserved = PageFault::PRESENT | PageFault::RESERVED;
    let plain = P | W;
    for (flags, expected) in [
        ([plain | PS, plain, plain, plain], reserved),
        ([plain, plain, plain, plain | 1 << 40], reserved),
        ([plain, plain, plain, 1 << 40], 0),
        ([plain, plain | 1 << 51, plain, 0], reserved),
    ] {
        assert_eq!(result(&four(flags), &long(), READ), Err(expected), "{flags:x?}");
    }
    let tables = four([plain, plain, plain | PS | 1 << 13, 0]);
    assert_eq!(result(&tables, &long(), READ), Err(reserved), "a 2 MiB page that is not aligned");
    let without = GuestPaging { gigantic_pages: false, ..long() };
    let gigantic = four([plain, plain | PS, plain, plain]);
    assert_eq!(result(&gigantic, &without, READ), Err(reserved), "1 GiB pages that there are not");
    assert_eq!(result(&four([plain, plain, plain, plain | 1 << 52]), &long(), READ).map(|_| ()), Ok(()));
}

#[test]
fn large_pages() {
    let tables = Tables::default();
    tables.put(0x1000, 0x2000 | P | W | U);
    tables.put(0x2000, 0x3000 | P | W | U);
    tables.put(0x3010, 0x60_0000 | P | W | U | PS);
    tables.put(0x2008, 0x8000_0000 | P | W | PS);
    let huge = at(&tables, &long(), 0x41_2345, WRITE).expect("2 MiB");
    assert_eq!((huge.gpa, huge.shift), (Gpa::new(0x61_2345), 21));
    assert_eq!(tables.get(0x3010) & (A | D), A | D);
    let gigantic = at(&tables, &long(), 0x4765_4321, READ).expect("1 GiB");
    assert_eq!((gigantic.gpa, gigantic.shift, gigantic.user), (Gpa::new(0x8765_4321), 30, false));
}

#[test]
fn without_wp_the_supervisor_writes_where_it_may_not() {
    let wp_off = GuestPaging { cr0: PG_PE, ..long() };
    let read_only = || four([P | W | U, P | W | U, P | W | U, P | U]);
    let found = result(&read_only(), &wp_off, WRITE).expect("allowed");
    assert!(found.write && !found.user && found.execute, "nobody else may by the same leaf");
    let smep = GuestPaging { cr4: PAE | SMEP, ..wp_off };
    assert!(!result(&read_only(), &smep, WRITE).expect("allowed").execute, "it was a user's page");
    let wrong = PageFault::PRESENT | PageFault::WRITE | PageFault::USER;
    assert_eq!(result(&read_only(), &wp_off, user(WRITE)), Err(wrong));
    assert!(!result(&read_only(), &wp_off, READ).expect("allowed").write);
}

#[test]
fn smep_and_smap() {
    let pages = || four([P | W | U; 4]);
    let both = GuestPaging { cr4: PAE | SMEP | SMAP, ..long() };
    let (present, fetch, write) = (PageFault::PRESENT, PageFault::FETCH, PageFault::WRITE);
    assert_eq!(result(&pages(), &both, FETCH), Err(present | fetch));
    assert_eq!(result(&pages(), &both, READ), Err(present));
    assert_eq!(result(&pages(), &both, WRITE), Err(present | write));
    let passes = LinearAccess { passes_smap: true, ..WRITE };
    assert!(result(&pages(), &both, passes).is_ok());
    assert!(result(&pages(), &both, user(WRITE)).is_ok());
    let supervisor = four([P | W | U, P | W, P | W | U, P | W | U]);
    assert!(result(&supervisor, &both, WRITE).is_ok() && result(&supervisor, &both, FETCH).is_ok());
}

#[test]
fn two_levels_of_32_bits() {
    let legacy = paging(PSE, 0);
    let tables = Tables::default();
    tables.put_32(0x1004, 0x2000 | P | W | U);
    tables.put_32(0x1008, 0x00c0_0000 | 3 << 13 | P | W | PS);
    tables.put_32(0x2008, 0x5_5000 | P | U);
    let found = at(&tables, &legacy, 0x40_2123, user(READ)).expect("4 KiB");
    assert_eq!((found.gpa, found.write, found.user), (Gpa::new(0x5_5123), false, true));
    assert_eq!((tables.get_32(0x1004) & A, tables.get_32(0x2008) & (A | D)), (A, A));
    assert_eq!(at(&tables, &legacy, 0x40_2123, WRITE), Err(PageFault::PRESENT | PageFault::WRITE));
    let large = at(&tables, &legacy, 0x00a1_2345, WRITE).expect("4 MiB");
    assert_eq!((large.gpa, large.shift), (Gpa::new(0x3_00e1_2345), 22));
    // Bit 21 is reserved, and so are bits of the address that the processor has not got.
    let reserved = Err(PageFault::PRESENT | PageFault::RESERVED);
    assert_eq!(at(&tables, &GuestPaging { physical_bits: 33, ..legacy }, 0x00a1_2345, READ), reserved);
    tables.put_32(0x1008, 0x00c0_0000 | 1 << 21 | P | PS);
    assert_eq!(at(&tables, &legacy, 0x00a1_2345, READ), reserved);
    // Without CR4.PSE there are no such pages: the entry names a table at 0xe0_0000.
    assert_eq!(at(&tables, &paging(0, 0), 0x00a1_2345, READ), Err(0));
}

#[test]
fn pae_takes_its_pointers_from_registers() {
    let tables = Tables::default();
    tables.put(0x3010, 0x4000 | P | W | U);
    tables.put(0x4010, 0x5_5000 | P | W | U);
    let pae = GuestPaging { pdptes: [0, 0x3000 | P, 0, 0], ..paging(PAE, NXE) };
    let found = at(&tables, &pae, 0x4040_2123, user(WRITE)).expect("mapped");
    assert_eq!((found.gpa, found.write, found.user), (Gpa::new(0x5_5123), true, true));
    assert_eq!(at(&tables, &pae, 0x0040_2123, READ), Err(0), "a pointer that is not there");
    tables.put(0x4010, 0x5_5000 | 1 << 52 | P | W | U);
    let reserved = Err(PageFault::PRESENT | PageFault::RESERVED);
    assert_eq!(at(&tables, &pae, 0x4040_2123, READ), reserved, "bits 62:52 are not ignored here");
}

#[test]
fn a_table_in_a_hole_reads_all_ones() {
    let tables = Tables::default();
    tables.put(0x1000, 0x7fff_f000 | P | W | U);
    assert_eq!(result(&tables, &long(), READ), Err(PageFault::PRESENT | PageFault::RESERVED));
}

#[test]
fn an_entry_that_the_guest_changes_meanwhile_is_read_again() {
    let tables = four([P | W | U; 4]);
    tables.meanwhile.replace(Some((0x4010, 0x7_7000 | P | W | U)));
    // The root's A is set first; the leaf has changed by then.
    assert_eq!(result(&tables, &long(), WRITE).map(|found| found.gpa), Ok(Gpa::new(0x7_7123)));
    assert_eq!(tables.get(0x4010), 0x7_7000 | P | W | U | A | D);
    tables.meanwhile.replace(Some((0x4010, 0)));
    for (at, frame) in [(0x1000, 0x2000), (0x4010, 0x7_7000)] {
        tables.put(at, frame | P | W | U);
    }
    assert_eq!(result(&tables, &long(), READ), Err(0));
}
