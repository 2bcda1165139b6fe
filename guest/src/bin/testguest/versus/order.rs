//! Orders in which pages are touched: each page once, of a power of two of them.

/// In which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// One after the other.
    Sequential,
    /// Every 617th, round and round: no two neighbours.
    Strided,
    /// As a generator of full period gives them (Knuth 2, 3.2.1.2, theorem A): no two distances alike.
    Random,
}

impl Order {
    /// Factor and summand from one page to the next.
    const fn step(self) -> (u64, u64) {
        match self {
            Self::Sequential => (1, 1),
            Self::Strided => (1, 617),
            Self::Random => (0x5851_f42d_4c95_7f2d, 0x1405_7b7e_f767_814f),
        }
    }

    /// The pages from 0 to `count`, a power of two.
    pub(super) fn pages(self, count: u64) -> impl Iterator<Item = u64> {
        let (factor, summand) = self.step();
        let mut next = 0u64;
        (0..count).map(move |_| {
            let page = next & (count - 1);
            next = next.wrapping_mul(factor).wrapping_add(summand);
            page
        })
    }
}
