//! A device TLB that is not told: what the oracle and the machine find then. So the scenarios beside it test something.

use crate::device_tlb::warm;
use crate::{DEVICE, Outcome};
use mm::Protection;
use tests::Violation;
use tests::lab::{Lab, Miss, Notice, Verdict, page, pages};

/// Each operation, missed by the device alone: the oracle, or the machine, has to say so.
#[test]
fn a_deaf_device_is_found_out() -> Outcome {
    type Change = fn(&Lab) -> Result<Verdict, Violation>;
    let changes: [(&str, Notice, Change); 5] = [
        ("munmap", Notice::RangeBegin, |lab| lab.munmap(pages(1, 1))),
        ("mprotect", Notice::RangeBegin, |lab| lab.mprotect(pages(1, 1), Protection::Read)),
        ("discard", Notice::RangeBegin, |lab| lab.discard(pages(1, 1))),
        ("migration", Notice::InvalidatePage, |lab| lab.migrate(page(1))),
        ("exit", Notice::Release, Lab::exit_space),
    ];
    for (what, notice, change) in changes {
        let lab = warm(2)?;
        let ears = &lab.device(DEVICE).ears;
        ears.miss(Miss::Every(notice));
        if notice == Notice::Release {
            // The unmapping that follows finds nobody subscribed.
            ears.miss(Miss::Number(ears.calls()));
        }
        let found = change(&lab);
        let Err(violation) = found else { panic!("{what}: {found:?}, and nobody noticed") };
        let device = matches!(
            violation,
            Violation::FreedWhileInDevice { .. }
                | Violation::DeviceDiffers { .. }
                | Violation::DeviceWritable { .. }
        );
        assert!(device, "{what}: {violation:?}");
    }
    Ok(())
}

#[test]
fn a_device_that_does_not_tell_its_use_is_found_out() -> Outcome {
    let lab = warm(1)?;
    lab.age(page(0))?;
    lab.device(DEVICE).ears.miss(Miss::Every(Notice::ClearFlushYoung));
    lab.device_load(DEVICE, page(0))?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(false), "nobody else has used it");
    lab.device(DEVICE).ears.miss(Miss::Nothing);
    lab.finish()
}
