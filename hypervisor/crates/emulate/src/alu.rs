//! Two-operand arithmetic with its flags (SDM vol. 1 3.4.3.1).

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// What is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Add,
    Sub,
    And,
    Or,
    Xor,
}

/// All ones in an operand of `width` bytes.
pub(crate) const fn mask(width: u8) -> u64 {
    if width >= 8 { u64::MAX } else { (1 << (width * 8)) - 1 }
}

/// `left op right` on `width` bytes: the result, and RFLAGS with the status flags replaced.
pub(crate) const fn compute(op: Op, left: u64, right: u64, width: u8, rflags: u64) -> (u64, u64) {
    let all = mask(width);
    let sign = 1 << (width * 8 - 1);
    let (left, right) = (left & all, right & all);
    let result = match op {
        Op::Add => left.wrapping_add(right),
        Op::Sub => left.wrapping_sub(right),
        Op::And => left & right,
        Op::Or => left | right,
        Op::Xor => left ^ right,
    } & all;
    let (carry, overflow, adjust) = match op {
        Op::Add => (result < left, (left ^ result) & (right ^ result) & sign != 0, left ^ right ^ result),
        Op::Sub => (left < right, (left ^ right) & (left ^ result) & sign != 0, left ^ right ^ result),
        Op::And | Op::Or | Op::Xor => (false, false, 0),
    };
    let mut flags = rflags & !(CF | PF | AF | ZF | SF | OF);
    flags |= adjust & AF;
    flags |= if carry { CF } else { 0 };
    flags |= if overflow { OF } else { 0 };
    flags |= if result == 0 { ZF } else { 0 };
    flags |= if result & sign != 0 { SF } else { 0 };
    flags |= if (result as u8).count_ones().is_multiple_of(2) { PF } else { 0 };
    (result, flags)
}
