//! A binary buddy allocator. Free blocks of each order form a doubly linked list through the metadata of
//! their first frames; two free buddies join at once.

use super::meta::{FrameMeta, NIL, State};
use addr::Pfn;

/// Largest order: 2^18 frames are 1 GiB.
pub(super) const MAX_ORDER: usize = 18;

/// Heads of the free lists, by order.
#[derive(Debug)]
pub(super) struct Buddy {
    heads: [u32; MAX_ORDER + 1],
}

impl Buddy {
    pub(super) const fn new() -> Self {
        Self { heads: [NIL; MAX_ORDER + 1] }
    }

    /// Takes a block of 2^order frames, splitting a larger one if need be.
    pub(super) fn allocate(&mut self, meta: &[FrameMeta], order: u8) -> Option<Pfn> {
        let found = (order..=MAX_ORDER as u8).find(|&order| self.heads[usize::from(order)] != NIL)?;
        let block = self.heads[usize::from(found)];
        self.unlink(meta, block, found);
        for smaller in (order..found).rev() {
            self.link(meta, block + (1 << smaller), smaller);
        }
        Some(Pfn::new(u64::from(block)))
    }

    /// Takes up to `most` frames in a row, from the smallest block that there is: the first one, and how many.
    pub(super) fn allocate_run(&mut self, meta: &[FrameMeta], most: usize) -> Option<(Pfn, usize)> {
        let found = self.heads.iter().position(|&head| head != NIL)? as u8;
        let order = found.min(most.ilog2() as u8);
        let first = self.allocate(meta, order)?;
        Some((first, 1 << order))
    }

    /// Gives a block of 2^order frames back.
    pub(super) fn free(&mut self, meta: &[FrameMeta], frame: Pfn, order: u8) {
        let (mut block, mut order) = (frame.as_u64() as u32, order);
        while usize::from(order) < MAX_ORDER {
            let buddy = block ^ (1 << order);
            let joins = meta.get(buddy as usize).is_some_and(|meta| meta.head_order() == Some(order));
            if !joins {
                break;
            }
            self.unlink(meta, buddy, order);
            block &= !(1 << order);
            order += 1;
        }
        self.link(meta, block, order);
    }

    /// Gives a run of frames back, in blocks as large as alignment allows.
    pub(super) fn free_run(&mut self, meta: &[FrameMeta], start: u64, end: u64) {
        let mut next = start;
        while next < end {
            let aligned = if next == 0 { u64::MAX } else { 1 << next.trailing_zeros() };
            let order = aligned.min(end - next).ilog2().min(MAX_ORDER as u32);
            self.free(meta, Pfn::new(next), order as u8);
            next += 1 << order;
        }
    }

    fn link(&mut self, meta: &[FrameMeta], block: u32, order: u8) {
        let head = &mut self.heads[usize::from(order)];
        if *head != NIL {
            meta[*head as usize].set_previous(block);
        }
        meta[block as usize].make_head(order, NIL, *head);
        *head = block;
    }

    fn unlink(&mut self, meta: &[FrameMeta], block: u32, order: u8) {
        debug_assert_eq!(meta[block as usize].state(), State::FreeHead);
        let (previous, next) = meta[block as usize].links();
        match previous {
            NIL => self.heads[usize::from(order)] = next,
            previous => meta[previous as usize].set_next(next),
        }
        if next != NIL {
            meta[next as usize].set_previous(previous);
        }
        meta[block as usize].unmake_head();
    }
}
