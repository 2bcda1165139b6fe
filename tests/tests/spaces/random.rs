//! The share of the random sequences that every test run takes: the same each time. `cargo xtask test random` takes more,
//! and others.

use tests::sequence::run_seed;

/// Cases, with the seeds from 0 on.
const CASES: u64 = 2500;

#[test]
fn any_sequence_over_spaces_files_and_swap_leaves_everything_in_order() {
    let mut steps = 0;
    for seed in 0..CASES {
        match run_seed(seed) {
            Ok(taken) => steps += taken,
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{steps} steps");
}
