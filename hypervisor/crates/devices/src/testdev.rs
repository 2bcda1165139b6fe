//! The test device ([`abi::testdev`] has the ports) and a minimal fw_cfg, as kvm-unit-tests use them.

use abi::testdev::{IRQ_LINE, IRQ_LINES, SCRATCH};
use serde::{Deserialize, Serialize};

/// fw_cfg's selector, 16 bits.
pub(crate) const FW_CFG_SELECTOR: u16 = 0x510;
/// fw_cfg's data, a byte a read.
pub(crate) const FW_CFG_DATA: u16 = 0x511;

const RAM_SIZE: u16 = 3;
const CPUS: u16 = 5;
const MAX_CPUS: u16 = 0xf;
const RAM_END: u16 = 0x11;
const SCRATCH_BYTES: u16 = 4;

/// What fw_cfg tells.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) vcpus: u32,
    pub(crate) ram_bytes: u64,
    pub(crate) ram_end: u64,
}

/// Scratch register, driven lines, and fw_cfg's place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TestDevice {
    facts: Facts,
    scratch: [u8; 4],
    selector: u16,
    offset: usize,
    /// Interrupt lines, a bit each.
    lines: u32,
}

impl TestDevice {
    pub(crate) const fn new(facts: Facts) -> Self {
        Self { facts, scratch: [0; 4], selector: 0, offset: 0, lines: 0 }
    }

    /// Whether the port belongs to the scratch register.
    pub(crate) const fn is_scratch(port: u16) -> bool {
        matches!(port.checked_sub(SCRATCH), Some(0..SCRATCH_BYTES))
    }

    /// The interrupt line that the port drives.
    pub(crate) const fn line_of(port: u16) -> Option<u8> {
        match port.checked_sub(IRQ_LINE) {
            Some(line @ 0..IRQ_LINES) => Some(line as u8),
            _ => None,
        }
    }

    pub(crate) fn read_scratch(&self, port: u16) -> u8 {
        self.scratch[usize::from(port & 3)]
    }

    pub(crate) fn write_scratch(&mut self, port: u16, value: u8) {
        self.scratch[usize::from(port & 3)] = value;
    }

    pub(crate) fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1u32 << (line & 31);
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
    }

    /// All lines, a bit each.
    pub(crate) const fn lines(&self) -> u32 {
        self.lines
    }

    pub(crate) fn select(&mut self, selector: u16) {
        self.selector = selector;
        self.offset = 0;
    }

    /// The next byte of the selected item; 0 past its end.
    pub(crate) fn read_data(&mut self) -> u8 {
        let item = match self.selector {
            RAM_SIZE => self.facts.ram_bytes,
            CPUS | MAX_CPUS => u64::from(self.facts.vcpus),
            RAM_END => self.facts.ram_end,
            _ => 0,
        };
        let byte = item.to_le_bytes().get(self.offset).copied().unwrap_or(0);
        self.offset = self.offset.saturating_add(1);
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, TestDevice};

    #[test]
    fn fw_cfg_answers_byte_by_byte() {
        let mut device = TestDevice::new(Facts { vcpus: 2, ram_bytes: 0x1_2345_0000, ram_end: 7 });
        device.select(3);
        let bytes = core::array::from_fn(|_| device.read_data());
        assert_eq!(u64::from_le_bytes(bytes), 0x1_2345_0000);
        assert_eq!(device.read_data(), 0);
        device.select(5);
        assert_eq!([device.read_data(), device.read_data()], [2, 0]);
    }

    #[test]
    fn lines_are_24() {
        assert_eq!(TestDevice::line_of(0x2017), Some(23));
        assert_eq!(TestDevice::line_of(0x2018), None);
        assert_eq!(TestDevice::line_of(0x1fff), None);
    }
}
