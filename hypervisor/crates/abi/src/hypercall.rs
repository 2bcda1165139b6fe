//! Hypercalls: VMCALL with the number in RAX, arguments in RBX, RCX, RDX, result in RAX. A guest asks
//! CPUID first: leaf [`CPUID_LEAF`] returns [`SIGNATURE`] in EBX, ECX, EDX. [`MARK_INIT`] works at any
//! privilege level; the others only at CPL 0, as in KVM, and return [`DENIED`] elsewhere.

/// CPUID leaf of Herald's signature, above KVM's block at 0x4000_0000.
pub const CPUID_LEAF: u32 = 0x4000_0100;
/// EBX, ECX, EDX of that leaf.
pub const SIGNATURE: [u8; 12] = *b"HeraldHerald";
/// The same where another hypervisor's monitor answers the calls, which takes no VMCALL: OUT of the number in EAX to
/// [`BY_PORT`] instead, all else as for VMCALL, and in RDX the ticks that the monitor has spent on its own books.
pub const BY_PORT_SIGNATURE: [u8; 12] = *b"HeraldByPort";
/// The port of that monitor.
pub const BY_PORT: u8 = 0xe8;

/// RAX of the call that marks the start of /init. No arguments; RAX returns 0.
pub const MARK_INIT: u64 = 0x4845_0001;
/// madvise(DONTNEED) on guest-physical RBX..RBX+RCX (bytes, page-aligned, inside RAM). RAX returns 0,
/// or [`INVALID`].
pub const DISCARD: u64 = 0x4845_0002;
/// mprotect(NONE) and back on guest-physical RBX..RBX+RCX. RAX as for [`DISCARD`].
pub const PROTECT: u64 = 0x4845_0003;
/// The [`HostOperation`] RDX on guest-physical RBX..RBX+RCX. RAX returns what the operation counts, or 0;
/// [`INVALID`], [`FAILED`]. [`UNKNOWN`] unless the configuration lets guests ask: it is for tests.
pub const HOST_OPERATION: u64 = 0x4845_0004;
/// Lets a storm of host operations discard guest-physical RBX..RBX+RCX at any time: the pages may read zero from now on.
/// RCX 0: gives nothing away. RAX returns how many operations the storm has done so far, or [`INVALID`]. For tests.
pub const STORM: u64 = 0x4845_0005;
/// Clones the guest: a copy of it goes on beside it, with memory of its own, copied on write. RAX returns 0 in the parent,
/// and the clone's number among all guests, which is not 0, in the clone; [`FAILED`] where there is none. No arguments.
pub const CLONE: u64 = 0x4845_0006;
/// Takes a snapshot of the guest, of this instant, which is written in the background. RAX returns 0 in the guest that goes on,
/// and 1 in one that is restored; [`FAILED`] where there is none, [`BUSY`] while the one before is being written. The first has all of
/// memory, each later one what was written since the one before. No arguments.
pub const SNAPSHOT: u64 = 0x4845_0007;
/// RAX: the range is not page-aligned, or not inside RAM.
pub const INVALID: u64 = u64::MAX - 1;
/// RAX: the caller's privilege level is too low.
pub const DENIED: u64 = u64::MAX - 2;
/// RAX: the host could not do it; nothing is lost.
pub const FAILED: u64 = u64::MAX - 3;
/// RAX: not now, but later.
pub const BUSY: u64 = u64::MAX - 4;
/// RAX of any call returns this where the number is not known.
pub const UNKNOWN: u64 = u64::MAX;

macro_rules! host_operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a test guest can ask the host to do with its memory.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u64)]
        pub enum HostOperation {
            $($(#[$doc])* $name = $number,)*
        }

        impl HostOperation {
            /// The operation of this number.
            #[must_use]
            pub const fn from_u64(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

host_operations! {
    /// munmap, and the same mapping again.
    Unmap = 1,
    /// Other frames for all pages that can move; counts them.
    Migrate = 2,
    /// Tests and clears "young"; counts the pages that were.
    Age = 3,
    /// Counts young pages, and leaves them so.
    CountYoung = 4,
    /// madvise(PAGEOUT); counts the frames that went.
    PageOut = 5,
    /// madvise(FREE).
    Free = 6,
    /// madvise(COLD).
    Cold = 7,
    /// madvise(HUGEPAGE).
    HugePages = 8,
    /// madvise(COLLAPSE); counts the huge pages made.
    Collapse = 9,
    /// fork of the whole address space; the copy stays.
    Fork = 10,
    /// The end of all copies.
    DropForks = 11,
    /// mremap to another place and back.
    Move = 12,
    /// apply_to_page_range, with a callback that write-protects.
    WriteProtect = 13,
    /// msync(SYNC).
    WriteBack = 14,
    /// remap_file_pages of each page to where it is.
    Rearrange = 15,
    /// mlock.
    Lock = 16,
    /// munlock.
    Unlock = 17,
    /// The dirty logs of all RAM begin.
    BeginLog = 18,
    /// The harvest of the range; counts the pages that were written since the last one.
    Harvest = 19,
    /// The end of the logs.
    EndLog = 20,
    /// madvise(MERGEABLE), and a pass over all that is to be merged; counts the pages that became others.
    Merge = 21,
    /// Counts pages that merging has made: one for several, or the zero page.
    CountMerged = 22,
    /// mprotect(READ).
    ReadOnly = 23,
    /// mprotect(READ or WRITE).
    Writable = 24,
    /// A pass of aging over all address spaces.
    AgeAll = 25,
    /// Nothing: what a call costs.
    Nothing = 26,
    /// The caller's exits so far.
    Exits = 27,
    /// The flushes of its translations so far, on its CPU.
    Flushes = 28,
}
