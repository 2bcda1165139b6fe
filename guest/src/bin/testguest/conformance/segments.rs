//! Segments of both levels and both widths, and the task whose stack an exception of CPL 3 comes to.

use crate::Guest;
use crate::report::Failure;
use core::arch::asm;
use guest::memory::Pages;

/// Selectors: those of the boot code, and behind them a user's, the task's, and the same of 32 bits.
pub(super) const CODE: u64 = 8;
pub(super) const DATA: u64 = 16;
pub(super) const USER_DATA: u64 = 24 | 3;
pub(super) const USER_CODE: u64 = 32 | 3;
const TASK: u16 = 40;
pub(super) const CODE_32: u32 = 56;
pub(super) const DATA_32: u32 = 64;
pub(super) const USER_DATA_32: u32 = 72 | 3;
pub(super) const USER_CODE_32: u32 = 80 | 3;
/// Code and data of the supervisor and of the user (SDM vol. 3A 3.4.5).
const SEGMENTS: [u64; 5] =
    [0, 0x0020_9a00_0000_0000, 0x0000_9200_0000_0000, 0x0000_f200_0000_0000, 0x0020_fa00_0000_0000];
/// The same of 32 bits, each with 4 GiB.
const SEGMENTS_32: [u64; 4] =
    [0x00cf_9a00_0000_ffff, 0x00cf_9200_0000_ffff, 0x00cf_f200_0000_ffff, 0x00cf_fa00_0000_ffff];
/// A TSS that is free, its limit, and where it lies in its page.
const FREE_TASK: u64 = 0x89 << 40;
const TASK_LIMIT: u64 = 103;
const TASK_OFFSET: u64 = 1024;

/// The tables of both.
pub(super) struct Segments {
    tables: Pages,
}

impl Segments {
    /// All loaded.
    pub(super) fn new(guest: &mut Guest) -> Result<Self, Failure> {
        let (tables, stack) = (guest.memory.take(1)?, guest.memory.take(4)?);
        let task = tables.page(0).as_u64() + TASK_OFFSET;
        // SDM vol. 3A 8.2.3: the descriptor has 16 bytes.
        let descriptor = FREE_TASK | TASK_LIMIT | (task & 0xff_ffff) << 16 | (task >> 24 & 0xff) << 56;
        let words = SEGMENTS.into_iter().chain([descriptor, task >> 32]).chain(SEGMENTS_32);
        tables.fill(0, |_| 0);
        words.zip(0..).for_each(|(value, word)| tables.write(0, word, value));
        tables.write(0, TASK_OFFSET / 8, stack.page(3).add(addr::PAGE_SIZE).as_u64() << 32);
        let pointer: [u16; 5] = {
            let base = tables.page(0).as_u64();
            let limit = (SEGMENTS.len() + 2 + SEGMENTS_32.len()) * 8 - 1;
            [limit as u16, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16]
        };
        // SAFETY: the boot code's segments are in the new table, at their places; the task names a stack of its own.
        unsafe {
            asm!("lgdt [{}]", "ltr {:x}", in(reg) &raw const pointer, in(reg) TASK, options(readonly, nostack));
        }
        Ok(Self { tables })
    }

    /// Runs something outside long mode: there the upper half of RSP0, which is four bytes into the TSS, is the stack's segment (SDM vol. 3A
    /// 8.2.1). What the processor keeps of the task is good for both.
    pub(super) fn with_32_bits(&self, run: impl FnOnce()) {
        self.tables.write(0, TASK_OFFSET / 8 + 1, DATA_32.into());
        run();
        self.tables.write(0, TASK_OFFSET / 8 + 1, 0);
    }
}
