//! What a processor has to do about an access: the SDM's rules (vol. 3A 4.3 to 4.7), as short as they can be said, and
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
    /// Pages of 4 MiB may lie above 4 GiB (PSE-36).
    pub(super) wide_pages: bool,
    pub(super) no_execute: bool,
    pub(super) smep: bool,
    pub(super) smap: bool,
}

impl Features {
    /// Of an entry for 4 MiB: the first bit that is no part of an address, up to bit 21 (table 4-4).
    pub(super) fn first_reserved_of_4_mib(&self) -> u32 {
        13 + if self.wide_pages { self.physical_bits.saturating_sub(32).min(8) } else { 0 }
    }
}

/// How the processor translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Long,
    /// Four pointers, which MOV to CR3 loads, and two levels of 64-bit entries.
    Pae,
    /// Entries of 32 bits; with CR4.PSE they may map 4 MiB.
    Narrow {
        large: bool,
    },
    /// No paging.
    Off,
}

impl Mode {
    pub(super) const ALL: [Self; 5] =
        [Self::Long, Self::Pae, Self::Narrow { large: true }, Self::Narrow { large: false }, Self::Off];

    /// The entry of a walk's step: from which bit on the address finds it.
    pub(super) const fn shifts(self) -> &'static [u32] {
        match self {
            Self::Long => &[39, 30, 21, 12],
            Self::Pae => &[30, 21, 12],
            Self::Narrow { .. } => &[22, 12],
            Self::Off => &[],
        }
    }

    /// The least entries on a way: those to the largest page.
    pub(super) const fn least_entries(self) -> usize {
        match self {
            Self::Long | Self::Pae | Self::Narrow { large: false } => 2,
            Self::Narrow { large: true } => 1,
            Self::Off => 0,
        }
    }

    /// How many of them are pointers, without rights and A.
    pub(super) const fn pointers(self) -> usize {
        matches!(self, Self::Pae) as usize
    }

    pub(super) const fn is_pointer(self, shift: u32) -> bool {
        matches!(self, Self::Pae) && shift == 30
    }

    pub(super) const fn is_narrow(self) -> bool {
        matches!(self, Self::Narrow { .. })
    }

    const fn may_be_large(self, features: &Features, shift: u32) -> bool {
        match (self, shift) {
            (Self::Long | Self::Pae, 21) => true,
            (Self::Long, 30) => features.gigantic_pages,
            (Self::Narrow { large }, 22) => large,
            _ => false,
        }
    }
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

const fn bits(low: u32, high: u32) -> u64 {
    if low >= high { 0 } else { u64::MAX >> (64 - (high - low)) << low }
}

/// Of one of PAE's pointers (table 4-8).
const RESERVED_IN_POINTER: u64 = 0b1_1110_0110;

/// Where it is said what has to be read how.
#[derive(Clone, Copy)]
struct Rules<'a> {
    features: &'a Features,
    mode: Mode,
    controls: Controls,
}

impl Rules<'_> {
    /// Tables 4-4 to 4-20: bits that have to be clear.
    fn reserved(&self, shift: u32, is_leaf: bool) -> u64 {
        let Features { physical_bits, .. } = *self.features;
        if self.mode.is_narrow() {
            let is_large = is_leaf && shift == 22;
            return if is_large { bits(self.features.first_reserved_of_4_mib(), 22) } else { 0 };
        }
        if self.mode.is_pointer(shift) {
            return bits(physical_bits, 64) | RESERVED_IN_POINTER;
        }
        let execute = if self.controls.no_execute { 0 } else { NO_EXECUTE };
        // Bits 62:52 are ignored in long mode only.
        let top = if self.mode == Mode::Long { 52 } else { 63 };
        let shape = match (shift, is_leaf) {
            (39, _) | (30, false) => LARGE,
            (30 | 21, true) => bits(13, shift),
            _ => 0,
        };
        bits(physical_bits, top) | execute | shape
    }

    fn has_no_execute(&self) -> bool {
        self.controls.no_execute && !self.mode.is_narrow()
    }

    /// Section 4.6.1.
    fn is_allowed(&self, attempt: Attempt, entries: &[u64]) -> bool {
        let Controls { protects_supervisor, smep, smap, .. } = self.controls;
        let all = |bit: u64| entries.iter().all(|entry| entry & bit != 0);
        let (writable, is_user_page) = (all(WRITABLE), all(USER));
        let executable = !self.has_no_execute() || entries.iter().all(|entry| entry & NO_EXECUTE == 0);
        if attempt.user {
            return is_user_page
                && match attempt.kind {
                    Kind::Read => true,
                    Kind::Write => writable,
                    Kind::Fetch => executable,
                };
        }
        let passes_smap = !is_user_page || !smap || attempt.aligned;
        match attempt.kind {
            Kind::Read => passes_smap,
            Kind::Write => passes_smap && (writable || !protects_supervisor),
            Kind::Fetch => executable && !(smep && is_user_page),
        }
    }

    /// Section 4.7.
    fn code(&self, attempt: Attempt) -> u64 {
        // I/D only where something could forbid fetches.
        let tells_fetches = self.has_no_execute() || self.controls.smep;
        let user = if attempt.user { CODE_USER } else { 0 };
        user | match attempt.kind {
            Kind::Write => CODE_WRITE,
            Kind::Fetch if tells_fetches => CODE_FETCH,
            Kind::Fetch | Kind::Read => 0,
        }
    }
}

/// What an access comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Done,
    /// A page fault with this code.
    Fault(u64),
    /// MOV to CR3 has found a pointer with a reserved bit (section 4.4.1): #GP, before there is an access.
    Refused,
}

/// What is to be seen.
pub(super) struct Expected {
    pub(super) end: End,
    /// How many entries the walk comes by, from the root on: those before the one that stops it.
    pub(super) entries: usize,
}

/// What the access comes to with these entries, the root's first.
pub(super) fn expect(
    features: &Features,
    (mode, controls): (Mode, Controls),
    attempt: Attempt,
    entries: &[u64],
) -> Expected {
    let rules = Rules { features, mode, controls };
    let code = rules.code(attempt);
    for (number, (&entry, &shift)) in entries.iter().zip(mode.shifts()).enumerate() {
        let stopped = |end| Expected { end, entries: number };
        if entry & PRESENT == 0 {
            return stopped(End::Fault(code));
        }
        let is_leaf = shift == 12 || mode.may_be_large(features, shift) && entry & LARGE != 0;
        if entry & rules.reserved(shift, is_leaf) != 0 {
            let is_pointer = mode.is_pointer(shift);
            let fault = End::Fault(code | CODE_PRESENT | CODE_RESERVED);
            return stopped(if is_pointer { End::Refused } else { fault });
        }
        if is_leaf {
            let is_allowed = rules.is_allowed(attempt, &entries[mode.pointers()..=number]);
            let end = if is_allowed { End::Done } else { End::Fault(code | CODE_PRESENT) };
            return Expected { end, entries: number + 1 };
        }
    }
    Expected { end: End::Done, entries: entries.len() }
}
