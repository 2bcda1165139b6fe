//! A virtual processor: its VMCS, the registers beside it, and what waits to be delivered to it.
//!
//! ```text
//!        ┌───────────────────────────────────────────────────────────────────────────────┐
//!        ▼                                                                               │ Resume
//!   turn over? yield ─► inject what waits ─► set timer ─► flush if owed ─► enter ─► exit::handle ─► End
//!        └─ halted? park                         ▲                                      │ Again, and
//!                                                └──────────────────────────────────────┘ nothing new
//! ```

mod apic;
mod extended;
mod initial;
mod inject;
mod interpreted;
mod place;
mod run;
mod shadow;
mod state;

use crate::physmem::PhysicalMemory;
use crate::plat::Ticks;
use crate::vmx::{GuestRegisters, Vmcs, VmcsConfig, VmcsError, Vmx};
use abi::telemetry::Exits;
use addr::Pfn;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use devices::VcpuId;
use place::Place;
use shadow::Shadowed;
use vmxdefs::event::Event;
use vmxdefs::field::{Field, Segment};

pub(crate) use run::{RunError, run};
pub(crate) use state::VcpuState;

/// Number of a general register, as instructions encode it.
pub(crate) mod register {
    /// RAX.
    pub(crate) const RAX: usize = 0;
    /// RCX.
    pub(crate) const RCX: usize = 1;
    /// RDX.
    pub(crate) const RDX: usize = 2;
    /// RBX.
    pub(crate) const RBX: usize = 3;
    /// RSP: in the VMCS.
    pub(crate) const RSP: usize = 4;
    /// RSI.
    pub(crate) const RSI: usize = 6;
    /// RDI.
    pub(crate) const RDI: usize = 7;
}

/// Counters of one virtual processor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Exits by reason.
    pub exits: Exits,
    /// EPT violations of all kinds.
    pub ept_violations: u64,
    /// INVEPT instructions.
    pub invept: u64,
    /// INVVPID instructions.
    pub invvpid: u64,
    /// Ticks spent on EPT violations and page faults that faulted memory in.
    pub memory_ticks: u64,
}

/// One virtual processor.
pub(crate) struct Vcpu {
    /// Which of its guest.
    pub id: VcpuId,
    /// Its VMCS.
    pub vmcs: Vmcs,
    /// Registers outside the VMCS.
    pub registers: GuestRegisters,
    /// Counters.
    pub counters: Counters,
    /// Where its time goes.
    pub ticks: Ticks,
    /// What it does.
    pub activity: Activity,
    /// An event to deliver before any other: an exception, or one whose delivery an exit interrupted.
    pending: Option<Event>,
    /// An NMI that the guest blocks.
    nmi_waits: bool,
    /// The EOI-exit bitmaps in force.
    eoi_exits: [u64; 4],
    /// When its next device timer is due, as of its last look at its board.
    deadline: Option<devices::Ticks>,
    /// When it has to look at what it does next, in TSC ticks: a device timer is due then, or its turn is over. All ones: never.
    due: u64,
    /// The preemption timer in the VMCS is set to never.
    timer_rests: bool,
    /// It spins: whoever waits for its CPU goes first.
    pub gives_way: bool,
    /// It serves its guest's balloon before it enters.
    pub serves: bool,
    /// What it has besides under a shadow.
    shadow: Option<Shadowed>,
    /// What it has in a CPU.
    place: Rc<Place>,
}

/// Where a virtual processor begins.
pub(crate) enum Start {
    /// Where the boot protocol says.
    Entry(firmware::Entry),
    /// It waits to be started.
    Reset,
    /// Where the one was that it is a copy of.
    Resume(Box<VcpuState>),
}

/// What a virtual processor does (SDM vol. 3C 25.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Activity {
    /// It executes instructions.
    Active,
    /// It waits for an interrupt.
    Halted,
    /// It waits for a start-up message.
    AwaitsStartup,
}

impl Vcpu {
    /// A virtual processor on this CPU, under a shadow whose pointers are there, or under an EPT.
    ///
    /// # Errors
    /// [`VmcsError`].
    pub(crate) fn new(
        id: VcpuId,
        vmx: &Vmx,
        memory: &Arc<PhysicalMemory>,
        config: &VmcsConfig,
        pointers: Option<Pfn>,
        start: Start,
    ) -> Result<Self, VmcsError> {
        let shadow = pointers.map(Shadowed::new).transpose()?;
        let vmcs = Vmcs::new(vmx, memory, config)?;
        let place = Rc::new(Place::new(Rc::clone(vmcs.residence())));
        let mut vcpu = Self {
            id,
            vmcs,
            registers: GuestRegisters::default(),
            counters: Counters::default(),
            ticks: Ticks::default(),
            activity: Activity::Active,
            pending: None,
            nmi_waits: false,
            eoi_exits: [0; 4],
            deadline: None,
            due: u64::MAX,
            timer_rests: false,
            gives_way: false,
            serves: false,
            shadow,
            place,
        };
        match start {
            Start::Entry(entry) => vcpu.load(&entry),
            Start::Reset => vcpu.reset(),
            Start::Resume(state) => vcpu.resume(*state),
        }
        vcpu.flush_linear();
        Ok(vcpu)
    }

    /// Sets XCR0, as XSETBV does; `false` where the processor lacks a component.
    #[must_use]
    pub(crate) fn set_xcr0(&mut self, value: u64) -> bool {
        self.place.extended.borrow_mut().set_xcr0(value)
    }

    /// Drops the linear translations cached for it: after a change that the processor itself would flush for.
    pub(crate) fn flush_linear(&mut self) {
        self.counters.invvpid += u64::from(self.vmcs.residence().flush_linear());
    }

    /// A general register, RSP included.
    #[must_use]
    pub(crate) fn general(&self, number: usize) -> u64 {
        if number == register::RSP { self.vmcs.read(Field::GuestRsp) } else { self.registers.general[number] }
    }

    /// Sets a general register, RSP included.
    pub(crate) fn set_general(&mut self, number: usize, value: u64) {
        if number == register::RSP {
            self.vmcs.write(Field::GuestRsp, value);
        } else {
            self.registers.general[number] = value;
        }
    }

    /// EDX:EAX.
    #[must_use]
    pub(crate) fn edx_eax(&self) -> u64 {
        let low = |number| self.registers.general[number] & 0xffff_ffff;
        low(register::RDX) << 32 | low(register::RAX)
    }

    /// Sets RAX and RDX to the halves of a value, as RDMSR does.
    pub(crate) fn set_edx_eax(&mut self, value: u64) {
        self.registers.general[register::RAX] = value & 0xffff_ffff;
        self.registers.general[register::RDX] = value >> 32;
    }

    /// Current privilege level: the DPL of SS (SDM vol. 3C 25.4.1).
    #[must_use]
    pub(crate) fn privilege_level(&self) -> u8 {
        (self.vmcs.read(Segment::Ss.fields()[3]) >> 5 & 3) as u8
    }

    /// Moves RIP past the instruction that exited. Blocking by STI and MOV SS ends with it.
    pub(crate) fn skip_instruction(&mut self) {
        let len = self.vmcs.read(Field::ExitInstructionLength);
        self.advance(len);
    }

    /// Moves RIP by `len` bytes, as after an instruction.
    pub(crate) fn advance(&mut self, len: u64) {
        let rip = self.vmcs.read(Field::GuestRip).wrapping_add(len);
        // Outside 64-bit code RIP has 32 bits.
        let long = self.vmcs.read(Segment::Cs.fields()[3]) & 1 << 13 != 0;
        self.vmcs.write(Field::GuestRip, if long { rip } else { rip & 0xffff_ffff });
        let blocking = self.vmcs.read(Field::GuestInterruptibility);
        if blocking & 0b11 != 0 {
            self.vmcs.write(Field::GuestInterruptibility, blocking & !0b11);
        }
    }

    /// Delivers an exception at the next entry.
    pub(crate) fn raise(&mut self, exception: Event) {
        self.pending = Some(exception);
    }

    /// Delivers a page fault at the next entry, or what it comes to where it has cut short the delivery of another event, which is lost
    /// as on a processor (SDM vol. 3A 6.15). `false`: that was a double fault.
    #[must_use]
    pub(crate) fn raise_page_fault(&mut self, code: u32) -> bool {
        let event = match self.pending.take() {
            Some(pending) => pending.then_page_fault(code),
            None => Some(Event::page_fault(code)),
        };
        self.pending = event;
        event.is_some()
    }

    /// Prints what a developer of a guest wants to know.
    pub(crate) fn log_registers(&self) {
        let read = |field| self.vmcs.read(field);
        let general = |number| self.general(number);
        for (row, names) in [
            ["rax", "rcx", "rdx", "rbx"],
            ["rsp", "rbp", "rsi", "rdi"],
            ["r8 ", "r9 ", "r10", "r11"],
            ["r12", "r13", "r14", "r15"],
        ]
        .into_iter()
        .enumerate()
        {
            let value = |column: usize| general(row * 4 + column);
            log::error!(
                "  {} {:016x}  {} {:016x}  {} {:016x}  {} {:016x}",
                names[0],
                value(0),
                names[1],
                value(1),
                names[2],
                value(2),
                names[3],
                value(3),
            );
        }
        log::error!(
            "  rip {:016x}  rfl {:016x}  cr2 {:016x}",
            read(Field::GuestRip),
            read(Field::GuestRflags),
            self.registers.cr2,
        );
        let registers = self.guest_registers();
        log::error!(
            "  cr0 {:016x}  cr3 {:016x}  cr4 {:016x}  efer {:x}",
            registers.cr0,
            registers.cr3,
            registers.cr4,
            registers.efer,
        );
        for segment in Segment::ALL {
            let [selector, base, limit, rights] = segment.fields().map(read);
            log::error!(
                "  {segment:4?} {selector:04x} base {base:016x} limit {limit:08x} rights {rights:05x}"
            );
        }
        for (name, base, limit) in [
            ("gdt", Field::GuestGdtrBase, Field::GuestGdtrLimit),
            ("idt", Field::GuestIdtrBase, Field::GuestIdtrLimit),
        ] {
            log::error!("  {name} base {:016x} limit {:04x}", read(base), read(limit));
        }
    }
}
