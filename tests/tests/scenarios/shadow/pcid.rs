//! PCIDs under a shadow: what one that comes back without a flush may still have, and what it cannot have.
//!
//! Its own root is page 1, as without PCIDs. Another one is page 8, which shares what is below, or has tables of its own: 9, 10 and 11.

use super::{A, D, End, Guest, LONG, P, PROCESSOR, READ, U, W, numbered};
use crate::{GUEST, Outcome};
use mmu::{Drops, GuestPaging, LinearAccess, LinearFault};
use tests::lab::gpage;

const PCIDE: u64 = 1 << 17;
const SMAP: u64 = 1 << 21;
const G: u64 = 1 << 8;
const FLAGS: u64 = P | W | A | D;

/// With its first root loaded for PCID 1, and the other one, which shares tables or not, for 2.
fn two_pcids(shares: bool) -> Result<Guest, tests::Violation> {
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    guest.paging.cr4 |= PCIDE;
    if shares {
        guest.write(gpage(8), gpage(2).as_u64() | P | W | U)?;
    } else {
        for (table, below) in [(8, 9), (9, 10), (10, 11)] {
            guest.write(gpage(table), gpage(below).as_u64() | P | W | U)?;
        }
    }
    guest.load((1, 1), Drops::All);
    guest.load((2, 8), Drops::Pcid);
    guest.load((1, 1), Drops::Nothing);
    Ok(guest)
}

impl Guest {
    /// MOV to CR3: PCID and root.
    fn load(&mut self, (pcid, root): (u64, u64), drops: Drops) {
        self.paging.cr3 = gpage(root).as_u64() | pcid;
        self.loads(drops);
    }

    /// INVPCID for one that is not loaded.
    fn drops_pcid(&self, pcid: u16, linear: Option<u64>) {
        self.lab.guest(GUEST).mmu.invalidate_pcid(PROCESSOR, pcid, linear);
    }
}

#[test]
fn what_a_pcid_had_it_may_have_until_it_is_flushed() -> Outcome {
    let flushes: [fn(&mut Guest); 6] = [
        |guest| guest.load((1, 1), Drops::Pcid),
        |guest| guest.invalidates(0x5000),
        |guest| guest.load((1, 1), Drops::All),
        |guest| {
            guest.load((2, 8), Drops::Nothing);
            guest.drops_pcid(1, Some(0x5123));
            guest.load((1, 1), Drops::Nothing);
        },
        |guest| {
            guest.load((2, 8), Drops::Nothing);
            guest.drops_pcid(1, None);
            guest.load((1, 1), Drops::Nothing);
        },
        |guest| {
            guest.load((2, 8), Drops::All);
            guest.load((1, 1), Drops::Nothing);
        },
    ];
    for (number, flush) in flushes.into_iter().enumerate() {
        let mut guest = two_pcids(false)?;
        guest.map(5, 20, FLAGS)?;
        guest.reads(0x5000, 20)?;
        guest.map(5, 21, FLAGS)?;
        for (context, value) in [((2, 8), None), ((1, 1), Some(20))] {
            guest.load(context, Drops::Nothing);
            match value {
                None => assert_eq!(guest.access(0x5000, None)?, End::Fault(0), "it is another one's"),
                // A processor might, and this one does: nobody has compared the table.
                Some(value) => guest.reads(0x5000, value)?,
            }
        }
        flush(&mut guest);
        assert_eq!(guest.access(0x5000, None)?, End::Value(21), "flush {number}");
        guest.finish()?;
    }
    Ok(())
}

#[test]
fn a_stranger_has_cached_nothing() -> Outcome {
    // Another PCID with the same root, and one that was there with another root.
    for (pcid, shares) in [(3, false), (2, false), (2, true)] {
        let mut guest = two_pcids(shares)?;
        guest.map(5, 20, FLAGS)?;
        guest.reads(0x5000, 20)?;
        guest.map(5, 21, FLAGS)?;
        guest.load((pcid, 1), Drops::Nothing);
        guest.reads(0x5000, 21)?;
        guest.finish()?;
    }
    Ok(())
}

#[test]
fn what_others_have_derived_meanwhile_a_pcid_cannot_have() -> Outcome {
    let mut guest = two_pcids(true)?;
    guest.map(6, 22, FLAGS)?;
    guest.reads(0x6000, 22)?;
    for (first, second) in [(20, 21), (23, 24)] {
        // From absent to present, and on: for PCID 2 it is flushed later, PCID 1 has not seen it.
        guest.load((2, 8), Drops::Nothing);
        guest.map(5, first, FLAGS)?;
        guest.reads(0x5000, first)?;
        guest.map(5, second, FLAGS)?;
        guest.load((1, 1), Drops::Nothing);
        guest.reads(0x5000, second)?;
        guest.map(5, 0, 0)?;
        guest.invalidates(0x5000);
        guest.drops_pcid(2, Some(0x5000));
    }
    guest.finish()
}

#[test]
fn by_ways_of_others_a_pcid_has_cached_nothing() -> Outcome {
    let mut guest = two_pcids(true)?;
    // PCID 2 has a directory of its own, page 10, with two page tables, and reads by both.
    guest.write(gpage(8).add(8), gpage(9).as_u64() | P | W)?;
    guest.write(gpage(9), gpage(10).as_u64() | P | W)?;
    for (entry, table) in [(0, 12), (1, 13)] {
        guest.write(gpage(10).add(entry * 8), gpage(table).as_u64() | P | W)?;
        guest.write(gpage(table).add(5 * 8), gpage(20).as_u64() | FLAGS)?;
    }
    guest.load((2, 8), Drops::Pcid);
    for linear in [0x5000, 0x20_5000] {
        guest.reads(1 << 39 | linear, 20)?;
    }
    guest.load((1, 1), Drops::Pcid);
    guest.map(6, 22, FLAGS)?;
    guest.reads(0x6000, 22)?;
    guest.load((2, 8), Drops::Nothing);
    // It comes below what both share, and a page that was not read there changes.
    guest.write(gpage(2).add(8), gpage(10).as_u64() | P | W)?;
    guest.reads(0x4000_5000, 20)?;
    guest.write(gpage(13).add(5 * 8), gpage(21).as_u64() | FLAGS)?;
    guest.load((1, 1), Drops::Nothing);
    guest.reads(0x4020_5000, 21)?;
    guest.finish()
}

#[test]
fn a_table_that_was_apart_comes_below_another_root() -> Outcome {
    let mut guest = two_pcids(false)?;
    guest.map(5, 20, FLAGS)?;
    guest.reads(0x5000, 20)?;
    guest.map(5, 21, FLAGS)?;
    guest.load((2, 8), Drops::Nothing);
    guest.write(gpage(10).add(8), gpage(4).as_u64() | P | W)?;
    guest.reads(0x20_5000, 21)?;
    guest.finish()
}

#[test]
fn a_flush_of_a_global_page_is_one_for_all() -> Outcome {
    // One, and more than are remembered.
    for others in [0, 20] {
        let mut guest = two_pcids(false)?;
        guest.map(5, 20, FLAGS | G)?;
        guest.reads(0x5000, 20)?;
        guest.map(5, 21, FLAGS | G)?;
        guest.load((2, 8), Drops::Nothing);
        guest.invalidates(0x5000);
        (0..others).for_each(|page| guest.invalidates(0x10_0000 + page * 0x1000));
        guest.load((1, 1), Drops::Nothing);
        guest.reads(0x5000, 21)?;
        guest.finish()?;
    }
    Ok(())
}

#[test]
fn more_pcids_than_are_known() -> Outcome {
    let mut guest = two_pcids(false)?;
    guest.map(5, 20, FLAGS)?;
    for round in 0..3 {
        for pcid in 0..24 {
            guest.load((pcid, if pcid % 2 == 0 { 1 } else { 8 }), Drops::Nothing);
            let expected = if pcid % 2 == 0 { End::Value(20) } else { End::Fault(0) };
            assert_eq!(guest.access(0x5000, None)?, expected, "PCID {pcid}, round {round}");
        }
    }
    guest.finish()
}

#[test]
fn an_implicit_access_is_known_by_what_is_there() -> Outcome {
    let paging = GuestPaging { cr4: LONG.cr4 | SMAP, ..LONG };
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    guest.paging = paging;
    guest.loads(Drops::All);
    let mmu = std::sync::Arc::clone(&guest.lab.guest(GUEST).mmu);
    let is_implicit = |linear, write| mmu.is_implicit(PROCESSOR, linear, write);
    // The user's, as yet without D; the user's with it; the supervisor's.
    for (index, flags) in [(5, P | W | U | A), (6, FLAGS | U), (7, FLAGS)] {
        guest.map(index, 20, flags)?;
        let (linear, explicit) = (index << 12, LinearAccess { passes_smap: true, ..READ });
        assert!(!is_implicit(linear, false), "there is nothing that could be refused");
        guest.lab.machine.exit(crate::CPU0);
        assert_eq!(mmu.fault_linear(PROCESSOR, &paging, linear, explicit), Ok(LinearFault::Mapped));
        assert_eq!(is_implicit(linear, false), index < 7);
        assert_eq!(is_implicit(linear, true), index == 6, "else it may be refused for a store");
    }
    drop(mmu);
    guest.finish()
}
