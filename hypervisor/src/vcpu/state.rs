//! A virtual processor, taken down: what a copy of it goes on from.

use super::extended::Extended;
use super::{Activity, Vcpu};
use crate::vmx::GuestRegisters;
use alloc::boxed::Box;
use alloc::vec::Vec;
use devices::interrupt_status;
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

impl Vcpu {
    /// Takes it down. It leaves this CPU.
    pub(crate) fn state(&mut self) -> Box<VcpuState> {
        self.take_cpu();
        let mut values = [0; VIRTUAL_PROCESSOR.len() + SEGMENT_FIELDS];
        values.iter_mut().zip(fields()).for_each(|(value, field)| *value = self.vmcs.read(field));
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
        fields().zip(state.fields).for_each(|(field, value)| self.vmcs.write(field, value));
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
    }
}
