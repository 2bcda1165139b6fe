//! What a processor has to do about an access: the SDM's rules (vol. 3A 4.5 to 4.7), as short as they can be said, and
//! nothing of Herald's.

/// Of an entry: what decides over an access, and what a walk leaves behind.
pub(super) const PRESENT: u64 = 1 << 0;
pub(super) const WRITABLE: u64 = 1 << 1;
pub(super) const USER: u64 = 1 << 2;
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
pub(super) const LARGE: u64 = 1 << 7;
pub(super) const NO_EXECUTE: u64 = 1 << 63;

/// Of a page fault's error code.
const CODE_PRESENT: u64 = 1 << 0;
const CODE_WRITE: u64 = 1 << 1;
const CODE_USER: u64 = 1 << 2;
const CODE_RESERVED: u64 = 1 << 3;
const CODE_FETCH: u64 = 1 << 4;

/// What the processor has.
#[derive(Clone, Copy)]
pub(super) struct Features {
    pub(super) physical_bits: u32,
    pub(super) gigantic_pages: bool,
    pub(super) no_execute: bool,
    pub(super) smep: bool,
    pub(super) smap: bool,
}

/// What its registers say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Controls {
    pub(super) protects_supervisor: bool,
    pub(super) no_execute: bool,
    pub(super) smep: bool,
    pub(super) smap: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    Fetch,
}

/// An access; `aligned`: with EFLAGS.AC, which lets the supervisor through SMAP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) kind: Kind,
    pub(super) user: bool,
    pub(super) aligned: bool,
}

/// The entry of a walk's step: which bits of the address it is found by.
pub(super) const SHIFTS: [u32; 4] = [39, 30, 21, 12];

const fn bits(low: u32, high: u32) -> u64 {
    if low >= high { 0 } else { u64::MAX >> (64 - (high - low)) << low }
}

/// Tables 4-15 to 4-20: bits that have to be clear.
fn reserved(features: &Features, controls: Controls, shift: u32, is_leaf: bool) -> u64 {
    let execute = if controls.no_execute { 0 } else { NO_EXECUTE };
    let shape = match (shift, is_leaf) {
        (39, _) | (30, false) => LARGE,
        (30 | 21, true) => bits(13, shift),
        _ => 0,
    };
    bits(features.physical_bits, 52) | execute | shape
}

/// Section 4.6.1.
fn is_allowed(controls: Controls, attempt: Attempt, entries: &[u64]) -> bool {
    let all = |bit: u64| entries.iter().all(|entry| entry & bit != 0);
    let (writable, is_user_page) = (all(WRITABLE), all(USER));
    let executable = !controls.no_execute || entries.iter().all(|entry| entry & NO_EXECUTE == 0);
    if attempt.user {
        return is_user_page
            && match attempt.kind {
                Kind::Read => true,
                Kind::Write => writable,
                Kind::Fetch => executable,
            };
    }
    let passes_smap = !is_user_page || !controls.smap || attempt.aligned;
    match attempt.kind {
        Kind::Read => passes_smap,
        Kind::Write => passes_smap && (writable || !controls.protects_supervisor),
        Kind::Fetch => executable && !(controls.smep && is_user_page),
    }
}

/// What is to be seen.
pub(super) struct Expected {
    /// The error code, if it faults.
    pub(super) fault: Option<u64>,
    /// How many entries the walk comes by, from the root on: those before the one that stops it.
    pub(super) entries: usize,
}

/// What the access comes to with these entries, the root's first.
pub(super) fn expect(features: &Features, controls: Controls, attempt: Attempt, entries: &[u64]) -> Expected {
    // Section 4.7: I/D only where something could forbid fetches.
    let tells_fetches = controls.no_execute || controls.smep;
    let mut code = if attempt.user { CODE_USER } else { 0 };
    match attempt.kind {
        Kind::Write => code |= CODE_WRITE,
        Kind::Fetch if tells_fetches => code |= CODE_FETCH,
        Kind::Fetch | Kind::Read => {}
    }
    for (number, (entry, shift)) in entries.iter().zip(SHIFTS).enumerate() {
        let stopped = |why| Expected { fault: Some(code | why), entries: number };
        if entry & PRESENT == 0 {
            return stopped(0);
        }
        let may_be_large = shift == 21 || shift == 30 && features.gigantic_pages;
        let is_leaf = shift == 12 || may_be_large && entry & LARGE != 0;
        if entry & reserved(features, controls, shift, is_leaf) != 0 {
            return stopped(CODE_PRESENT | CODE_RESERVED);
        }
        if is_leaf {
            let entries = &entries[..=number];
            let fault = (!is_allowed(controls, attempt, entries)).then_some(code | CODE_PRESENT);
            return Expected { fault, entries: entries.len() };
        }
    }
    Expected { fault: None, entries: entries.len() }
}
