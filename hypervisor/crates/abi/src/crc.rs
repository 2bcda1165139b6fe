//! CRC-32 (IEEE 802.3, reflected 0xEDB88320): guards headers against truncation and stray writes.

/// The checksum of `bytes`. Bit by bit: it runs over a few KiB, once a boot.
#[must_use]
pub const fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    let mut index = 0;
    while index < bytes.len() {
        crc ^= bytes[index] as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        index += 1;
    }
    !crc
}
