//! The guest-state area at the first entry (SDM vol. 3C 25.4), from what the boot protocol wants.

use super::{Activity, Vcpu, register};
use crate::vmx::{CR0_OWNED, CR4_OWNED};
use devices::Startup;
use firmware::{Entry, Mode};
use vmxdefs::controls::EntryControls;
use vmxdefs::field::{Field, Segment};
use vmxdefs::registers::Registers;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// Access rights of a segment that cannot be used.
const UNUSABLE: u64 = 1 << 16;
/// IA32_PAT after reset (SDM vol. 3A table 12-12).
pub(super) const PAT: u64 = 0x0007_0406_0007_0406;
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
        self.clear_rest();
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
            (Field::GuestRip, entry.rip),
            (Field::GuestGdtrBase, entry.gdt.base.as_u64()),
            (Field::GuestGdtrLimit, u64::from(entry.gdt.limit)),
            (Field::GuestIdtrLimit, 0),
        ] {
            self.vmcs.write(field, value);
        }
        self.load_shadow(Registers { cr0, cr3, cr4, efer, ..Registers::default() });
        for segment in [Segment::Ds, Segment::Es, Segment::Fs, Segment::Gs, Segment::Ss] {
            self.load_segment(segment, &entry.data);
        }
        self.load_segment(Segment::Cs, &entry.code);
        self.load_segment(Segment::Tr, &entry.task);
        self.set_general(register::RAX, entry.rax);
        self.set_general(register::RBX, entry.rbx);
        self.set_general(register::RSI, entry.rsi);
        self.look_for_obstacle();
    }

    /// The state after reset or INIT: waits for a start-up message (SDM vol. 3A 9.4.2). Herald's guests have no firmware
    /// that could start without one.
    pub(super) fn reset(&mut self) {
        self.start_at(0);
        (self.registers.general, self.registers.cr2) = ([0; 16], 0);
        (self.pending, self.nmi_waits) = (None, false);
        self.vmcs.set_nmi_window(false);
        self.activity = Activity::AwaitsStartup;
    }

    /// INIT or a start-up message has come for a processor that is not the first.
    pub(super) fn obey(&mut self, startup: Startup) {
        match (startup, self.activity) {
            (Startup::Init, _) => self.reset(),
            (Startup::StartUp { page }, Activity::AwaitsStartup) => {
                self.start_at(page);
                self.activity = Activity::Active;
            }
            // Only who waits for it heeds a start-up message.
            (Startup::StartUp { .. }, _) => {}
        }
    }

    /// Real mode at the start of a page, with the registers as after INIT (SDM vol. 3A table 10-1).
    fn start_at(&mut self, page: u8) {
        const READ_WRITE: u32 = 0x93;
        const EXECUTE_READ: u32 = 0x9b;
        const BUSY_TSS: u32 = 0x8b;
        let segment = |selector: u16, rights| firmware::Segment {
            selector,
            base: u32::from(selector) << 4,
            limit: 0xffff,
            rights,
        };
        let (cs, data, task) =
            (segment(u16::from(page) << 8, EXECUTE_READ), segment(0, READ_WRITE), segment(0, BUSY_TSS));
        let capabilities = *self.vmcs.capabilities();
        let controls = self.vmcs.read(Field::EntryControls) & !u64::from(EntryControls::IA32E_GUEST.bits());
        for (field, value) in [
            (Field::EntryControls, controls),
            (Field::EntryInterruption, 0),
            (Field::GuestCr0, CR0_ET | capabilities.cr0.ones & !(CR0_PE | CR0_PG)),
            (Field::Cr0Shadow, CR0_ET),
            (Field::GuestCr3, 0),
            (Field::GuestCr4, capabilities.cr4.ones | CR4_OWNED),
            (Field::Cr4Shadow, 0),
            (Field::GuestEfer, 0),
            (Field::GuestRip, 0),
            (Field::GuestGdtrLimit, 0xffff),
            (Field::GuestIdtrLimit, 0xffff),
        ] {
            self.vmcs.write(field, value);
        }
        self.load_shadow(Registers { cr0: CR0_ET, ..Registers::default() });
        self.clear_rest();
        for name in [Segment::Ds, Segment::Es, Segment::Fs, Segment::Gs, Segment::Ss] {
            self.load_segment(name, &data);
        }
        self.load_segment(Segment::Cs, &cs);
        self.load_segment(Segment::Tr, &task);
        self.flush_linear();
        self.look_for_obstacle();
    }

    /// What is the same after every start.
    fn clear_rest(&mut self) {
        for (field, value) in [
            (Field::GuestPat, PAT),
            (Field::GuestDr7, DR7),
            (Field::GuestDebugctl, 0),
            (Field::GuestRflags, RFLAGS),
            (Field::GuestRsp, 0),
            (Field::GuestActivity, 0),
            (Field::GuestInterruptibility, 0),
            (Field::GuestPendingDebug, 0),
            (Field::GuestSysenterCs, 0),
            (Field::GuestSysenterEsp, 0),
            (Field::GuestSysenterEip, 0),
            (Field::GuestGdtrBase, 0),
            (Field::GuestIdtrBase, 0),
        ] {
            self.vmcs.write(field, value);
        }
        self.keep_pat();
        for (field, value) in Segment::Ldtr.fields().into_iter().zip([0, 0, 0, UNUSABLE]) {
            self.vmcs.write(field, value);
        }
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
