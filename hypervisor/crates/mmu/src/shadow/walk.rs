//! The guest's page tables, walked as its processor would (SDM vol. 3A 4.3 to 4.7): every mode, every right, every reason for
//! a page fault.
//!
//! ```text
//!   linear ─► entry ─► entry ─► ... ─► leaf ─► rights of all levels together ─► A in all, D in the leaf ─► Translation
//!               │ P clear: fault          │ not allowed: fault with P
//!               └ a reserved bit: fault with P and RSVD
//! ```
//!
//! A and D are set once the access is known to be allowed, by compare-exchange of the very entries that were read: where the
//! guest has changed one meanwhile, the walk begins anew.

use addr::{Gfn, Gpa, PAGE_SHIFT};

/// Registers that decide how a guest translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestPaging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// What PAE paging has loaded from where CR3 points (SDM vol. 3A 4.4.1).
    pub pdptes: [u64; 4],
    /// Bits of a physical address, as CPUID tells the guest.
    pub physical_bits: u8,
    /// Whether CPUID tells the guest of 1 GiB pages.
    pub gigantic_pages: bool,
}

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

impl GuestPaging {
    const fn has_cr4(&self, bit: u64) -> bool {
        self.cr4 & bit != 0
    }

    pub(super) const fn protects_supervisor(&self) -> bool {
        self.cr0 & CR0_WP != 0
    }

    /// Whether XD means anything (SDM vol. 3A 4.1.1): with 32-bit entries there is none.
    pub(super) const fn has_no_execute(&self) -> bool {
        self.has_cr4(CR4_PAE) && self.efer & EFER_NXE != 0
    }

    /// Whether linear addresses are physical ones.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.cr0 & CR0_PG == 0
    }

    /// Whether linear addresses have 48 bits.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        !self.is_off() && self.efer & EFER_LMA != 0
    }

    /// Whose translations are used.
    pub(super) const fn pcid(&self) -> u16 {
        if self.has_cr4(CR4_PCIDE) { (self.cr3 & 0xfff) as u16 } else { 0 }
    }

    /// Whether entries have 32 bits, if there is paging.
    pub(super) const fn is_legacy_32(&self) -> bool {
        !self.has_cr4(CR4_PAE)
    }

    pub(super) const fn has_large_pages(&self) -> bool {
        self.has_cr4(CR4_PSE)
    }

    pub(super) const fn has_smep(&self) -> bool {
        self.has_cr4(CR4_SMEP)
    }
}

/// An access that the guest has made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinearAccess {
    /// A store.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// With the rights of CPL 3.
    pub user: bool,
    /// SMAP does not stand in its way: RFLAGS.AC is set, and it is no implicit one.
    pub passes_smap: bool,
}

/// The error code of a page fault (SDM vol. 3A figure 4-12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The error code.
    pub code: u32,
}

impl PageFault {
    /// The entries were there.
    pub const PRESENT: u32 = 1 << 0;
    /// A store.
    pub const WRITE: u32 = 1 << 1;
    /// With the rights of CPL 3.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch.
    pub const FETCH: u32 = 1 << 4;

    const fn new(paging: &GuestPaging, access: LinearAccess, why: u32) -> Self {
        // Fetches are told apart only where something could forbid them (SDM vol. 3A 4.7).
        let tells_fetches = paging.has_no_execute() || paging.has_smep();
        let mut code = why;
        if access.write {
            code |= Self::WRITE;
        }
        if access.user {
            code |= Self::USER;
        }
        if access.fetch && tells_fetches {
            code |= Self::FETCH;
        }
        Self { code }
    }
}

/// Where an access goes, and what else may go there without another walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// log2 of the bytes of the guest's page.
    pub shift: u32,
    /// Stores.
    pub write: bool,
    /// Accesses with the rights of CPL 3.
    pub user: bool,
    /// Fetches.
    pub execute: bool,
}

/// How wide an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// Of 32-bit paging.
    Bits32,
    /// Of all others.
    Bits64,
}

impl Width {
    const fn bytes(self) -> u64 {
        match self {
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }
}

/// The memory that holds a guest's tables.
pub trait GuestTables {
    /// Why it cannot be reached now.
    type Error;

    /// Reads an aligned entry. Where there is no memory it reads all ones, as of a bus that nobody answers.
    ///
    /// # Errors
    /// Whatever keeps the host from telling.
    fn load(&self, at: Gpa, width: Width) -> Result<u64, Self::Error>;

    /// Writes `new` where the entry still is `old`; whether it was.
    ///
    /// # Errors
    /// Whatever keeps the host from doing so.
    fn exchange(&self, at: Gpa, width: Width, old: u64, new: u64) -> Result<bool, Self::Error>;
}

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkEnd<E> {
    /// The guest's tables do not allow the access.
    Fault(PageFault),
    /// The host could not tell.
    Failed(E),
}

impl<E> From<E> for WalkEnd<E> {
    fn from(error: E) -> Self {
        Self::Failed(error)
    }
}

const PRESENT: u64 = 1 << 0;
pub(super) const WRITABLE: u64 = 1 << 1;
pub(super) const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
pub(super) const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Bits of a linear address outside long mode.
const LEGACY: u64 = 0xffff_ffff;

/// A level: which bits of the linear address index its tables.
#[derive(Clone, Copy)]
struct Step {
    shift: u32,
    bits: u32,
}

const FOUR_LEVELS: [Step; 4] = [
    Step { shift: 39, bits: 9 },
    Step { shift: 30, bits: 9 },
    Step { shift: 21, bits: 9 },
    Step { shift: 12, bits: 9 },
];
const TWO_LEVELS: [Step; 2] = [Step { shift: 22, bits: 10 }, Step { shift: 12, bits: 10 }];

/// An entry that was used, with A and D as they are by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) at: Gpa,
    pub(super) entry: u64,
}

/// What all levels together say.
pub(super) struct Path {
    /// From the root on.
    pub(super) used: [Option<Used>; 4],
    leaf: u64,
    shift: u32,
    /// All entries allow stores.
    pub(super) write: bool,
    user: bool,
    execute: bool,
}

impl Path {
    /// Without an entry.
    const NONE: Self =
        Self { used: [None; 4], leaf: 0, shift: PAGE_SHIFT, write: true, user: true, execute: true };
}

/// Translates an access as the guest's processor would.
///
/// # Errors
/// [`WalkEnd`].
pub fn walk<T: GuestTables>(
    tables: &T,
    paging: &GuestPaging,
    linear: u64,
    access: LinearAccess,
) -> Result<Translation, WalkEnd<T::Error>> {
    trace(tables, paging, linear, access).map(|(found, _)| found)
}

/// The same, with the entries that it has used.
pub(super) fn trace<T: GuestTables>(
    tables: &T,
    paging: &GuestPaging,
    linear: u64,
    access: LinearAccess,
) -> Result<(Translation, Path), WalkEnd<T::Error>> {
    if paging.is_off() {
        let found = Translation {
            gpa: Gpa::new(linear & LEGACY),
            shift: PAGE_SHIFT,
            write: true,
            user: true,
            execute: true,
        };
        return Ok((found, Path::NONE));
    }
    let linear = if paging.is_long() { linear } else { linear & LEGACY };
    loop {
        let mut path = descend(tables, paging, linear, access)?;
        let rights = allow(paging, access, &path).map_err(WalkEnd::Fault)?;
        let Some(dirty) = note_use(tables, paging, access, &mut path)? else { continue };
        let offset = linear & ((1 << path.shift) - 1);
        // Until D is set, a store has to be seen.
        let write = rights.write && dirty;
        return Ok((Translation { gpa: gpa_of(path.leaf | offset), write, ..rights }, path));
    }
}

/// Masked values only: at most 52 bits.
pub(super) const fn gpa_of(bits: u64) -> Gpa {
    Gpa::new(bits & (FRAME | ((1 << PAGE_SHIFT) - 1)))
}

/// From the root down to the leaf.
fn descend<T: GuestTables>(
    tables: &T,
    paging: &GuestPaging,
    linear: u64,
    access: LinearAccess,
) -> Result<Path, WalkEnd<T::Error>> {
    let fault = |why| WalkEnd::Fault(PageFault::new(paging, access, why));
    let (mut table, steps, width) = if paging.is_legacy_32() {
        (paging.cr3 & LEGACY & FRAME, &TWO_LEVELS[..], Width::Bits32)
    } else if paging.is_long() {
        (paging.cr3 & FRAME, &FOUR_LEVELS[..], Width::Bits64)
    } else {
        // The pointers are registers, checked when they were loaded; they have no rights, and no A.
        let pointer = paging.pdptes[(linear >> 30 & 3) as usize];
        if pointer & PRESENT == 0 {
            return Err(fault(0));
        }
        (pointer & FRAME, &FOUR_LEVELS[2..], Width::Bits64)
    };
    let mut path = Path::NONE;
    for (step, used) in steps.iter().zip(&mut path.used) {
        let index = linear >> step.shift & ((1 << step.bits) - 1);
        let at = gpa_of(table + index * width.bytes());
        let entry = tables.load(at, width)?;
        if entry & PRESENT == 0 {
            return Err(fault(0));
        }
        let is_leaf = step.shift == PAGE_SHIFT || entry & LARGE != 0 && may_be_large(paging, *step);
        if entry & reserved(paging, *step, is_leaf) != 0 {
            return Err(fault(PageFault::PRESENT | PageFault::RESERVED));
        }
        *used = Some(Used { at, entry });
        path.write &= entry & WRITABLE != 0;
        path.user &= entry & USER != 0;
        path.execute &= entry & NO_EXECUTE == 0 || !paging.has_no_execute();
        table = entry & FRAME;
        if is_leaf {
            path.shift = step.shift;
            path.leaf = frame_of(paging, *step, entry);
            break;
        }
    }
    Ok(path)
}

/// The guest frame that an entry of a page table maps, if a walk would neither fault nor set A.
pub(super) fn used_page(paging: &GuestPaging, entry: u64) -> Option<Gfn> {
    let step = Step { shift: PAGE_SHIFT, bits: 9 };
    let used = PRESENT | ACCESSED;
    let is_used = entry & used == used && entry & reserved(paging, step, true) == 0;
    is_used.then(|| gpa_of(frame_of(paging, step, entry)).gfn())
}

const fn may_be_large(paging: &GuestPaging, step: Step) -> bool {
    match step.shift {
        21 => true,
        22 => paging.has_large_pages(),
        30 => paging.gigantic_pages,
        _ => false,
    }
}

/// The frame of a leaf.
const fn frame_of(paging: &GuestPaging, step: Step, entry: u64) -> u64 {
    if paging.is_legacy_32() && step.shift == 22 {
        // PSE-36: bits 20:13 are bits 39:32 of the address (SDM vol. 3A table 4-4).
        return (entry & 0xffc0_0000) | (entry >> 13 & 0xff) << 32;
    }
    entry & FRAME & !((1 << step.shift) - 1)
}

/// Bits from `low` up to and without `high`.
const fn bits(low: u32, high: u32) -> u64 {
    if low >= high { 0 } else { u64::MAX >> (64 - (high - low)) << low }
}

/// Bits that have to be 0 (SDM vol. 3A tables 4-4 to 4-20).
const fn reserved(paging: &GuestPaging, step: Step, is_leaf: bool) -> u64 {
    let width = paging.physical_bits as u32;
    if paging.is_legacy_32() {
        // Of a 4 MiB page bit 21, and the bits of an address that the processor does not have.
        let above = width.saturating_sub(32);
        let used = if above < 8 { above } else { 8 };
        return if is_leaf && step.shift == 22 { bits(13 + used, 22) } else { 0 };
    }
    let no_execute = if paging.has_no_execute() { 0 } else { NO_EXECUTE };
    // In long mode bits 62:52 are ignored, with PAE they are not.
    let top = if paging.is_long() { 52 } else { 63 };
    let shape = match (step.shift, is_leaf) {
        // PS of an entry that cannot map a page.
        (39 | 30, false) => LARGE,
        (30 | 21, true) => bits(13, step.shift),
        _ => 0,
    };
    bits(width, top) | no_execute | shape
}

/// What the leaf may be used for without another walk, if the access is allowed (SDM vol. 3A 4.6.1).
fn allow(paging: &GuestPaging, access: LinearAccess, path: &Path) -> Result<Translation, PageFault> {
    let smep = paging.has_smep() && path.user;
    let smap = paging.has_cr4(CR4_SMAP) && path.user && !access.passes_smap;
    let allowed = match (access.user, access.fetch) {
        (true, true) => path.user && path.execute,
        (true, false) => path.user && (path.write || !access.write),
        (false, true) => path.execute && !smep,
        (false, false) => !smap && (!access.write || path.write || !paging.protects_supervisor()),
    };
    if !allowed {
        return Err(PageFault::new(paging, access, PageFault::PRESENT));
    }
    let Path { shift, write, user, execute, .. } = *path;
    let found = Translation { gpa: Gpa::ZERO, shift, write, user, execute };
    if access.write && !write {
        // CR0.WP is clear, and a processor with a shadow has it set: a page that only the supervisor reaches, until CPL 3
        // wants it. What it was kept from fetching while the page was a user's it still is.
        return Ok(Translation { write: true, user: false, execute: execute && !smep, ..found });
    }
    Ok(found)
}

/// Sets A in all entries, and D in the leaf for a store; whether D is set then. `None`: an entry has changed.
fn note_use<T: GuestTables>(
    tables: &T,
    paging: &GuestPaging,
    access: LinearAccess,
    path: &mut Path,
) -> Result<Option<bool>, T::Error> {
    let width = if paging.is_legacy_32() { Width::Bits32 } else { Width::Bits64 };
    let count = path.used.iter().flatten().count();
    let mut dirty = false;
    for (number, Used { at, entry }) in path.used.iter_mut().flatten().enumerate() {
        let is_leaf = number + 1 == count;
        let wanted = *entry | ACCESSED | if is_leaf && access.write { DIRTY } else { 0 };
        if wanted != *entry && !tables.exchange(*at, width, *entry, wanted)? {
            return Ok(None);
        }
        *entry = wanted;
        dirty = is_leaf && wanted & DIRTY != 0;
    }
    Ok(Some(dirty))
}
