//! Tags of virtual processors' linear translations (SDM vol. 3C 29.1). Whoever gets one flushes it on each CPU before he
//! runs there: somebody else may have had it.

use spin::Mutex;

/// Tags that can be in use at a time; 0 is Herald's own.
pub(super) const MOST_VPIDS: usize = 1023;

static USED: Mutex<[u64; (MOST_VPIDS + 1) / 64]> = Mutex::new([0; (MOST_VPIDS + 1) / 64]);

/// An owned tag.
#[derive(Debug)]
pub(super) struct Vpid(u16);

impl Vpid {
    /// A tag that nobody has.
    pub(super) fn allocate() -> Option<Self> {
        let mut used = USED.lock();
        let free = |tag: &usize| used[tag / 64] >> (tag % 64) & 1 == 0;
        let tag = (1..=MOST_VPIDS).find(free)?;
        used[tag / 64] |= 1 << (tag % 64);
        Some(Self(tag as u16))
    }

    /// The tag.
    pub(super) const fn tag(&self) -> u16 {
        self.0
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        USED.lock()[usize::from(self.0) / 64] &= !(1 << (self.0 % 64));
    }
}
