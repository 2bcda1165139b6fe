//! Why an entry failed: the checks on guest state that the processor makes (SDM vol. 3C 27.3.1), made again in
//! software, each violated rule told with the value that breaks it.
//!
//! Not every rule is here: those that Herald's own controls can never break are left out.

use crate::capability::Fixed;
use crate::controls::EntryControls;
use crate::event::{Event, EventKind};
use crate::field::{Field, Segment};
use core::fmt::{self, Arguments};

const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;
/// RFLAGS bits that must be 0: 63:22, 15, 5, 3.
const RFLAGS_ZERO: u64 = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3;
const UNUSABLE: u64 = 1 << 16;

/// The fixed bits of the processor; an unrestricted guest may clear CR0.PE and CR0.PG all the same.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// CR0.
    pub cr0: Fixed,
    /// CR4.
    pub cr4: Fixed,
}

/// Reports each rule that the guest state breaks; returns how many.
pub fn explain(
    rules: Rules,
    mut vmread: impl FnMut(Field) -> u64,
    mut report: impl FnMut(Arguments<'_>),
) -> usize {
    let mut count = 0;
    let mut checks = Checks {
        vmread: &mut vmread,
        report: &mut |line| {
            count += 1;
            report(line);
        },
    };
    checks.control_registers(rules);
    checks.efer();
    checks.rip_and_rflags();
    checks.code_and_stack();
    checks.data_segments();
    checks.tables();
    checks.non_register();
    count
}

struct Checks<'a> {
    vmread: &'a mut dyn FnMut(Field) -> u64,
    report: &'a mut dyn FnMut(Arguments<'_>),
}

impl Checks<'_> {
    fn get(&mut self, field: Field) -> u64 {
        (self.vmread)(field)
    }

    fn require(&mut self, holds: bool, rule: Arguments<'_>) {
        if !holds {
            (self.report)(rule);
        }
    }

    fn ia32e(&mut self) -> bool {
        self.get(Field::EntryControls) & u64::from(EntryControls::IA32E_GUEST.bits()) != 0
    }

    /// 27.3.1.1.
    fn control_registers(&mut self, Rules { cr0: fixed0, cr4: fixed4 }: Rules) {
        let (cr0, cr4) = (self.get(Field::GuestCr0), self.get(Field::GuestCr4));
        let ones0 = fixed0.ones & !(CR0_PE | CR0_PG);
        self.require(cr0 & ones0 == ones0, format_args!("CR0 {cr0:#x} lacks fixed bits {:#x}", ones0 & !cr0));
        self.require(
            cr0 & !fixed0.allowed == 0,
            format_args!("CR0 {cr0:#x} has forbidden bits {:#x}", cr0 & !fixed0.allowed),
        );
        self.require(cr0 & CR0_PG == 0 || cr0 & CR0_PE != 0, format_args!("CR0 {cr0:#x} has PG without PE"));
        self.require(
            cr4 & fixed4.ones == fixed4.ones,
            format_args!("CR4 {cr4:#x} lacks fixed bits {:#x}", fixed4.ones & !cr4),
        );
        self.require(
            cr4 & !fixed4.allowed == 0,
            format_args!("CR4 {cr4:#x} has forbidden bits {:#x}", cr4 & !fixed4.allowed),
        );
        let ia32e = self.ia32e();
        self.require(
            !ia32e || (cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0),
            format_args!("IA-32e guest with CR0 {cr0:#x}, CR4 {cr4:#x}: PG and PAE must be 1"),
        );
        self.require(
            ia32e || cr4 & CR4_PCIDE == 0,
            format_args!("CR4 {cr4:#x} has PCIDE outside IA-32e mode"),
        );
    }

    /// 27.3.1.1, with "load IA32_EFER".
    fn efer(&mut self) {
        let (efer, cr0, ia32e) = (self.get(Field::GuestEfer), self.get(Field::GuestCr0), self.ia32e());
        self.require(
            (efer & EFER_LMA != 0) == ia32e,
            format_args!("EFER {efer:#x}: LMA differs from the control \"IA-32e mode guest\" ({ia32e})"),
        );
        self.require(
            cr0 & CR0_PG == 0 || (efer & EFER_LMA != 0) == (efer & EFER_LME != 0),
            format_args!("EFER {efer:#x}: LMA and LME differ though CR0.PG is 1"),
        );
    }

    /// 27.3.1.4.
    fn rip_and_rflags(&mut self) {
        let (rip, rflags) = (self.get(Field::GuestRip), self.get(Field::GuestRflags));
        let long = self.ia32e() && self.get(Field::GuestCsRights) & 1 << 13 != 0;
        self.require(long || rip >> 32 == 0, format_args!("RIP {rip:#x} outside 64-bit code"));
        self.require(rflags & RFLAGS_ZERO == 0, format_args!("RFLAGS {rflags:#x} has reserved bits"));
        self.require(rflags & 2 != 0, format_args!("RFLAGS {rflags:#x}: bit 1 must be 1"));
        let ia32e = self.ia32e();
        self.require(
            !(ia32e && rflags & RFLAGS_VM != 0),
            format_args!("RFLAGS {rflags:#x} has VM in IA-32e mode"),
        );
        let entry = Event::decode(self.get(Field::EntryInterruption) as u32, 0);
        let external = entry.is_some_and(|event| event.kind == EventKind::External);
        self.require(
            !external || rflags & RFLAGS_IF != 0,
            format_args!("an external interrupt is injected though RFLAGS {rflags:#x} has IF clear"),
        );
    }

    /// 27.3.1.2: CS and SS.
    fn code_and_stack(&mut self) {
        let (code, ia32e) = (self.get(Field::GuestCsRights), self.ia32e());
        self.require(
            matches!(code & 0xf, 3 | 9 | 11 | 13 | 15) && code & UNUSABLE == 0,
            format_args!("CS access rights {code:#x}: no usable code segment"),
        );
        self.require(
            !(ia32e && code & 1 << 13 != 0 && code & 1 << 14 != 0),
            format_args!("CS access rights {code:#x}: L and D/B are both 1"),
        );
        let stack = self.get(Field::GuestSsRights);
        self.require(
            stack & UNUSABLE != 0 || matches!(stack & 0xf, 3 | 7),
            format_args!("SS access rights {stack:#x}: no writable data segment"),
        );
    }

    /// 27.3.1.2: what holds for every usable segment.
    fn data_segments(&mut self) {
        let ia32e = self.ia32e();
        for segment in Segment::ALL {
            let [_, _, limit, rights] = segment.fields().map(|field| self.get(field));
            if rights & UNUSABLE != 0 {
                self.require(segment != Segment::Tr, format_args!("TR is unusable"));
                continue;
            }
            self.require(rights & 1 << 7 != 0, format_args!("{segment:?} rights {rights:#x}: not present"));
            self.require(
                rights & 0xf00 == 0 && rights >> 17 == 0,
                format_args!("{segment:?} rights {rights:#x}: reserved bits are set"),
            );
            let system = matches!(segment, Segment::Ldtr | Segment::Tr);
            self.require(
                (rights & 1 << 4 == 0) == system,
                format_args!("{segment:?} rights {rights:#x}: wrong S bit"),
            );
            let granular = rights & 1 << 15 != 0;
            self.require(
                (limit & 0xfff == 0xfff || !granular) && (limit >> 20 == 0 || granular),
                format_args!("{segment:?} limit {limit:#x} does not go with G in rights {rights:#x}"),
            );
            if segment == Segment::Tr {
                let kind = rights & 0xf;
                self.require(
                    kind == 11 || (kind == 3 && !ia32e),
                    format_args!("TR rights {rights:#x}: no busy TSS"),
                );
            }
        }
    }

    /// 27.3.1.3.
    fn tables(&mut self) {
        for (name, base, limit) in [
            ("GDTR", Field::GuestGdtrBase, Field::GuestGdtrLimit),
            ("IDTR", Field::GuestIdtrBase, Field::GuestIdtrLimit),
        ] {
            let (base, limit) = (self.get(base), self.get(limit));
            self.require(
                addr::Gva::try_new(base).is_some(),
                format_args!("{name} base {base:#x} is not canonical"),
            );
            self.require(limit >> 16 == 0, format_args!("{name} limit {limit:#x} has more than 16 bits"));
        }
    }

    /// 27.3.1.5.
    fn non_register(&mut self) {
        let (activity, blocking) = (self.get(Field::GuestActivity), self.get(Field::GuestInterruptibility));
        self.require(activity <= 3, format_args!("activity state {activity} does not exist"));
        self.require(
            activity == 0 || blocking & 3 == 0,
            format_args!("activity state {activity} while interrupts are blocked ({blocking:#x})"),
        );
        self.require(
            blocking & 3 != 3 && blocking >> 5 == 0,
            format_args!("interruptibility state {blocking:#x} is contradictory or reserved"),
        );
        let link = self.get(Field::VmcsLinkPointer);
        self.require(link == u64::MAX, format_args!("VMCS link pointer {link:#x} is not all ones"));
    }
}

/// A count of rules, for a message.
#[derive(Clone, Copy, Debug)]
pub struct Violations(pub usize);

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => {
                f.write_str("no rule that Herald knows is broken: see the emulator's log or the SDM, 27.3.1")
            }
            count => write!(f, "{count} rule(s) broken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Rules, explain};
    use crate::capability::Fixed;
    use crate::controls::EntryControls;
    use crate::field::Field;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    const RULES: Rules = Rules {
        cr0: Fixed { ones: 0x8000_0021, allowed: 0xffff_ffff },
        cr4: Fixed { ones: 0x2000, allowed: 0x3f_ffff },
    };

    fn good(field: Field) -> u64 {
        match field {
            Field::GuestCr0 => 0x8000_0031,
            Field::GuestCr4 => 0x2020,
            Field::GuestEfer => 0x500,
            Field::EntryControls => u64::from(EntryControls::IA32E_GUEST.bits()),
            Field::GuestRflags => 2,
            Field::GuestCsRights => 0xa09b,
            Field::GuestTrRights => 0x8b,
            Field::GuestLdtrRights => 1 << 16,
            Field::GuestTrLimit => 0x67,
            Field::VmcsLinkPointer => u64::MAX,
            Field::GuestEsRights
            | Field::GuestSsRights
            | Field::GuestDsRights
            | Field::GuestFsRights
            | Field::GuestGsRights => 0xc093,
            Field::GuestCsLimit
            | Field::GuestEsLimit
            | Field::GuestSsLimit
            | Field::GuestDsLimit
            | Field::GuestFsLimit
            | Field::GuestGsLimit => 0xffff_ffff,
            _ => 0,
        }
    }

    fn broken(field: Field, value: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let vmread = |asked| if asked == field { value } else { good(asked) };
        let count = explain(RULES, vmread, |line| lines.push(format!("{line}")));
        assert_eq!(count, lines.len());
        lines
    }

    #[test]
    fn a_good_state_breaks_nothing() {
        assert_eq!(broken(Field::Vpid, 0), Vec::<String>::new());
    }

    #[test]
    fn each_rule_names_its_value() {
        for (field, value, words) in [
            (Field::GuestCr0, 0x8000_0030, "PG without PE"),
            (Field::GuestCr4, 0x2000, "PG and PAE must be 1"),
            (Field::GuestEfer, 0, "LMA differs"),
            (Field::GuestRflags, 0, "bit 1 must be 1"),
            (Field::GuestCsRights, 0xe09b, "L and D/B"),
            (Field::GuestTrRights, 0x89, "no busy TSS"),
            (Field::GuestDsLimit, 0x10_0000, "does not go with G"),
            (Field::GuestGdtrBase, 1 << 47, "not canonical"),
            (Field::VmcsLinkPointer, 0, "not all ones"),
            (Field::EntryInterruption, 0x8000_0030, "IF clear"),
        ] {
            let lines = broken(field, value);
            assert!(lines.iter().any(|line| line.contains(words)), "{field:?}: {lines:?}");
        }
    }
}
