//! How a guest ends, in words and as the run's exit status.

use crate::vmx::VmcsError;
use abi::status::Status;
use core::convert::Infallible;
use core::fmt;
use mm::OutOfFrames;
use mmu::MmuError;
use realmode::Trouble;

/// Why a guest does not run any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// ACPI sleep state S5.
    PowerOff,
    /// The reset register, the keyboard controller's reset line, or INIT.
    Reset,
    /// The test device: the guest's own exit code.
    Code(u32),
    /// HLT with interrupts off, and nothing that could wake it: Linux without a power-off method.
    Halted,
    /// A fault while delivering a double fault (SDM vol. 3A 6.15).
    TripleFault,
    /// A test has killed it.
    Killed,
    /// There is not enough memory to run it.
    OutOfMemory(OutOfFrames),
    /// There is not enough of something for its virtual processors.
    Setup(VmcsError),
    /// Memory that it touched could not be mapped.
    Memory(MmuError),
    /// So many frames hold what does not compress, and what else there is comes and goes.
    Standstill(u64),
    /// An access to a device that Herald cannot emulate.
    Emulation(emulate::EmulateError),
    /// A task switch by hardware, which VMX leaves to software (SDM vol. 3C 26.4.2), and Herald does not do.
    TaskSwitch,
    /// In a state that its processor cannot have, it came to something that is not interpreted.
    Interpretation(Trouble<Infallible>),
}

impl End {
    /// The exit status of a run that ends so.
    #[must_use]
    pub(crate) const fn status(&self) -> Status {
        match self {
            Self::PowerOff | Self::Reset | Self::Halted | Self::Killed | Self::Code(0) => Status::Success,
            Self::Code(_) => Status::GuestCode,
            Self::TripleFault
            | Self::TaskSwitch
            | Self::Interpretation(_)
            | Self::OutOfMemory(_)
            | Self::Setup(_)
            | Self::Memory(_)
            | Self::Standstill(_)
            | Self::Emulation(_) => Status::GuestDied,
        }
    }

    /// The guest's exit code; 0 where it gave none.
    #[must_use]
    pub(crate) const fn code(&self) -> u32 {
        match self {
            Self::Code(code) => *code,
            _ => 0,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest reset its machine"),
            Self::Code(code) => write!(f, "the guest ended with code {code}"),
            Self::Killed => f.write_str("the guest was killed"),
            Self::Halted => f.write_str("the guest halted for good"),
            Self::TripleFault => f.write_str("the guest ended abnormally: triple fault"),
            Self::OutOfMemory(error) => write!(f, "the guest ended abnormally: {error}"),
            Self::Setup(error) => write!(f, "the guest ended abnormally: {error}"),
            Self::Memory(error) => write!(f, "the guest ended abnormally: {error}"),
            Self::Standstill(frames) => write!(
                f,
                "the guest ended abnormally: out of memory, {frames} pages of which do not compress: what else there is \
                 comes back as soon as it goes"
            ),
            Self::Emulation(error) => write!(f, "the guest ended abnormally: {error}"),
            Self::Interpretation(trouble) => write!(f, "the guest ended abnormally: {trouble}"),
            Self::TaskSwitch => {
                f.write_str("the guest ended abnormally: a task switch, which Herald does not emulate")
            }
        }
    }
}
