//! What goes between the bench and its puppets: system calls, and what they answer.
//!
//! ```text
//!   request   count, then for each call its number and six arguments
//!   answers   one for each call: what it returned, or the negated errno
//! ```
//!
//! All are 64-bit numbers of this machine. A call that ends the puppet has no answer.

use std::io::Read;

/// Numbers of a call on the wire.
const NUMBERS: usize = 7;

/// One system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Which.
    pub number: u64,
    /// Its arguments, as the kernel takes them. Those of fork are the bench's: the number of the socket that the child
    /// obeys.
    pub args: [u64; 6],
}

impl Call {
    /// A call.
    #[must_use]
    pub const fn new(number: libc::c_long, args: [u64; 6]) -> Self {
        Self { number: number as u64, args }
    }
}

/// A request in bytes.
#[must_use]
pub fn request(calls: &[Call]) -> Vec<u8> {
    let numbers = calls.iter().flat_map(|call| std::iter::once(call.number).chain(call.args));
    std::iter::once(calls.len() as u64).chain(numbers).flat_map(u64::to_ne_bytes).collect()
}

/// Reads one call of a request.
///
/// # Errors
/// The other end is gone.
pub fn read_call(from: &mut impl Read) -> std::io::Result<Call> {
    let mut numbers = [0; NUMBERS];
    for number in &mut numbers {
        *number = read_number(from)?;
    }
    let [number, args @ ..] = numbers;
    Ok(Call { number, args })
}

/// Reads a number.
///
/// # Errors
/// The other end is gone.
pub fn read_number(from: &mut impl Read) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
