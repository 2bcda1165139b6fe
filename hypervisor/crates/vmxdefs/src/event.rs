//! Events: interruption information of exits and entries, IDT-vectoring information
//! (SDM vol. 3C tables 25-17, 25-19, 25-20).
//!
//! ```text
//!  31     30..13  12           11          10..8  7..0
//!  valid  (0)     NMI unblock  error code  type   vector
//! ```

/// What kind of event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// External interrupt.
    External = 0,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// Hardware exception.
    Exception = 3,
    /// INT n.
    SoftwareInterrupt = 4,
    /// INT1.
    PrivilegedException = 5,
    /// INT3, INTO.
    SoftwareException = 6,
    /// Other event (7), or reserved (1).
    Other = 7,
}

/// An event that is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its kind.
    pub kind: EventKind,
    /// Its vector.
    pub vector: u8,
    /// Its error code, if it has one.
    pub error_code: Option<u32>,
}

const VALID: u32 = 1 << 31;
const HAS_ERROR_CODE: u32 = 1 << 11;
const PAGE_FAULT: u8 = 14;

impl Event {
    /// An external interrupt.
    #[must_use]
    pub const fn external(vector: u8) -> Self {
        Self { kind: EventKind::External, vector, error_code: None }
    }

    /// A hardware exception.
    #[must_use]
    pub const fn exception(vector: u8, error_code: Option<u32>) -> Self {
        Self { kind: EventKind::Exception, vector, error_code }
    }

    /// #UD.
    pub const INVALID_OPCODE: Self = Self::exception(6, None);
    /// #DF.
    pub const DOUBLE_FAULT: Self = Self::exception(8, Some(0));
    /// #SS(0).
    pub const STACK_FAULT: Self = Self::exception(12, Some(0));
    /// #GP(0).
    pub const GENERAL_PROTECTION: Self = Self::exception(13, Some(0));
    /// NMI.
    pub const NMI: Self = Self { kind: EventKind::Nmi, vector: 2, error_code: None };

    /// #PF.
    #[must_use]
    pub const fn page_fault(error_code: u32) -> Self {
        Self::exception(PAGE_FAULT, Some(error_code))
    }

    /// Whether this is #PF.
    #[must_use]
    pub const fn is_page_fault(self) -> bool {
        matches!(self.kind, EventKind::Exception) && self.vector == PAGE_FAULT
    }

    /// What a page fault during the delivery of this event comes to (SDM vol. 3A table 6-5): itself, a double fault, or, where this
    /// was one, `None`: the end.
    #[must_use]
    pub const fn then_page_fault(self, error_code: u32) -> Option<Self> {
        match (self.kind, self.vector) {
            (EventKind::Exception, 8) => None,
            // Behind a contributory exception a page fault is one like any other.
            (EventKind::Exception, PAGE_FAULT) => Some(Self::DOUBLE_FAULT),
            _ => Some(Self::page_fault(error_code)),
        }
    }

    /// Reads an information field and its error-code field; `None` where it is not valid.
    #[must_use]
    pub const fn decode(information: u32, error_code: u32) -> Option<Self> {
        if information & VALID == 0 {
            return None;
        }
        let kind = match information >> 8 & 7 {
            0 => EventKind::External,
            2 => EventKind::Nmi,
            3 => EventKind::Exception,
            4 => EventKind::SoftwareInterrupt,
            5 => EventKind::PrivilegedException,
            6 => EventKind::SoftwareException,
            _ => EventKind::Other,
        };
        let error_code = if information & HAS_ERROR_CODE != 0 { Some(error_code) } else { None };
        Some(Self { kind, vector: information as u8, error_code })
    }

    /// The VM-entry interruption information.
    #[must_use]
    pub const fn encode(self) -> u32 {
        let error = if self.error_code.is_some() { HAS_ERROR_CODE } else { 0 };
        VALID | error | (self.kind as u32) << 8 | self.vector as u32
    }

    /// Whether entry needs the length of the instruction that caused it (SDM vol. 3C 25.8.3).
    #[must_use]
    pub const fn needs_length(self) -> bool {
        matches!(
            self.kind,
            EventKind::SoftwareInterrupt | EventKind::PrivilegedException | EventKind::SoftwareException
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, EventKind};

    #[test]
    fn events_round_trip() {
        for event in [Event::external(0x30), Event::GENERAL_PROTECTION, Event::INVALID_OPCODE, Event::NMI] {
            assert_eq!(Event::decode(event.encode(), 0), Some(event));
        }
        assert_eq!(Event::decode(0x30, 0), None);
        let page_fault = Event::decode(0x8000_0b0e, 2);
        assert_eq!(page_fault, Some(Event::page_fault(2)));
        assert!(Event { kind: EventKind::SoftwareException, vector: 3, error_code: None }.needs_length());
    }

    #[test]
    fn a_page_fault_during_a_delivery() {
        let plain = Some(Event::page_fault(2));
        assert_eq!(Event::external(14).then_page_fault(2), plain);
        assert_eq!(Event::INVALID_OPCODE.then_page_fault(2), plain);
        assert_eq!(Event::page_fault(1).then_page_fault(2), Some(Event::DOUBLE_FAULT));
        assert_eq!(Event::GENERAL_PROTECTION.then_page_fault(2), plain);
        assert_eq!(Event::DOUBLE_FAULT.then_page_fault(2), None);
    }
}
