//! Devices that reach memory by hva through a TLB of their own: what a driver would notice.

use crate::{CPU0, CPU1, DEVICE, GUEST, HUGE, Outcome, fill, lab};
use addr::Hva;
use mm::{Access, FaultError, Protection};
use mmu::{DeviceStatsSnapshot, DeviceTlbError};
use tests::Violation;
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::Options;

fn stats(lab: &Lab) -> DeviceStatsSnapshot {
    lab.device(DEVICE).tlb.stats().snapshot()
}

/// Whether the device has a translation of this page.
fn cached(lab: &Lab, page: Hva) -> bool {
    lab.device(DEVICE).tlb.entries().iter().any(|entry| entry.page == page)
}

/// A bench whose guest has written its pages, and whose device has read them.
pub(crate) fn warm(count: u64) -> Result<Lab, Violation> {
    let lab = lab(count);
    fill(&lab, count, 70)?;
    for index in 0..count {
        assert_eq!(lab.device_load(DEVICE, page(index))?, Verdict::Value(70 + index));
        assert!(cached(&lab, page(index)));
    }
    Ok(lab)
}

#[test]
fn the_second_access_walks_no_table() -> Outcome {
    let lab = warm(2)?;
    let before = stats(&lab);
    lab.device_load(DEVICE, page(0))?;
    lab.device_store(DEVICE, page(1).add(8), 1)?;
    let after = stats(&lab);
    assert_eq!((after.hits, after.installed), (before.hits + 2, before.installed));
    lab.finish()
}

#[test]
fn a_device_faults_memory_in_that_nobody_has_touched() -> Outcome {
    let lab = lab(2);
    assert_eq!(lab.device_load(DEVICE, page(0))?, Verdict::Value(0));
    assert_eq!(lab.device_store(DEVICE, page(1), 5)?, Verdict::Done);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(5));
    lab.finish()
}

#[test]
fn an_unmapped_page_is_gone_from_the_device() -> Outcome {
    let lab = warm(4)?;
    lab.munmap(pages(1, 2))?;
    assert_eq!([0, 1, 2, 3].map(|index| cached(&lab, page(index))), [true, false, false, true]);
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Unmapped);
    assert_eq!(lab.device_store(DEVICE, page(2), 1)?, Verdict::Unmapped);
    assert_eq!(lab.device_load(DEVICE, page(3))?, Verdict::Value(73));
    lab.finish()
}

#[test]
fn a_page_without_rights_is_gone_from_the_device() -> Outcome {
    let lab = warm(2)?;
    lab.mprotect(pages(1, 1), Protection::None)?;
    assert!(!cached(&lab, page(1)));
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Denied);
    lab.mprotect(pages(1, 1), Protection::ReadWrite)?;
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Value(71));
    lab.finish()
}

#[test]
fn a_discarded_page_reads_zero_to_the_device() -> Outcome {
    let lab = warm(2)?;
    lab.discard(pages(0, 2))?;
    assert!(!cached(&lab, page(0)) && !cached(&lab, page(1)));
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn an_invalidation_longer_than_the_tlb_drops_everything() -> Outcome {
    let lab = warm(200)?;
    lab.discard(pages(0, 200))?;
    assert_eq!(lab.device(DEVICE).tlb.entries(), []);
    assert!(stats(&lab).zapped > 0);
    lab.finish()
}

#[test]
fn guest_and_device_see_each_others_stores_across_migrations() -> Outcome {
    let lab = warm(2)?;
    lab.device_store(DEVICE, page(1), 5)?;
    lab.migrate(page(1))?;
    assert!(!cached(&lab, page(1)));
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(5));
    lab.guest_store(GUEST, CPU1, gpage(1), 6)?;
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Value(6));
    lab.migrate(page(1))?;
    lab.device_store(DEVICE, page(1), 7)?;
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(1))?, Verdict::Value(7));
    assert_eq!(lab.load(CPU0, page(1))?, Verdict::Value(7));
    lab.finish()
}

#[test]
fn two_devices_follow_one_address_space() -> Outcome {
    let mut lab = warm(2)?;
    let other = lab.add_device();
    lab.device_store(other, page(0), 8)?;
    assert_eq!(lab.device_load(DEVICE, page(0))?, Verdict::Value(8));
    lab.migrate(page(0))?;
    assert_eq!(lab.device_load(other, page(0))?, Verdict::Value(8));
    assert_eq!(lab.device_load(DEVICE, page(0))?, Verdict::Value(8));
    lab.finish()
}

#[test]
fn a_read_only_area_refuses_a_devices_store_by_address() -> Outcome {
    let lab = warm(2)?;
    lab.mprotect(pages(1, 1), Protection::Read)?;
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Value(71));
    assert_eq!(lab.device_store(DEVICE, page(1), 1)?, Verdict::Denied);
    // The first page takes its part, then the second is named.
    let error = lab.device(DEVICE).tlb.write(page(1).align_down(HUGE).add(4092), &[0xff; 8]);
    let (address, access) = (page(1), Access::Write);
    let fault = FaultError::Denied { address, access, protection: Protection::Read };
    assert_eq!(error, Err(DeviceTlbError::Host { address, access, fault }));
    assert!(error.is_err_and(|error| error.to_string().contains("hva:0x2000001000")));
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Value(71));
    lab.finish()
}

#[test]
fn accesses_across_pages_are_split() -> Outcome {
    let lab = lab(4);
    let bytes: Vec<u8> = (0..9000).map(|index| (index % 251) as u8).collect();
    let tlb = &lab.device(DEVICE).tlb;
    assert_eq!(tlb.write(page(0).add(1001), &bytes), Ok(()));
    let mut back = vec![0; bytes.len()];
    assert_eq!(tlb.read(page(0).add(1001), &mut back), Ok(()));
    assert!(bytes == back);
    assert_eq!(stats(&lab).installed, 3);
    let mut around = [0xee; 2];
    assert_eq!(tlb.read(page(0).add(1000), &mut around), Ok(()));
    assert_eq!(around, [0, 0], "a neighbour was overwritten");
    assert_eq!(tlb.read(page(9), &mut []), Ok(()), "no byte, no fault");
    lab.check()?;
    lab.finish()
}

#[test]
fn an_access_that_leaves_the_address_space_is_refused() -> Outcome {
    let lab = lab(1);
    let address = Hva::new(0x7fff_ffff_fffc);
    let error = lab.device(DEVICE).tlb.read(address, &mut [0; 8]);
    assert_eq!(error, Err(DeviceTlbError::OutOfRange { address, len: 8 }));
    assert_eq!(lab.device_load(DEVICE, Hva::new(0x7fff_ffff_eff8))?, Verdict::Unmapped);
    lab.finish()
}

#[test]
fn a_page_is_young_when_only_the_device_has_used_it() -> Outcome {
    let lab = warm(2)?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    assert_eq!(lab.age(page(0))?, Verdict::Young(false));
    lab.device_load(DEVICE, page(0))?;
    assert!(stats(&lab).hits > 0, "the entry survives aging");
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    lab.device_store(DEVICE, page(0), 1)?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    assert_eq!(lab.age(page(0))?, Verdict::Young(false));
    lab.finish()
}

#[test]
fn a_huge_page_is_young_when_the_device_has_used_any_part_of_it() -> Outcome {
    let lab = Lab::with_ram(Options::default(), 512);
    lab.mmap(pages(0, 512), Protection::ReadWrite, HUGE)?;
    lab.device_store(DEVICE, page(300), 3)?;
    lab.age(page(0))?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(false));
    lab.device_load(DEVICE, page(300))?;
    assert_eq!(lab.age(page(5))?, Verdict::Young(true));
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(300))?, Verdict::Value(3));
    lab.discard(pages(0, 512))?;
    assert_eq!(lab.device_load(DEVICE, page(300))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn a_working_set_larger_than_the_tlb_stays_right() -> Outcome {
    let lab = lab(300);
    for round in 1..3 {
        for index in 0..300 {
            lab.device_store(DEVICE, page(index), round * 1000 + index)?;
        }
    }
    for index in 0..300 {
        assert_eq!(lab.guest_load(GUEST, CPU0, gpage(index))?, Verdict::Value(2000 + index));
    }
    let entries = lab.device(DEVICE).tlb.entries();
    assert!(entries.len() < 300, "{}", entries.len());
    lab.finish()
}

/// Which entry makes room: not one that was used, while its neighbours were not.
#[test]
fn what_was_not_used_lately_makes_room_first() -> Outcome {
    let lab = warm(64)?;
    for index in 0..64 {
        lab.age(page(index))?;
    }
    lab.device_load(DEVICE, page(0))?;
    lab.mmap(pages(64, 48), Protection::ReadWrite, crate::SMALL)?;
    for index in 64..112 {
        lab.device_load(DEVICE, page(index))?;
    }
    assert!(cached(&lab, page(0)));
    lab.finish()
}

#[test]
fn a_device_loses_everything_when_its_host_exits() -> Outcome {
    let lab = warm(4)?;
    lab.exit_space()?;
    assert_eq!(lab.device(DEVICE).tlb.entries(), []);
    assert_eq!(lab.device_load(DEVICE, page(1))?, Verdict::Released);
    assert_eq!(lab.device_store(DEVICE, page(1), 1)?, Verdict::Released);
    lab.finish()
}
