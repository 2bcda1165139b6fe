//! PCI configuration space by mechanism #1, two ports (PCI 3.0, 3.2.2.3.2), and the walk over the buses.
//!
//! ```text
//!   31 30    24 23    16 15     11 10      8 7       2 1 0
//!    1        0      bus    device  function  register 0 0   port 0xcf8; the register itself: port 0xcfc
//! ```
//!
//! Bus 0 is there where PCI is; the others lie behind bridges, each of which names the bus behind it. Without PCI
//! every register reads all ones, which is no vendor.

use alloc::vec::Vec;
use spin::Mutex;
use startup::virtio::WORDS;
use virtio_drivers::transport::pci::bus::{
    Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType, PciRoot,
};
use x86::io::{inl, outl};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// Register with the header type in bits 23:16; of function 0, bit 7 of that says that there are others.
const HEADER: u8 = 0x0c;
const SEVERAL_FUNCTIONS: u32 = 1 << 23;
/// Register of a bridge with the number of the bus behind it in bits 15:8 (PCI-to-PCI bridge 1.2, 3.2.5.3).
const BUSES: u8 = 0x18;

/// An address and its data go together.
static PORTS: Mutex<()> = Mutex::new(());

/// The ports.
pub(super) struct Ports;

/// All of PCI.
pub(super) type Root = PciRoot<Ports>;

fn select(at: DeviceFunction, register: u8) {
    let (bus, device, function) = (u32::from(at.bus), u32::from(at.device), u32::from(at.function));
    let address = 1 << 31 | bus << 16 | device << 11 | function << 8 | u32::from(register & !3);
    // SAFETY: the configuration address port does nothing but choose what the data port is.
    unsafe { outl(ADDRESS, address) };
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, at: DeviceFunction, register: u8) -> u32 {
        let _both = PORTS.lock();
        select(at, register);
        // SAFETY: reading configuration space has no effect (PCI 3.0, 6.2).
        unsafe { inl(DATA) }
    }

    fn write_word(&mut self, at: DeviceFunction, register: u8, data: u32) {
        let _both = PORTS.lock();
        select(at, register);
        // SAFETY: base addresses are measured and put back, and the command register is given bits of this
        // directory's choice: no device comes to decode other addresses than firmware gave it, and one becomes
        // a bus master only after its reset.
        unsafe { outl(DATA, data) };
    }

    /// The ports are the same for everybody, and a lock keeps their two accesses together.
    ///
    /// # Safety
    /// Nothing.
    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

/// The functions of all buses that bridges lead to from bus 0, bus by bus.
pub(super) fn functions(root: &Root) -> Vec<(DeviceFunction, DeviceFunctionInfo)> {
    let mut found = Vec::new();
    let mut reached = [false; 256];
    reached[0] = true;
    // The bus behind a bridge has a larger number than the one before it: one pass sees all, and ends.
    for bus in 0..=u8::MAX {
        if reached[usize::from(bus)] {
            for (at, info) in root.enumerate_bus(bus).filter(|(at, _)| is_there(*at)) {
                let behind = (Ports.read_word(at, BUSES) >> 8) as u8;
                if info.header_type == HeaderType::PciPciBridge && behind > bus {
                    reached[usize::from(behind)] = true;
                }
                found.push((at, info));
            }
        }
    }
    found
}

/// A device with one function may answer for all eight (PCI 3.0, 3.2.2.3.4).
fn is_there(at: DeviceFunction) -> bool {
    at.function == 0 || Ports.read_word(DeviceFunction { function: 0, ..at }, HEADER) & SEVERAL_FUNCTIONS != 0
}

/// A function's configuration space, without what only PCI Express has.
pub(super) fn configuration(at: DeviceFunction) -> [u32; WORDS] {
    core::array::from_fn(|index| Ports.read_word(at, index as u8 * 4))
}

/// Lets a function answer at its addresses in memory, without interrupts, and not yet be a bus master.
pub(super) fn open(root: &mut Root, at: DeviceFunction) {
    let (_, command) = root.get_status_command(at);
    let on = Command::MEMORY_SPACE | Command::INTERRUPT_DISABLE;
    root.set_command(at, command.difference(Command::BUS_MASTER) | on);
}

/// Lets a function answer at its ports.
pub(super) fn open_ports(root: &mut Root, at: DeviceFunction) {
    let (_, command) = root.get_status_command(at);
    root.set_command(at, command | Command::IO_SPACE);
}

/// Lets a function use memory by itself.
pub(super) fn let_use_memory(root: &mut Root, at: DeviceFunction) {
    let (_, command) = root.get_status_command(at);
    root.set_command(at, command | Command::BUS_MASTER);
}

/// Keeps a function from using memory, whatever it was asked to do (PCI 3.0, 6.2.2, bit 2).
pub(super) fn close(root: &mut Root, at: DeviceFunction) {
    let (_, command) = root.get_status_command(at);
    root.set_command(at, command.difference(Command::BUS_MASTER));
}
