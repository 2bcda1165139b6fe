//! Port I/O (SDM 1, 18.3). In the platform that Herald gives a guest no port starts a transfer into memory,
//! so these are safe functions.

use core::arch::asm;

macro_rules! port_width {
    ($read:ident, $write:ident, $type:ty, $register:tt) => {
        /// Reads a port; all ones where there is no device.
        #[must_use]
        pub fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: touches no memory (module comment).
            unsafe {
                asm!(concat!("in ", $register, ", dx"), out($register) value, in("dx") port,
                     options(nomem, nostack, preserves_flags));
            }
            value
        }

        /// Writes a port; ignored where there is no device. Not `nomem`: the host may change memory in it.
        pub fn $write(port: u16, value: $type) {
            // SAFETY: whatever the host does, the compiler must assume that memory changed.
            unsafe {
                asm!(concat!("out dx, ", $register), in($register) value, in("dx") port,
                     options(nostack, preserves_flags));
            }
        }
    };
}

port_width!(read8, write8, u8, "al");
port_width!(read16, write16, u16, "ax");
port_width!(read32, write32, u32, "eax");

/// `rep outsb`: writes all bytes to one port.
pub fn write_string(port: u16, bytes: &[u8]) {
    // SAFETY: reads `bytes.len()` bytes from the slice; the direction flag is clear (System V ABI 3.2.1).
    unsafe {
        asm!("rep outsb", inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _, in("dx") port,
             options(nostack, preserves_flags));
    }
}

/// `rep insb`: fills the slice from one port.
pub fn read_string(port: u16, bytes: &mut [u8]) {
    // SAFETY: writes `bytes.len()` bytes into the slice; the direction flag is clear.
    unsafe {
        asm!("rep insb", inout("rdi") bytes.as_mut_ptr() => _, inout("rcx") bytes.len() => _, in("dx") port,
             options(nostack, preserves_flags));
    }
}
