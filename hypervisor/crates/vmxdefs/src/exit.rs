//! VM exits as one closed enum (SDM vol. 3D appendix C, vol. 3C 28.2).
//!
//! Decoding asks for a field only where the reason has one: on a processor each is a VMREAD, and on a nested
//! one perhaps an exit of its own.

use crate::event::Event;
use crate::field::Field;
use crate::invpcid::Operands;
use addr::Gpa;

/// Bit 31 of the exit reason: the entry itself failed.
const ENTRY_FAILURE: u32 = 1 << 31;

/// Why the guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// An exception that the exception bitmap names, or an NMI.
    Exception(Event),
    /// An interrupt of the host waits.
    ExternalInterrupt,
    /// The guest cannot deliver an exception any more.
    TripleFault,
    /// An INIT signal.
    Init,
    /// A start-up IPI with this vector.
    StartUp(u8),
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now.
    NmiWindow,
    /// A task switch, which VMX leaves to software.
    TaskSwitch,
    /// CPUID.
    Cpuid,
    /// GETSEC: it exits whatever the controls are.
    Getsec,
    /// HLT.
    Hlt,
    /// INVD, WBINVD: caches are coherent, nothing to do.
    CacheFlush,
    /// INVLPG of this linear address, which need not be canonical.
    Invlpg(u64),
    /// INVPCID with these operands.
    Invpcid(Operands),
    /// RDPMC.
    Rdpmc,
    /// VMCALL.
    Vmcall,
    /// Another VMX instruction.
    VmxInstruction,
    /// An access to a control register.
    ControlRegister(CrAccess),
    /// An access to a debug register.
    DebugRegister,
    /// IN, OUT, INS or OUTS.
    Io(IoAccess),
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// MONITOR or MWAIT.
    MonitorMwait,
    /// PAUSE.
    Pause,
    /// A guest-physical address is not mapped, or not for this.
    EptViolation(EptViolation),
    /// An EPT entry is malformed: a fault of Herald's.
    EptMisconfiguration(Gpa),
    /// The preemption timer ran out.
    PreemptionTimer,
    /// XSETBV.
    Xsetbv,
    /// The processor has ended an interrupt of the virtual-APIC page; this vector's end exits.
    VirtualEoi(u8),
    /// The guest has written a register of the virtual-APIC page, and the processor does not do the rest.
    ApicWrite {
        /// Number of the register: its offset, in units of 16 bytes.
        register: u8,
    },
    /// The page-modification log is full.
    LogFull,
    /// The entry failed: guest state, MSR loading, machine check.
    EntryFailed(EntryFailure),
    /// Any other reason: none that Herald's controls, or a guest without them, can cause.
    Unknown(u16),
}

/// Why an entry failed after its controls had been accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryFailure {
    /// Basic reason 33: the guest state breaks a rule.
    GuestState,
    /// Basic reason 34: this entry of the MSR-load list.
    MsrLoad(u64),
    /// Basic reason 41.
    MachineCheck,
    /// Another one.
    Other(u16),
}

/// What is done to a control register (table 28-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrAccess {
    /// MOV to CR `cr` from general register `register`.
    Write {
        /// Control register.
        cr: u8,
        /// Number of the general register.
        register: u8,
    },
    /// MOV from CR `cr` to general register `register`.
    Read {
        /// Control register.
        cr: u8,
        /// Number of the general register.
        register: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with this operand.
    Lmsw(u16),
}

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the device.
    In,
    /// To the device.
    Out,
}

/// A port access (table 28-5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// Which way.
    pub direction: Direction,
    /// INS or OUTS.
    pub string: bool,
    /// With REP.
    pub repeated: bool,
}

/// What a guest wanted of a guest-physical address (table 28-7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptViolation {
    /// The address.
    pub gpa: Gpa,
    /// A store, or an update of A or D in the guest's own tables.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// The access was to the guest's page tables, on the way to a linear address.
    pub walking: bool,
}

impl Exit {
    /// Decodes the exit of the current VMCS, for this reason; the rest is read through `vmread`.
    pub fn decode(reason: u32, mut vmread: impl FnMut(Field) -> u64) -> Self {
        if reason & ENTRY_FAILURE != 0 {
            return Self::EntryFailed(entry_failure(reason as u16, vmread));
        }
        match reason as u16 {
            0 => exception(vmread),
            1 => Self::ExternalInterrupt,
            2 => Self::TripleFault,
            3 => Self::Init,
            4 => Self::StartUp(vmread(Field::ExitQualification) as u8),
            7 => Self::InterruptWindow,
            8 => Self::NmiWindow,
            9 => Self::TaskSwitch,
            10 => Self::Cpuid,
            11 => Self::Getsec,
            12 => Self::Hlt,
            13 | 54 => Self::CacheFlush,
            14 => Self::Invlpg(vmread(Field::ExitQualification)),
            15 => Self::Rdpmc,
            18 => Self::Vmcall,
            19..=27 | 50 | 53 | 59 => Self::VmxInstruction,
            28 => Self::ControlRegister(control_register(vmread(Field::ExitQualification))),
            29 => Self::DebugRegister,
            30 => Self::Io(io_access(vmread(Field::ExitQualification))),
            31 => Self::Rdmsr,
            32 => Self::Wrmsr,
            36 | 39 => Self::MonitorMwait,
            40 => Self::Pause,
            45 => Self::VirtualEoi(vmread(Field::ExitQualification) as u8),
            48 => Self::EptViolation(EptViolation::decode(vmread)),
            49 => Self::EptMisconfiguration(gpa(&mut vmread)),
            52 => Self::PreemptionTimer,
            55 => Self::Xsetbv,
            56 => Self::ApicWrite { register: (vmread(Field::ExitQualification) >> 4) as u8 },
            58 => Self::Invpcid(invpcid(vmread)),
            62 => Self::LogFull,
            other => Self::Unknown(other),
        }
    }
}

fn entry_failure(reason: u16, mut vmread: impl FnMut(Field) -> u64) -> EntryFailure {
    match reason {
        33 => EntryFailure::GuestState,
        34 => EntryFailure::MsrLoad(vmread(Field::ExitQualification)),
        41 => EntryFailure::MachineCheck,
        other => EntryFailure::Other(other),
    }
}

fn exception(mut vmread: impl FnMut(Field) -> u64) -> Exit {
    let information = vmread(Field::ExitInterruption) as u32;
    let error_code = vmread(Field::ExitErrorCode) as u32;
    Event::decode(information, error_code).map_or(Exit::Unknown(0), Exit::Exception)
}

fn invpcid(mut vmread: impl FnMut(Field) -> u64) -> Operands {
    let information = vmread(Field::ExitInstructionInformation) as u32;
    Operands::decode(information, vmread(Field::ExitQualification))
}

/// The processor reports at most 52 bits.
fn gpa(vmread: &mut impl FnMut(Field) -> u64) -> Gpa {
    Gpa::new(vmread(Field::GuestPhysicalAddress) & ((1 << 52) - 1))
}

const fn control_register(qualification: u64) -> CrAccess {
    let (cr, register) = ((qualification & 0xf) as u8, (qualification >> 8 & 0xf) as u8);
    match qualification >> 4 & 3 {
        0 => CrAccess::Write { cr, register },
        1 => CrAccess::Read { cr, register },
        2 => CrAccess::Clts,
        _ => CrAccess::Lmsw((qualification >> 16) as u16),
    }
}

const fn io_access(qualification: u64) -> IoAccess {
    IoAccess {
        port: (qualification >> 16) as u16,
        width: (qualification & 7) as u8 + 1,
        direction: if qualification & 1 << 3 != 0 { Direction::In } else { Direction::Out },
        string: qualification & 1 << 4 != 0,
        repeated: qualification & 1 << 5 != 0,
    }
}

impl EptViolation {
    /// The exit reason of one.
    pub const REASON: u32 = 48;

    /// Decodes the violation that the current VMCS tells of, read through `vmread`.
    #[inline]
    pub fn decode(mut vmread: impl FnMut(Field) -> u64) -> Self {
        let qualification = vmread(Field::ExitQualification);
        let has_linear = qualification & 1 << 7 != 0;
        Self {
            gpa: gpa(&mut vmread),
            write: qualification & 1 << 1 != 0,
            fetch: qualification & 1 << 2 != 0,
            walking: has_linear && qualification & 1 << 8 == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CrAccess, Direction, EntryFailure, EptViolation, Exit, IoAccess};
    use crate::field::Field;
    use addr::Gpa;

    fn decode(values: &[(Field, u64)]) -> Exit {
        let (reason, values) = values.split_first().expect("a reason");
        assert_eq!(reason.0, Field::ExitReason);
        Exit::decode(reason.1 as u32, |field| {
            let found = values.iter().find(|(name, _)| *name == field);
            found.unwrap_or_else(|| panic!("{field:?} was not needed")).1
        })
    }

    #[test]
    fn a_plain_exit_needs_one_field() {
        assert_eq!(decode(&[(Field::ExitReason, 10)]), Exit::Cpuid);
        assert_eq!(decode(&[(Field::ExitReason, 200)]), Exit::Unknown(200));
    }

    #[test]
    fn qualifications() {
        let io = decode(&[(Field::ExitReason, 30), (Field::ExitQualification, 0x3f8_0038)]);
        let expected =
            IoAccess { port: 0x3f8, width: 1, direction: Direction::In, string: true, repeated: true };
        assert_eq!(io, Exit::Io(expected));
        let cr = decode(&[(Field::ExitReason, 28), (Field::ExitQualification, 0x304)]);
        assert_eq!(cr, Exit::ControlRegister(CrAccess::Write { cr: 4, register: 3 }));
        let violation = decode(&[
            (Field::ExitReason, 48),
            (Field::ExitQualification, 0x82),
            (Field::GuestPhysicalAddress, 0x1234),
        ]);
        let expected = EptViolation { gpa: Gpa::new(0x1234), write: true, fetch: false, walking: true };
        assert_eq!(violation, Exit::EptViolation(expected));
    }

    #[test]
    fn virtual_apic() {
        let exit = |reason, qualification| {
            decode(&[(Field::ExitReason, reason), (Field::ExitQualification, qualification)])
        };
        assert_eq!(exit(45, 0x31), Exit::VirtualEoi(0x31));
        assert_eq!(exit(56, 0x3f0), Exit::ApicWrite { register: 0x3f });
    }

    #[test]
    fn failed_entries() {
        assert_eq!(decode(&[(Field::ExitReason, 0x8000_0021)]), Exit::EntryFailed(EntryFailure::GuestState));
    }
}
