//! What is delivered at the next entry, in the processor's order of priority: an event whose delivery was cut
//! short by an exit, an exception, an NMI, an interrupt (SDM vol. 3A 6.9, vol. 3C 27.6).

use super::Vcpu;
use devices::Board;
use vmxdefs::event::Event;
use vmxdefs::field::Field;

const RFLAGS_IF: u64 = 1 << 9;
/// Interruptibility: blocking by STI or by MOV SS.
const BLOCKED_BRIEFLY: u64 = 0b11;
/// Interruptibility: blocking by NMI.
const BLOCKED_BY_NMI: u64 = 1 << 3;

impl Vcpu {
    /// Takes over the event whose delivery the exit cut short: it comes first at the next entry
    /// (SDM vol. 3C 28.2.4). Asked for at each exit; whether there is one.
    pub(super) fn save_interrupted_event(&mut self) -> bool {
        let information = self.vmcs.read(Field::IdtVectoring) as u32;
        let interrupted = information >> 31 != 0;
        if interrupted {
            self.take_interrupted_event(information);
        }
        interrupted
    }

    #[inline(never)]
    fn take_interrupted_event(&mut self, information: u32) {
        let error_code = self.vmcs.read(Field::IdtVectoringErrorCode) as u32;
        self.pending = Event::decode(information, error_code);
        if self.pending.is_some_and(Event::needs_length) {
            let len = self.vmcs.read(Field::ExitInstructionLength);
            self.vmcs.write(Field::EntryInstructionLength, len);
        }
    }

    /// Whether RFLAGS.IF is 1.
    pub(super) fn has_interrupts_on(&self) -> bool {
        self.vmcs.read(Field::GuestRflags) & RFLAGS_IF != 0
    }

    /// Whether the guest would take an interrupt at the next instruction boundary.
    pub(crate) fn accepts_interrupts(&self) -> bool {
        self.has_interrupts_on() && self.vmcs.read(Field::GuestInterruptibility) & BLOCKED_BRIEFLY == 0
    }

    /// Whether something has come that ends HLT. It stays where it is.
    pub(super) fn is_woken(&self, board: &Board) -> bool {
        self.nmi_waits
            || self.pending.is_some()
            || board.has_nmi(self.id)
            || self.accepts_interrupts()
                && (board.pending_interrupt(self.id).is_some() || self.virtual_interrupt_waits())
    }

    /// An event that waits comes first at the next entry; nothing else has changed.
    pub(super) fn deliver_pending(&mut self) {
        if let Some(event) = self.pending.take() {
            self.deliver(event);
        }
    }

    /// Chooses what the next entry delivers, and asks for a window where something has to wait.
    pub(super) fn inject(&mut self, board: &mut Board) {
        if self.is_delivering() {
            // Chosen before, and not entered since.
        } else if let Some(event) = self.pending.take() {
            self.deliver(event);
        } else if self.nmi_waits || board.take_nmi(self.id) {
            self.inject_nmi();
        } else if board.pending_interrupt(self.id).is_some()
            && self.accepts_interrupts()
            && let Some(vector) = board.acknowledge(self.id)
        {
            self.deliver(Event::external(vector));
        }
        let waiting = board.pending_interrupt(self.id).is_some();
        self.vmcs.set_interrupt_window(waiting);
    }

    /// Whether something was chosen for the next entry. The processor clears the bit at each exit (SDM vol. 3C 25.8.3).
    fn is_delivering(&self) -> bool {
        self.vmcs.read(Field::EntryInterruption) >> 31 & 1 != 0
    }

    /// What was chosen for the next entry.
    pub(crate) fn chosen(&self) -> Option<Event> {
        let information = self.vmcs.read(Field::EntryInterruption) as u32;
        Event::decode(information, self.vmcs.read(Field::EntryErrorCode) as u32)
    }

    /// That was delivered without an entry.
    pub(crate) fn note_delivered(&mut self) {
        self.vmcs.write(Field::EntryInterruption, 0);
    }

    fn inject_nmi(&mut self) {
        let blocking = self.vmcs.read(Field::GuestInterruptibility);
        self.nmi_waits = blocking & (BLOCKED_BY_NMI | BLOCKED_BRIEFLY) != 0;
        self.vmcs.set_nmi_window(self.nmi_waits);
        if !self.nmi_waits {
            self.deliver(Event::NMI);
        }
    }

    fn deliver(&mut self, event: Event) {
        if let Some(error_code) = event.error_code {
            self.vmcs.write(Field::EntryErrorCode, u64::from(error_code));
        }
        self.vmcs.write(Field::EntryInterruption, u64::from(event.encode()));
    }
}
