//! A local APIC on loan to the processor, which delivers its interrupts by itself (SDM vol. 3C chapter 30: TPR shadow,
//! virtual x2APIC mode, APIC-register virtualisation, virtual-interrupt delivery).
//!
//! ```text
//!                            x2APIC mode begins
//!   the model has all ───────────────────────────► the page has TPR, PPR, ISR and IRR; the model has the rest,
//!          ▲                                       and collects what comes, which moves to the page before an entry
//!          └──── INIT, or the mode ends: reset ───────────────────────────┘
//! ```
//!
//! Of the page only the processor's owner knows, and uses it while the guest does not run.

use crate::lapic::register;
use crate::vectors::Vectors;

/// A virtual-APIC page, by register number.
pub trait RegisterPage {
    /// The low 32 bits of a register.
    fn read(&self, number: u8) -> u32;
    /// Sets them.
    fn write(&mut self, number: u8, value: u32);
}

/// What a register page holds that the model has had until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) tpr: u8,
    pub(crate) isr: Vectors,
}

/// What has come since the last call, for the page.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// It begins: all that the page has to hold.
    pub(crate) begins: Option<Registers>,
    pub(crate) came: Vectors,
    pub(crate) level: Vectors,
}

impl Loan {
    /// Moves it to the page; whether anything has changed there.
    pub fn move_to(&self, page: &mut impl RegisterPage) -> bool {
        if let Some(registers) = self.begins {
            page.write(register::TPR, registers.tpr.into());
            for index in 0..8 {
                page.write(register::ISR + index, registers.isr.word(index));
                page.write(register::IRR + index, 0);
            }
        }
        for index in (0..8).filter(|index| self.came.word(*index) != 0) {
            let number = register::IRR + index;
            page.write(number, page.read(number) | self.came.word(index));
        }
        self.begins.is_some() || self.came != Vectors::NONE
    }

    /// The EOI-exit bitmap: level-triggered interrupts, whose end the I/O APIC wants to know.
    #[must_use]
    pub fn eoi_exits(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|quarter| {
            u64::from(self.level.word(2 * quarter + 1)) << 32 | u64::from(self.level.word(2 * quarter))
        })
    }
}

/// The guest interrupt status for a page: requested (low byte) and in service (SDM vol. 3C 25.4.2).
#[must_use]
pub fn interrupt_status(page: &impl RegisterPage) -> u16 {
    let highest = |first| {
        let words = (0..8_u16).rev().map(|index| (index, page.read(first + index as u8)));
        words
            .into_iter()
            .find_map(|(index, word)| Some(index * 32 + word.checked_ilog2()? as u16))
            .unwrap_or(0)
    };
    highest(register::ISR) << 8 | highest(register::IRR)
}

/// Whether a processor with interrupts on would deliver something from the page (SDM vol. 3C 30.2.1).
#[must_use]
pub fn interrupt_waits(page: &impl RegisterPage) -> bool {
    const CLASS: u32 = 0xf0;
    let status = u32::from(interrupt_status(page));
    status & CLASS > (status >> 8 & CLASS).max(page.read(register::TPR) & CLASS)
}

#[cfg(test)]
mod tests {
    use super::{Loan, RegisterPage, Registers, interrupt_status, interrupt_waits};
    use crate::lapic::register;
    use crate::vectors::Vectors;

    /// With what a page had before.
    struct Page([u32; 64]);

    impl RegisterPage for Page {
        fn read(&self, number: u8) -> u32 {
            self.0[usize::from(number)]
        }

        fn write(&mut self, number: u8, value: u32) {
            self.0[usize::from(number)] = value;
        }
    }

    fn vectors(all: &[u8]) -> Vectors {
        all.iter().fold(Vectors::NONE, |mut set, vector| {
            set.set(*vector);
            set
        })
    }

    #[test]
    fn a_loan_begins_with_what_the_model_had() {
        let mut page = Page([u32::MAX; 64]);
        let begins = Some(Registers { tpr: 0x30, isr: vectors(&[0x41]) });
        assert!(Loan { begins, came: vectors(&[0x20, 0xff]), level: Vectors::NONE }.move_to(&mut page));
        assert_eq!(page.read(register::TPR), 0x30);
        assert_eq!(interrupt_status(&page), 0x41ff);
        assert_eq!(page.read(register::IRR + 1), 1);
    }

    #[test]
    fn what_comes_later_is_added() {
        let mut page = Page([0; 64]);
        let came = |came: &[u8]| Loan { begins: None, came: vectors(came), level: Vectors::NONE };
        assert!(!came(&[]).move_to(&mut page));
        assert_eq!(interrupt_status(&page), 0);
        assert!(came(&[0x31]).move_to(&mut page) && came(&[0x30]).move_to(&mut page));
        assert_eq!((interrupt_status(&page), page.read(register::IRR + 1)), (0x31, 3 << 16));
    }

    #[test]
    fn priorities_are_classes() {
        let mut page = Page([0; 64]);
        page.write(register::IRR + 1, 1 << 31); // 0x3f
        assert!(interrupt_waits(&page));
        page.write(register::TPR, 0x30);
        assert!(!interrupt_waits(&page));
        page.write(register::TPR, 0x2f);
        assert!(interrupt_waits(&page));
        page.write(register::ISR + 1, 1 << 16); // 0x30
        assert!(!interrupt_waits(&page));
    }

    #[test]
    fn the_end_of_level_triggered_ones_exits() {
        let level = vectors(&[0x21, 0x40, 0xff]);
        let loan = Loan { begins: None, came: Vectors::NONE, level };
        assert_eq!(loan.eoi_exits(), [1 << 0x21, 1, 0, 1 << 63]);
    }
}
