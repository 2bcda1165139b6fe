//! A virtual processor, taken down: what a copy of it goes on from.

use super::extended::Extended;
use super::{Activity, Vcpu};
use crate::vmx::GuestRegisters;
use alloc::boxed::Box;
use alloc::vec::Vec;
use devices::interrupt_status;
use snapshot::Processor;
use vmxdefs::controls::EntryControls;
use vmxdefs::event::Event;
use vmxdefs::field::{Field, Segment, VIRTUAL_PROCESSOR};

/// Fields of all segments.
const SEGMENT_FIELDS: usize = Segment::ALL.len() * 4;
/// Registers of a local APIC.
const APIC_REGISTERS: usize = 256;

/// All that a virtual processor is, between two entries. Its timers are its board's, its TSC the machine's.
#[derive(Clone)]
pub(crate) struct VcpuState {
    fields: [u64; VIRTUAL_PROCESSOR.len() + SEGMENT_FIELDS],
    registers: GuestRegisters,
    extended: Extended,
    activity: Activity,
    pending: Option<Event>,
    nmi_waits: bool,
    serves: bool,
    /// The registers of its local APIC, while the processor has them.
    apic: Option<Box<[u32; APIC_REGISTERS]>>,
}

fn fields() -> impl Iterator<Item = Field> {
    VIRTUAL_PROCESSOR.into_iter().chain(Segment::ALL.into_iter().flat_map(Segment::fields))
}

impl VcpuState {
    /// Sets a general register other than RSP.
    pub(crate) fn set_general(&mut self, number: usize, value: u64) {
        self.registers.general[number] = value;
    }
}

/// A saved virtual processor that is none of Herald's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Strange;

impl VcpuState {
    /// As a snapshot holds it.
    pub(crate) fn save(&self) -> Processor {
        Processor {
            fields: fields().map(Field::encoding).zip(self.fields).collect(),
            general: self.registers.general,
            cr2: self.registers.cr2,
            vectors: self.extended.vectors.bytes(),
            xcr0: self.extended.xcr0,
            msrs: self.extended.msrs.clone(),
            debug: self.extended.debug,
            activity: self.activity as u8,
            pending: self
                .pending
                .map(|event| snapshot::Event { information: event.encode(), error_code: event.error_code }),
            nmi_waits: self.nmi_waits,
            serves: self.serves,
            apic: self.apic.as_ref().map(|registers| registers.to_vec()),
        }
    }

    /// As a snapshot of this format held it, for a processor that has all that the guest has seen.
    ///
    /// # Errors
    /// [`Strange`].
    pub(crate) fn load(saved: &Processor) -> Result<Box<Self>, Strange> {
        let known = saved.fields.len() == fields().count()
            && fields().zip(&saved.fields).all(|(field, (encoding, _))| field.encoding() == *encoding);
        let mut extended = Extended::new();
        let numbers = |msrs: &[(u32, u64)]| -> Vec<u32> { msrs.iter().map(|(number, _)| *number).collect() };
        if !known
            || numbers(&extended.msrs) != numbers(&saved.msrs)
            || !extended.vectors.adopt(&saved.vectors)
        {
            return Err(Strange);
        }
        (extended.xcr0, extended.debug) = (saved.xcr0, saved.debug);
        extended.msrs.clone_from(&saved.msrs);
        // A processor that waits for a start-up message in guest mode takes no interrupt (SDM vol. 3C 25.4.2): it would not
        // come back. Those of Herald wait outside.
        let active =
            saved.fields.iter().all(|&(field, value)| field != Field::GuestActivity.encoding() || value == 0);
        if !active || !extended.is_legal() {
            return Err(Strange);
        }
        let mut values = [0; VIRTUAL_PROCESSOR.len() + SEGMENT_FIELDS];
        values.iter_mut().zip(&saved.fields).for_each(|(value, (_, saved))| *value = *saved);
        let pending =
            saved.pending.map(|event| Event::decode(event.information, event.error_code.unwrap_or(0)));
        Ok(Box::new(Self {
            fields: values,
            registers: GuestRegisters { general: saved.general, cr2: saved.cr2 },
            extended,
            activity: [Activity::Active, Activity::Halted, Activity::AwaitsStartup]
                .into_iter()
                .find(|activity| *activity as u8 == saved.activity)
                .ok_or(Strange)?,
            pending: pending.flatten(),
            nmi_waits: saved.nmi_waits,
            serves: saved.serves,
            apic: match &saved.apic {
                None => None,
                Some(registers) => Some(registers.clone().try_into().map_err(|_| Strange)?),
            },
        }))
    }
}

impl Vcpu {
    /// Takes it down. It leaves this CPU.
    pub(crate) fn state(&mut self) -> Box<VcpuState> {
        self.take_cpu();
        let mut values = [0; VIRTUAL_PROCESSOR.len() + SEGMENT_FIELDS];
        values.iter_mut().zip(fields()).for_each(|(value, field)| *value = self.guest_field(field));
        let apic = self.vmcs.active_virtual_apic().map(|apic| {
            let registers: Vec<u32> = (0..=u8::MAX).map(|number| apic.register(number)).collect();
            registers.try_into().expect("a register for each number")
        });
        self.leave_cpu();
        Box::new(VcpuState {
            fields: values,
            registers: self.registers,
            extended: self.place.extended.borrow().clone(),
            activity: self.activity,
            pending: self.pending,
            nmi_waits: self.nmi_waits,
            serves: self.serves,
            apic,
        })
    }

    /// Goes on from a state. It has this CPU.
    pub(super) fn resume(&mut self, state: VcpuState) {
        let controls = self.vmcs.read(Field::EntryControls);
        fields().zip(state.fields).for_each(|(field, value)| self.vmcs.write(field, value));
        self.load_shadow(self.written_registers());
        self.keep_pat();
        // The mode is the guest's; the rest was negotiated with this processor, which may be another one.
        let mode = u64::from(EntryControls::IA32E_GUEST.bits());
        let mode = self.vmcs.read(Field::EntryControls) & mode;
        self.vmcs.write(Field::EntryControls, controls | mode);
        self.registers = state.registers;
        self.place.adopt(state.extended);
        self.activity = state.activity;
        (self.pending, self.nmi_waits, self.serves) = (state.pending, state.nmi_waits, state.serves);
        if let (Some(registers), Some(apic)) = (&state.apic, self.vmcs.virtual_apic()) {
            (0..=u8::MAX).zip(registers.iter()).for_each(|(number, &value)| apic.set_register(number, value));
            let status = interrupt_status(apic);
            self.vmcs.use_virtual_apic(true);
            self.vmcs.write(Field::GuestInterruptStatus, u64::from(status));
        }
        self.look_for_obstacle();
    }
}
