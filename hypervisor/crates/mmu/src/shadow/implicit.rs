//! Implicit accesses (SDM vol. 3A 4.6.1): to the GDT, LDT, IDT and TSS. SMAP keeps them from a user's page whatever RFLAGS.AC is, and nothing in a
//! page fault tells them from explicit ones.
//!
//! What a shadow would let the supervisor do, but for SMAP, and the processor has refused because of what it found there, SMAP has stopped:
//! entries come only from faults of this virtual processor, so at the fault there was no less than now.

use super::format;
use super::rmap::Place;
use super::tables::{POINTERS, Shadow};
use super::{Processor, SecondaryMmu};
use mm::Host;
use mutants::{Mutant, intact};
use paging::Level;

impl Shadow {
    /// Whether all entries on an address' way are there, are the user's, and, for a store, may be written.
    fn grants_user<H: Host>(&self, host: &H, linear: u64, write: bool) -> bool {
        let all = [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];
        let (mut table, levels) = match self.current() {
            POINTERS => (self.child(Place::new(POINTERS, (linear >> 30 & 3) as u16)), &all[2..]),
            root => (Some(root), &all[..]),
        };
        for level in levels {
            let Some(at) = table.map(|table| Place::new(table, level.index(linear))) else { return true };
            if !format::grants_user(host.load(self.entry(at)), write) {
                return false;
            }
            table = self.child(at);
        }
        table.is_none()
    }
}

impl<H: Host> SecondaryMmu<H> {
    /// Whether an access by a processor's supervisor that was refused, with RFLAGS.AC set, because of what is at the address, was an implicit one.
    pub fn is_implicit(&self, processor: Processor, linear: u64, write: bool) -> bool {
        let locked = self.locked.read();
        let shadow = locked.shadows.get(processor.0).filter(|_| intact(Mutant::ShadowImplicitUnseen));
        shadow.is_some_and(|shadow| shadow.grants_user(&*self.host, linear, write))
    }
}
