//! Interrupt messages between I/O APIC and local APICs. ICR (SDM vol. 3A 11.6.1), LVT entries (11.5.1) and
//! the I/O APIC's redirection entries have the same fields at the same bits:
//!
//! ```text
//!   16     15       14        13        12        11       10:8       7:0
//!  mask │ level │ (state) │ (state) │ (state) │ logical │ delivery │ vector
//! ```

/// Masked, in LVT and redirection entries.
pub(crate) const MASKED: u32 = 1 << 16;
/// Asserted, in ICR: an INIT that is not has no meaning since the Pentium 4.
pub(crate) const ASSERT: u32 = 1 << 14;
/// Level-triggered.
pub(crate) const LEVEL: u32 = 1 << 15;
/// The destination is a set, not an ID.
pub(crate) const LOGICAL: u32 = 1 << 11;
/// Vectors below are the processor's own exceptions.
pub(crate) const LOWEST_VECTOR: u8 = 16;

/// Delivery modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// To all processors of the destination.
    Fixed,
    /// To the one of them with the least urgent work.
    LowestPriority,
    Nmi,
    Init,
    /// The vector is the page to start in.
    StartUp,
    /// The vector is the PIC's.
    ExtInt,
    /// SMI, or a reserved one: ignored.
    Other,
}

impl Delivery {
    pub(crate) const fn of(bits: u32) -> Self {
        match bits >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => Self::Other,
        }
    }
}

/// How a line asks, which is also whether the EOI goes to the I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    Edge,
    Level,
}

impl Trigger {
    pub(crate) const fn of(bits: u32) -> Self {
        if bits & LEVEL != 0 { Self::Level } else { Self::Edge }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The processor with this APIC ID.
    Physical(u32),
    /// Processors by their LDR.
    Logical(u32),
    /// Everybody.
    All,
    /// Everybody but the sender, whose number this is.
    AllBut(u32),
}

impl Destination {
    /// The destination by the mode bit of `bits`; `broadcast` is the ID that means everybody.
    pub(crate) const fn of(bits: u32, id: u32, broadcast: u32) -> Self {
        if bits & LOGICAL != 0 {
            Self::Logical(id)
        } else if id == broadcast {
            Self::All
        } else {
            Self::Physical(id)
        }
    }
}

/// One interrupt on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) destination: Destination,
    pub(crate) delivery: Delivery,
    pub(crate) trigger: Trigger,
    pub(crate) vector: u8,
}

impl Message {
    /// The message that the low half of an ICR or of a redirection entry describes.
    pub(crate) const fn of(bits: u32, destination: Destination) -> Self {
        Self { destination, delivery: Delivery::of(bits), trigger: Trigger::of(bits), vector: bits as u8 }
    }
}
