//! The dirty log as it is cheapest (Linux: Documentation/virt/kvm/api.rst, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2): all pages are in it at
//! its begin, so that none is write-protected then, and who has read it says of which pages a new one begins.

use anyhow::{Context, Result, ensure};
use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// `_IOWR(KVMIO, 0xc0, struct kvm_clear_dirty_log)`.
const KVM_CLEAR_DIRTY_LOG: libc::Ioctl = 0xc018_aec0_u32 as libc::Ioctl;
const _: () = assert!(size_of::<kvm_clear_dirty_log>() == 0x18);
/// Pages of a word of the log, and what a range begins with and ends with.
const WORD: u64 = 64;

/// Logs are of this kind.
pub(crate) fn enable(vm: &VmFd) -> Result<()> {
    let flags = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    let capability = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        args: [flags.into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&capability).context("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2")
}

/// Begins a new log of those of the pages that are in this one, which is of all of slot 0.
pub(crate) fn clear(vm: &VmFd, log: &mut [u64], pages: &Range<u64>) -> Result<()> {
    let (first, end) = (pages.start / WORD, pages.end.div_ceil(WORD));
    let words = log.get_mut(first as usize..end as usize).context("pages beyond the log")?;
    let request = kvm_clear_dirty_log {
        slot: 0,
        num_pages: (words.len() as u64 * WORD) as u32,
        first_page: first * WORD,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: words.as_mut_ptr().cast() },
    };
    // SAFETY: the structure is what the call takes, and the bits of so many pages are there.
    let done = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_CLEAR_DIRTY_LOG, &raw const request) };
    ensure!(done == 0, "KVM_CLEAR_DIRTY_LOG: {}", std::io::Error::last_os_error());
    Ok(())
}
