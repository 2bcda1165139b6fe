//! How a run ends. The numbers are those of `cargo xtask run`; several guests: the largest counts.

/// Exit status of a run, as a process status.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Status {
    /// The guest powered off, reset, or wrote 0 to the test device.
    Success = 0,
    /// The guest wrote another value to the test device.
    GuestCode = 1,
    /// Bad arguments or files.
    Usage = 2,
    /// Time-out.
    TimeOut = 3,
    /// Herald itself failed.
    HeraldFailed = 4,
    /// The guest ended abnormally: triple fault, out of memory, disk error.
    GuestDied = 5,
    /// The user left with Ctrl-].
    Interrupted = 130,
}

impl Status {
    /// The status with this number.
    #[must_use]
    pub const fn from_u8(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::Success,
            1 => Self::GuestCode,
            2 => Self::Usage,
            3 => Self::TimeOut,
            4 => Self::HeraldFailed,
            5 => Self::GuestDied,
            130 => Self::Interrupted,
            _ => return None,
        })
    }
}
