//! What a host's instructions are, one by one: Bochs' debugger prints each, with its accesses to memory, between two breaks of the
//! guest's (`guest::cpu::stand_still`), of all processors.
//!
//! ```text
//!   Tracing enabled for CPU0
//!   (0).[94347910] [0x0000002344e8] 0008:ffffffff802344e8 (unk. ctxt): lock inc qword ptr ds:[rax] ; f048ff00
//!   [CPU0 RW]: LIN 0xffffffff80300000 PHY 0x000000300000 (len=8, WB): 0x0000000000000001
//!   Tracing disabled for CPU0
//! ```

use std::collections::{BTreeMap, HashSet};
use std::io::BufRead;

const ON: &str = "Tracing enabled";
const OFF: &str = "Tracing disabled";
const INSTRUCTION: &str = "(";
const ACCESS: &str = "[CPU";
/// Kernels are above, the guest below.
const KERNEL: u64 = 0xffff_8000_0000_0000;
/// The low half of the local APIC's command register: who writes it interrupts another processor. Neither side uses x2APIC mode on this
/// machine, where it would be a WRMSR.
const COMMAND: u64 = 0xfee0_0300;
/// Bytes of a cache line, as a power of two.
const LINE: u32 = 6;

/// What a host did from one break to the next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) instructions: u64,
    /// Entries into the guest.
    pub(super) entries: u64,
    pub(super) vmreads: u64,
    pub(super) vmwrites: u64,
    pub(super) invepts: u64,
    pub(super) invvpids: u64,
    /// INVLPG, INVPCID: of the host's own translations.
    pub(super) invlpgs: u64,
    /// Loads of CR3, which drop the host's own translations but for global ones.
    pub(super) cr3_loads: u64,
    /// Of model-specific registers, by which timers are set.
    pub(super) wrmsrs: u64,
    /// Interrupts sent to other processors.
    pub(super) ipis: u64,
    /// Instructions that lock a line of memory.
    pub(super) atomics: u64,
    /// Cache lines, each once for every time that the guest was left.
    pub(super) lines: u64,
    /// Cache lines, each once.
    pub(super) new_lines: u64,
}

/// Reads all traces; `other` hears of what comes between them, and says whether to go on.
pub(super) fn read(printed: impl BufRead, mut other: impl FnMut(&str) -> bool) -> Vec<Counts> {
    let (mut all, mut trace) = (Vec::new(), None::<Trace>);
    for line in printed.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if line.starts_with(ON) {
            trace = Some(Trace::default());
        } else if line.starts_with(OFF) {
            all.extend(trace.take().map(Trace::finish));
        } else if let Some(trace) = &mut trace {
            trace.take(&line);
        } else if !other(&line) {
            break;
        }
    }
    all
}

#[derive(Default)]
struct Trace {
    counts: Counts,
    /// Whether the last instruction's accesses count.
    is_counted: bool,
    /// By processor.
    since_entry: BTreeMap<String, HashSet<u64>>,
    lines: HashSet<u64>,
}

impl Trace {
    fn take(&mut self, line: &str) {
        if let Some((cpu, rest)) = line.strip_prefix(INSTRUCTION).and_then(|rest| rest.split_once(").[")) {
            self.is_counted = false;
            if let Some((place, text)) = rest.split_once("] ").and_then(|(_, rest)| rest.split_once(": "))
                && is_host(place)
            {
                self.instruction(cpu, text);
            }
        } else if self.is_counted && line.starts_with(ACCESS) {
            self.lines_of(line);
        }
    }

    /// What a `rep` goes over is a page's contents.
    fn instruction(&mut self, cpu: &str, text: &str) {
        let counts = &mut self.counts;
        counts.instructions += 1;
        self.is_counted = !text.starts_with("rep");
        let counter = match text.split(' ').next().unwrap_or_default() {
            "vmresume" | "vmlaunch" => {
                counts.lines += self.since_entry.remove(cpu).map_or(0, |lines| lines.len() as u64);
                &mut counts.entries
            }
            "vmread" => &mut counts.vmreads,
            "vmwrite" => &mut counts.vmwrites,
            "invept" => &mut counts.invepts,
            "invvpid" => &mut counts.invvpids,
            "invlpg" | "invpcid" => &mut counts.invlpgs,
            "mov" if text.starts_with("mov cr3,") => &mut counts.cr3_loads,
            "wrmsr" => &mut counts.wrmsrs,
            "lock" => &mut counts.atomics,
            // With memory it is locked without saying so (SDM vol. 2, XCHG).
            "xchg" if text.contains(" ptr ") => &mut counts.atomics,
            _ => return,
        };
        *counter += 1;
    }

    /// Those that an access touches; what the processor itself reads of tables has no linear address.
    fn lines_of(&mut self, line: &str) {
        let cpu = line.trim_start_matches(ACCESS).split(' ').next().unwrap_or_default();
        let physical = || line.split_once(" LIN 0x")?.1.split_once(" PHY 0x")?.1.split_once(' ');
        let Some((at, rest)) = physical() else { return };
        let Ok(at) = u64::from_str_radix(at, 16) else { return };
        self.counts.ipis += u64::from(at == COMMAND && line.contains(" WR]"));
        let len = rest.strip_prefix("(len=").and_then(|rest| rest.split([',', ')']).next()?.parse().ok());
        let since_entry = self.since_entry.entry(cpu.to_owned()).or_default();
        for line in at >> LINE..=(at + len.unwrap_or(1u64).max(1) - 1) >> LINE {
            since_entry.insert(line);
            self.lines.insert(line);
        }
    }

    fn finish(mut self) -> Counts {
        self.counts.lines += self.since_entry.values().map(|lines| lines.len() as u64).sum::<u64>();
        self.counts.new_lines = self.lines.len() as u64;
        self.counts
    }
}

/// `[physical] selector:linear (context)`: a kernel, or a program.
fn is_host(place: &str) -> bool {
    let Some((selector, linear)) =
        place.split_once("] ").and_then(|(_, place)| place.split(' ').next()?.split_once(':'))
    else {
        return false;
    };
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or_default();
    number(linear) >= KERNEL || number(selector) & 3 == 3
}

#[cfg(test)]
mod tests {
    use super::{Counts, read};

    fn at(address: &str, text: &str) -> String {
        format!("(0).[94347910] [0x0000002344e8] {address} (unk. ctxt): {text} ; 90\n")
    }

    fn access(physical: &str) -> String {
        format!("[CPU0 RW]: LIN 0xffffffff80300000 PHY 0x{physical} (len=8, WB): 0x0000000000000001\n")
    }

    #[test]
    fn a_hosts_instructions_count_and_what_they_touch() {
        let (host, program, guest) =
            ("0008:ffffffff802344e8", "0033:00007ffff7001000", "0008:0000000000102000");
        let text = [
            at(host, "vmread rax, rbx"),
            "Tracing enabled for CPU0\n".into(),
            at(guest, "lock inc dword ptr ds:[rax]"),
            access("000000000000"),
            at(host, "vmread rax, rbx"),
            at(host, "lock inc qword ptr ds:[rax]"),
            access("000000300000"),
            "[CPU0 WR]: PHY 0x000000300100 (len=8, WB): 0x0\n".into(),
            at(host, "rep stosq qword ptr es:[rdi], rax"),
            access("000000400000"),
            at(host, "invept rax, xmmword ptr ds:[rbx]"),
            at(host, "invvpid rax, xmmword ptr ds:[rbx]"),
            at(host, "invlpg byte ptr ds:[rax]"),
            at(host, "mov cr3, rax"),
            at(host, "mov rax, cr3"),
            at(host, "mov dword ptr ds:[rax], ebx"),
            "[CPU0 WR]: LIN 0xffffffffff5fd300 PHY 0x0000fee00300 (len=4, UC): 0x000008fd\n".into(),
            at(host, "mov eax, dword ptr ds:[rax]"),
            "[CPU0 RD]: LIN 0xffffffffff5fd300 PHY 0x0000fee00300 (len=4, UC): 0x000008fd\n".into(),
            at(host, "wrmsr").replace("(0)", "(1)"),
            at(host, "vmresume"),
            at(program, "xchg dword ptr ds:[rax], ebx"),
            access("00000030003c"),
            at(host, "xchg rax, rbx"),
            "Tracing disabled for CPU0\n".into(),
            at(host, "vmread rax, rbx"),
        ];
        let counts = Counts {
            instructions: 14,
            entries: 1,
            invepts: 1,
            invvpids: 1,
            invlpgs: 1,
            cr3_loads: 1,
            vmreads: 1,
            wrmsrs: 1,
            ipis: 1,
            atomics: 2,
            lines: 4,
            new_lines: 3,
            ..Counts::default()
        };
        assert_eq!(read(text.concat().as_bytes(), |_| true), [counts]);
    }
}
