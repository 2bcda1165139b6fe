//! The guest-state area at the first entry (SDM vol. 3C 25.4), from what the boot protocol wants.

use super::{Vcpu, register};
use crate::vmx::{CR0_OWNED, CR4_OWNED};
use firmware::{Entry, Mode};
use vmxdefs::controls::EntryControls;
use vmxdefs::field::{Field, Segment};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// Access rights of a segment that cannot be used.
const UNUSABLE: u64 = 1 << 16;
/// IA32_PAT after reset (SDM vol. 3A table 12-12).
const PAT: u64 = 0x0007_0406_0007_0406;
/// DR7 after reset.
const DR7: u64 = 0x400;
/// RFLAGS: bit 1 is always 1.
const RFLAGS: u64 = 2;

impl Vcpu {
    /// Puts the processor where `entry` says.
    pub(super) fn load(&mut self, entry: &Entry) {
        let (cr0, cr4, efer, cr3) = match entry.mode {
            Mode::Protected32 => (CR0_PE | CR0_ET, 0, 0, 0),
            Mode::Long64 { cr3 } => (CR0_PE | CR0_ET | CR0_PG, CR4_PAE, EFER_LME_LMA, cr3.as_u64()),
        };
        let entry_controls = self.vmcs.read(Field::EntryControls);
        let long = if efer == 0 { 0 } else { u64::from(EntryControls::IA32E_GUEST.bits()) };
        let capabilities = *self.vmcs.capabilities();
        // An unrestricted guest may clear PE and PG, whatever the fixed bits say.
        let fixed0 = capabilities.cr0.ones & !(CR0_PE | CR0_PG);
        for (field, value) in [
            (Field::EntryControls, entry_controls | long),
            (Field::GuestCr0, cr0 | fixed0),
            (Field::Cr0Shadow, cr0 | CR0_OWNED),
            (Field::GuestCr3, cr3),
            (Field::GuestCr4, cr4 | capabilities.cr4.ones | CR4_OWNED),
            (Field::Cr4Shadow, cr4),
            (Field::GuestEfer, efer),
            (Field::GuestPat, PAT),
            (Field::GuestDr7, DR7),
            (Field::GuestDebugctl, 0),
            (Field::GuestRflags, RFLAGS),
            (Field::GuestRip, entry.rip),
            (Field::GuestRsp, 0),
            (Field::GuestActivity, 0),
            (Field::GuestInterruptibility, 0),
            (Field::GuestPendingDebug, 0),
            (Field::GuestSysenterCs, 0),
            (Field::GuestSysenterEsp, 0),
            (Field::GuestSysenterEip, 0),
            (Field::GuestGdtrBase, entry.gdt.base.as_u64()),
            (Field::GuestGdtrLimit, u64::from(entry.gdt.limit)),
            (Field::GuestIdtrBase, 0),
            (Field::GuestIdtrLimit, 0),
        ] {
            self.vmcs.write(field, value);
        }
        for segment in [Segment::Ds, Segment::Es, Segment::Fs, Segment::Gs, Segment::Ss] {
            self.load_segment(segment, &entry.data);
        }
        self.load_segment(Segment::Cs, &entry.code);
        self.load_segment(Segment::Tr, &entry.task);
        for (field, value) in Segment::Ldtr.fields().into_iter().zip([0, 0, 0, UNUSABLE]) {
            self.vmcs.write(field, value);
        }
        self.set_general(register::RAX, entry.rax);
        self.set_general(register::RBX, entry.rbx);
        self.set_general(register::RSI, entry.rsi);
    }

    fn load_segment(&mut self, segment: Segment, value: &firmware::Segment) {
        let values = [
            u64::from(value.selector),
            u64::from(value.base),
            u64::from(value.limit),
            u64::from(value.rights),
        ];
        for (field, value) in segment.fields().into_iter().zip(values) {
            self.vmcs.write(field, value);
        }
    }
}
