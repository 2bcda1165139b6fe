//! Rules broken on purpose. Each model here has a schedule that fails, and it is found: so the other models prove
//! something.

use crate::{PAGE, TWO, WORD, busy_lab, lab};
use models::{Failure, GUEST, Model, Program, ends_well, everybody_reads};
use tests::lab::{Lab, Miss, Notice, page};
use tests::machine::Skip;

fn guest_against(setup: impl Fn() -> Lab + Send + Sync + 'static, operation: fn(&Lab)) -> Failure {
    let failure = Model::new(setup)
        .thread("guest", |lab| {
            Program::guest(lab, 0).load(WORD).expect("memory");
        })
        .thread("host", operation)
        .end(|lab| {
            everybody_reads(&lab, WORD).expect("memory");
            ends_well(lab);
        })
        .fails(TWO);
    println!("{failure}");
    failure
}

fn deaf(miss: Miss) -> impl Fn() -> Lab + Send + Sync + 'static {
    move || {
        let lab = lab();
        lab.guest(GUEST).ears.miss(miss);
        lab
    }
}

fn discard(lab: &Lab) {
    lab.space.discard(page(0), PAGE).expect("is mapped");
}

fn migrate(lab: &Lab) {
    lab.space.migrate_page(page(0)).expect("nobody else has the page");
}

/// A fault between the begin and the change of the primary entry.
#[test]
fn a_range_that_ends_before_the_primary_entries_change_is_caught() {
    let failure = guest_against(deaf(Miss::EndsEarly), discard);
    assert!(failure.executions > 1, "only some schedules fail");
}

#[test]
fn a_migration_that_the_guest_does_not_hear_of_is_caught() {
    guest_against(deaf(Miss::Every(Notice::InvalidatePage)), migrate);
}

#[test]
fn a_discard_whose_begin_the_guest_does_not_hear_is_caught() {
    guest_against(deaf(Miss::Every(Notice::RangeBegin)), discard);
}

#[test]
fn flushes_that_do_not_happen_are_caught() {
    for skip in [Skip::Primary, Skip::Secondary] {
        guest_against(
            move || {
                let lab = busy_lab();
                lab.machine.skip_flushes(skip);
                lab
            },
            migrate,
        );
    }
}

/// What a failure tells is enough to see it again: the schedule alone leads there.
#[test]
fn a_failure_names_a_schedule() {
    let failure = guest_against(deaf(Miss::EndsEarly), discard);
    let parts: Vec<_> = failure.schedule.split(',').collect();
    assert!(!failure.schedule.is_empty() && parts.iter().all(|part| part.split_once(':').is_some()));
    assert!(failure.to_string().contains(models::SCHEDULE), "{failure}");
}
