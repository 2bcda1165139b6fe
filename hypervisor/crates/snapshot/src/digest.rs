//! A digest of all memory, whatever order its pages are looked at in: what the oracle compares.

use crate::{Page, sum};

/// A digest under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(u64);

impl Digest {
    /// Adds page `index` of memory. One that holds zeros counts as one that is not there.
    pub fn add(&mut self, index: u64, bytes: &Page) {
        if bytes.iter().any(|&byte| byte != 0) {
            self.add_sum(index, sum(bytes));
        }
    }

    /// Adds page `index`, which holds something, by its checksum.
    pub fn add_sum(&mut self, index: u64, checksum: u32) {
        // SplitMix64's finaliser: sums of them tell sets of pairs apart.
        let mut mixed = (index << 32 ^ u64::from(checksum)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = self.0.wrapping_add(mixed ^ mixed >> 31);
    }

    /// The digest.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}
