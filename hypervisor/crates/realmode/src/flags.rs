//! Bits of RFLAGS (SDM vol. 1 3.4.3).

pub(crate) const CF: u64 = 1 << 0;
pub(crate) const ONE: u64 = 1 << 1;
pub(crate) const PF: u64 = 1 << 2;
pub(crate) const AF: u64 = 1 << 4;
pub(crate) const ZF: u64 = 1 << 6;
pub(crate) const SF: u64 = 1 << 7;
pub(crate) const TF: u64 = 1 << 8;
pub(crate) const IF: u64 = 1 << 9;
pub(crate) const DF: u64 = 1 << 10;
pub(crate) const OF: u64 = 1 << 11;
pub(crate) const IOPL: u64 = 3 << 12;
pub(crate) const NT: u64 = 1 << 14;
pub(crate) const RF: u64 = 1 << 16;
pub(crate) const VM: u64 = 1 << 17;
pub(crate) const AC: u64 = 1 << 18;
pub(crate) const ID: u64 = 1 << 21;

/// What arithmetic sets.
pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// `bit` if `set`.
pub(crate) const fn when(bit: u64, set: bool) -> u64 {
    if set { bit } else { 0 }
}

/// ZF, SF and PF of a result of `width` bytes.
pub(crate) const fn of_result(result: u64, width: u8) -> u64 {
    let result = result & mask(width);
    when(ZF, result == 0)
        | when(SF, result & sign(width) != 0)
        | when(PF, (result as u8).count_ones().is_multiple_of(2))
}

/// All ones in an operand of `width` bytes.
pub(crate) const fn mask(width: u8) -> u64 {
    if width >= 8 { u64::MAX } else { (1 << (width * 8)) - 1 }
}

/// The uppermost bit of an operand of `width` bytes.
pub(crate) const fn sign(width: u8) -> u64 {
    1 << (width * 8 - 1)
}

/// An operand of `width` bytes, extended by its sign.
pub(crate) const fn signed(value: u64, width: u8) -> i64 {
    let unused = 64 - width as u32 * 8;
    ((value << unused) as i64) >> unused
}
