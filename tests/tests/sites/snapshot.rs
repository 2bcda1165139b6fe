//! Snapshots that build on others, of a guest that writes all the time: each instant comes back as it was, whatever the log has to say
//! of it.

use crate::Outcome;
use crate::bench::{Bench, SMALL, SpaceId, answer, bytes};
use addr::{Gfn, GfnRange};
use mmu::LogBy;
use snapshot::{Blocks, Chain, Header, Machine, PAGE_BYTES, Page, Processor, Range, Sink, Snapshot, Writer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use tests::lab::page;

/// Pages of the guest.
const MEMORY: u64 = 16;

/// A disk of pages, which takes so many writes more.
#[derive(Default)]
struct Platter {
    pages: RefCell<BTreeMap<u64, Page>>,
    fails: bool,
}

/// It is broken.
#[derive(Debug)]
struct Broken;

impl Sink for &Platter {
    type Error = Broken;

    fn write(&mut self, page: u64, bytes: &Page) -> Result<(), Broken> {
        if self.fails {
            return Err(Broken);
        }
        self.pages.borrow_mut().insert(page, *bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}

impl Blocks for Platter {
    type Error = Broken;

    fn bytes(&self) -> u64 {
        1 << 40
    }

    fn read(&self, page: u64, bytes: &mut Page) -> Result<(), Broken> {
        *bytes = self.pages.borrow().get(&page).copied().unwrap_or([0; PAGE_BYTES]);
        Ok(())
    }
}

fn described() -> Machine {
    let processor = Processor {
        fields: vec![],
        general: [0; 16],
        cr2: 0,
        vectors: vec![],
        xcr0: 1,
        msrs: vec![],
        debug: [0; 5],
        activity: 0,
        pending: None,
        nmi_waits: false,
        serves: false,
        apic: None,
    };
    Machine {
        ranges: vec![Range { start: 0, bytes: bytes(MEMORY) }],
        tsc_hz: 1,
        tsc: 1,
        boot_seconds: 1,
        features: snapshot::Features::default(),
        digest: None,
        processors: vec![processor],
    }
}

/// A guest whose snapshots go to a disk.
struct Taken {
    b: Bench,
    platter: Platter,
    chain: Chain,
    logs: Option<LogBy>,
}

impl Taken {
    fn new(by: LogBy) -> Result<Self, tests::Violation> {
        let b = Bench::new(SMALL);
        b.map_pages(0, 0, MEMORY)?;
        b.fill(0, 0..8, 10)?;
        let mut this = Self { b, platter: Platter::default(), chain: Chain::new(MEMORY), logs: None };
        this.take(by, |_| Ok(()))?.expect("the disk takes it");
        Ok(this)
    }

    /// The instant: the copy, and the log of what has changed since the last one.
    fn instant(&mut self, by: LogBy) -> Result<SpaceId, tests::Violation> {
        let copy = self.b.fork(0)?;
        let space = self.b.space(0);
        if self.logs.replace(by).is_none() {
            assert_eq!(space.mmu.begin_log(Gfn::ZERO, by), Ok(()));
        } else {
            space.mmu.note_logged(self.b.machine.take_logged(space.root));
            let dirty = space.mmu.harvest(GfnRange::new(Gfn::ZERO, Gfn::new(MEMORY)));
            dirty.iter().for_each(|gfn| self.chain.note(gfn.as_u64()));
        }
        Ok(copy)
    }

    /// Takes a snapshot; meanwhile the guest does something.
    fn take(
        &mut self,
        by: LogBy,
        meanwhile: impl FnOnce(&Bench) -> Outcome,
    ) -> Result<Result<(), Broken>, tests::Violation> {
        let copy = self.instant(by)?;
        meanwhile(&self.b)?;
        let written = self.write(copy);
        self.b.end_space(copy)?;
        match written {
            Ok(header) => self.chain.add(header),
            Err(Broken) => {
                self.chain.fail();
                return Ok(Err(Broken));
            }
        }
        Ok(Ok(()))
    }

    fn write(&self, copy: SpaceId) -> Result<Header, Broken> {
        let mut writer = match self.chain.newest() {
            None => Writer::new(&self.platter, MEMORY),
            Some(base) => Writer::behind(&self.platter, base)?,
        };
        for index in 0..MEMORY {
            if self.chain.wanted().is_some_and(|wanted| wanted.next(index) != Some(index)) {
                continue;
            }
            let tests::lab::Verdict::Value(value) = self.b.load(copy, index) else {
                panic!("page {index} cannot be read")
            };
            let mut contents = [0; PAGE_BYTES];
            contents[..8].copy_from_slice(&value.to_le_bytes());
            writer.page(index, &contents)?;
        }
        writer.finish(&described(), b"")
    }

    /// What is restored has these values in its first pages, and zeros behind.
    fn has(&self, values: &[u64]) -> Outcome {
        let snapshot = Snapshot::open(&self.platter).expect("good");
        for index in 0..MEMORY {
            let mut contents = [0; PAGE_BYTES];
            if let Some(place) = snapshot.place(index) {
                self.platter.read(place.page, &mut contents).expect("is there");
            }
            let found = u64::from_le_bytes(contents[..8].try_into().expect("eight bytes"));
            let wanted = values.get(index as usize).copied().unwrap_or(0);
            if found != wanted {
                return Err(answer(
                    &format!("page {index}, restored"),
                    format!("{wanted}"),
                    format!("{found}"),
                ));
            }
        }
        Ok(())
    }
}

#[test]
fn each_instant_comes_back_as_it_was() -> Outcome {
    for by in [LogBy::WriteFault, LogBy::Processor] {
        let mut t = Taken::new(by)?;
        t.has(&[10, 11, 12, 13, 14, 15, 16, 17])?;
        t.b.guest_writes(0, 1, 21)?;
        t.b.guest_writes(0, 3, 23)?;
        // What is written while a part is written is the next one's.
        t.take(by, |b| b.guest_writes(0, 1, 31))?.expect("the disk takes it");
        t.has(&[10, 21, 12, 23, 14, 15, 16, 17])?;
        t.take(by, |b| b.guest_writes(0, 9, 39))?.expect("the disk takes it");
        t.has(&[10, 31, 12, 23, 14, 15, 16, 17])?;
        // In swap, and not written: as it was. Written before it went there: as it is now.
        t.b.page_out(0, 5)?;
        t.b.guest_writes(0, 6, 46)?;
        t.b.page_out(0, 6)?;
        t.take(by, |_| Ok(()))?.expect("the disk takes it");
        t.has(&[10, 31, 12, 23, 14, 15, 46, 17, 0, 39])?;
        t.b.finish()?;
    }
    Ok(())
}

#[test]
fn a_page_that_holds_zeros_since_is_restored_so() -> Outcome {
    for by in [LogBy::WriteFault, LogBy::Processor] {
        let mut t = Taken::new(by)?;
        t.b.does(0, "discard", |space| space.discard(page(2), bytes(1)))?;
        t.b.guest_writes(0, 4, 0)?;
        t.take(by, |_| Ok(()))?.expect("the disk takes it");
        t.has(&[10, 11, 0, 13, 0, 15, 16, 17])?;
        t.b.finish()?;
    }
    Ok(())
}

#[test]
fn a_snapshot_that_fails_leaves_what_was_written_to_the_next_one() -> Outcome {
    for by in [LogBy::WriteFault, LogBy::Processor] {
        let mut t = Taken::new(by)?;
        t.b.guest_writes(0, 1, 21)?;
        t.platter.fails = true;
        t.take(by, |b| b.guest_writes(0, 2, 22))?.expect_err("the disk is broken");
        t.platter.fails = false;
        t.has(&[10, 11, 12, 13, 14, 15, 16, 17])?;
        t.take(by, |_| Ok(()))?.expect("the disk takes it");
        t.has(&[10, 21, 22, 13, 14, 15, 16, 17])?;
        t.b.finish()?;
    }
    Ok(())
}
