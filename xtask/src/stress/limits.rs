//! `limits`: a guest with a hard limit on its memory sweeps over four times as much, beside one without, on a machine that has
//! enough for both. The one with the limit never has more, and is alone in swap.

use super::Bench;
use super::plan::{Finished, Judgement, Plan};
use anyhow::{Context, Result};

const HOST: &str = "192M";
const SWAP: &str = "ram:64M,disk:128M";
/// The limit, in MiB: a quarter of the guest's memory.
const LIMIT: u64 = 24;
const QUICK_LIMIT: u64 = 12;
/// Pages that the guest may have beyond it for a moment: a batch of reclaim.
const BEYOND: u64 = 64;
const ROUNDS: u64 = 6;
const QUICK_ROUNDS: u64 = 1;
/// Wall seconds of a round.
const TIMEOUT: u64 = 600;
const GUESTS: &str = r#"
[[vm]]
name = "limited"
kernel = "testguest"
append = "sweep rounds=ROUNDS every=24"
memory = "FOURFOLDM"
memory_max = "LIMITM"

[[vm]]
name = "free"
kernel = "testguest"
append = "sweep rounds=TWICE every=24"
memory = "DOUBLEM"
"#;

/// The guests.
///
/// # Errors
/// A file cannot be written.
pub(super) fn plan(bench: &Bench<'_>) -> Result<Plan> {
    let rounds = bench.args.count.unwrap_or(if bench.args.quick { QUICK_ROUNDS } else { ROUNDS });
    let limit = if bench.args.quick { QUICK_LIMIT } else { LIMIT };
    let words = [
        ("ROUNDS", rounds),
        ("TWICE", 2 * rounds),
        ("LIMIT", limit),
        ("DOUBLE", 2 * limit),
        ("FOURFOLD", 4 * limit),
    ];
    let guests =
        words.iter().fold(GUESTS.to_owned(), |text, (word, value)| text.replace(word, &value.to_string()));
    let config = bench.dir.path().join("limits.toml");
    std::fs::write(&config, guests).with_context(|| config.display().to_string())?;
    let mut arguments = bench.machine(HOST, 1, Some(SWAP));
    arguments.extend(["--config".to_owned(), config.display().to_string()]);
    let (steps, timeout) = (Vec::new(), TIMEOUT * (rounds + 1));
    Ok(Plan {
        label: "limits".into(),
        arguments,
        clones: Vec::new(),
        steps,
        timeout,
        judge: Box::new(move |run| judge(run, limit << 8)),
    })
}

fn judge(run: &Finished, limit_pages: u64) -> Judgement {
    let (limited, free) = (0, 1);
    let mut judgement = Judgement::expecting(0, run);
    for name in ["limited", "free"] {
        judgement.check(
            format!("no word of {name} was wrong"),
            run.console.contains(&format!("[{name}] sweep: ok")),
        );
    }
    let most = run.history.most(limited, |record| record.resident_frames);
    judgement.at_most("pages that the limited guest has had", most, limit_pages + BEYOND);
    let swapped = |guest| run.history.most(guest, |record| record.swap.out);
    judgement.at_least("pages of it that were swapped out", swapped(limited), 2 * limit_pages);
    judgement.at_most("pages of the other one that were swapped out", swapped(free), 0);
    for (guest, name) in [(limited, "limited"), (free, "free")] {
        let wait = run.history.last(guest).map_or(0.0, |sample| {
            sample.record.memory_ticks as f64 * 100.0 / sample.record.run_ticks.max(1) as f64
        });
        judgement.figure(format!("time that {name} has waited for memory"), wait, "%");
    }
    judgement
}
