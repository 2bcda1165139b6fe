//! Disturbances of a running guest's memory: mprotect and back, migration, aging, on resident pages picked at
//! random. A correct guest cannot tell; the coherence oracle can, when a notifier call is missing.

use super::memory::Memory;
use addr::{GpaRange, Hva, PAGE_SHIFT, PAGE_SIZE};
use firmware::Ram;
use mm::{Host, MigrateError, OutOfFrames};

/// Attempts to find a resident page, each time.
const ATTEMPTS: usize = 64;

/// When the next disturbance is due, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stirrer {
    ram: Ram,
    every: u64,
    left: u64,
    random: u64,
}

impl Stirrer {
    /// Disturbs each `every` exits; `None`, if that is 0.
    pub(super) fn new(ram: Ram, every: u64) -> Option<Self> {
        (every != 0).then_some(Self { ram, every, left: every, random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// Counts an exit; whether a disturbance is due.
    pub(super) fn due(&mut self) -> bool {
        self.left -= 1;
        if self.left == 0 {
            self.left = self.every;
        }
        self.left == self.every
    }

    /// Disturbs one page, if it finds a resident one. `check` runs after every step.
    pub(super) fn stir<H: Host + 'static>(&mut self, memory: &Memory<H>, mut check: impl FnMut()) {
        let Some((page, hva)) = self.pick(memory) else { return };
        match self.next() % 3 {
            0 => {
                if let Err(error) = memory.protect(page.start(), page.len(), &mut check) {
                    log::warn!("stir: {error}");
                }
            }
            1 => match memory.space().migrate_page(hva) {
                // A machine without a spare frame cannot migrate; nothing is wrong with that.
                Ok(_) | Err(MigrateError::OutOfFrames(OutOfFrames { .. })) => check(),
                Err(error) => log::warn!("stir: {error}"),
            },
            _ => {
                memory.space().test_and_clear_young(hva);
                check();
            }
        }
    }

    fn pick<H: Host + 'static>(&mut self, memory: &Memory<H>) -> Option<(GpaRange, Hva)> {
        let pages = self.ram.low().len() >> PAGE_SHIFT;
        for _ in 0..ATTEMPTS {
            let gpa = self.ram.low().start().add((self.next() % pages) << PAGE_SHIFT);
            let page = GpaRange::sized(gpa, PAGE_SIZE)?;
            let hva = memory.mmu().translate(page)?.start();
            if memory.space().lookup(hva).is_some() {
                return Some((page, hva));
            }
        }
        None
    }

    /// Xorshift: repeatable from run to run.
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
