//! Hypercalls: VMCALL with the number in RAX, arguments in RBX, RCX, RDX, result in RAX. A guest asks
//! CPUID first: leaf [`CPUID_LEAF`] returns [`SIGNATURE`] in EBX, ECX, EDX. [`MARK_INIT`] works at any
//! privilege level; the others only at CPL 0, as in KVM, and return [`DENIED`] elsewhere.

/// CPUID leaf of Herald's signature, above KVM's block at 0x4000_0000.
pub const CPUID_LEAF: u32 = 0x4000_0100;
/// EBX, ECX, EDX of that leaf.
pub const SIGNATURE: [u8; 12] = *b"HeraldHerald";

/// RAX of the call that marks the start of /init. No arguments; RAX returns 0.
pub const MARK_INIT: u64 = 0x4845_0001;
/// madvise(DONTNEED) on guest-physical RBX..RBX+RCX (bytes, page-aligned, inside RAM). RAX returns 0,
/// or [`INVALID`].
pub const DISCARD: u64 = 0x4845_0002;
/// mprotect(NONE) and back on guest-physical RBX..RBX+RCX. RAX as for [`DISCARD`].
pub const PROTECT: u64 = 0x4845_0003;
/// RAX: the range is not page-aligned, or not inside RAM.
pub const INVALID: u64 = u64::MAX - 1;
/// RAX: the caller's privilege level is too low.
pub const DENIED: u64 = u64::MAX - 2;
/// RAX of any call returns this where the number is not known.
pub const UNKNOWN: u64 = u64::MAX;
