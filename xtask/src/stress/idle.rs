//! `idle`: ten idle Linux guests, beside one that sweeps over nearly all memory again and again, until they are as small as they
//! get. Then one is woken: it gets a line of input on its console, and the ticks to the end of its answer are counted; and once
//! more, when what it needs is in memory.

use super::Bench;
use super::plan::{Finished, Judgement, Plan, Step};
use crate::guest_images;
use anyhow::{Context, Result};
use std::fmt::Write;

/// In MiB.
const HOST: u64 = 192;
/// RAM of an idle guest, in MiB.
const MEMORY: u64 = 64;
/// RAM of the one that sweeps, in MiB.
const SWEEPER: u64 = 136;
const GUESTS: usize = 10;
const QUICK_GUESTS: usize = 4;
const QUICK_HOST: u64 = 96;
const QUICK_SWEEPER: u64 = 66;
/// Its rounds: it goes on when all others sleep.
const ROUNDS: u64 = 3;
const SWAP: &str = "ram:32M,disk:256M";
/// Pages that idle guests have at most in the end, on average: 3 MiB.
const MOST: u64 = 768;
/// Wall seconds.
const TIMEOUT: u64 = 3000;
/// A line of input, and what it makes the shell say; the words differ, so that the echo is not taken for the answer. Then the guest
/// sleeps, so that a record tells how long the answer took.
const ASKS: &str = "echo awake $((6 * 7)); sleep 2; echo rested $((5 + 5))\n";
const ANSWERS: &str = "awake 42";
const RESTS: &str = "rested 10";
/// Seconds behind the answer at which such a record has come, and the guest still sleeps.
const ASLEEP: f64 = 1.0;

/// The guests.
///
/// # Errors
/// Their images cannot be made.
pub(super) fn plan(bench: &Bench<'_>) -> Result<Plan> {
    let quick = bench.args.quick;
    let (guests, host, sweeper) =
        if quick { (QUICK_GUESTS, QUICK_HOST, QUICK_SWEEPER) } else { (GUESTS, HOST, SWEEPER) };
    let tiny = guest_images::tiny(bench.binaries)?;
    let initrd = tiny.initrd.context("the tiny Linux has a user space")?;
    let dir = bench.dir.path();
    std::fs::copy(&tiny.kernel, dir.join("linux")).context("the tiny Linux")?;
    std::fs::copy(initrd, dir.join("initrd")).context("its user space")?;
    let mut config = String::new();
    for number in 1..=guests {
        let _ = write!(
            config,
            "[[vm]]\nname = \"idle-{number}\"\nkernel = \"linux\"\ninitrd = \"initrd\"\nmemory = \"{MEMORY}M\"\n\
             append = \"{}\"\n",
            tiny.append
        );
    }
    let rounds = bench.args.count.unwrap_or(ROUNDS);
    // Nobody waits for it: it gets what the others leave.
    let _ = write!(
        config,
        "[[vm]]\nname = \"sweeper\"\nkernel = \"testguest\"\nmemory = \"{sweeper}M\"\nweight = 10\n\
         append = \"sweep rounds={rounds} every=24\"\n"
    );
    let path = dir.join("idle.toml");
    std::fs::write(&path, config).with_context(|| path.display().to_string())?;
    let mut arguments = bench.machine(&format!("{host}M"), 1, Some(SWAP));
    arguments.extend(["--config".to_owned(), path.display().to_string()]);
    let judge = move |run: &Finished| judge(run, guests);
    Ok(Plan {
        label: "idle".into(),
        arguments,
        clones: Vec::new(),
        steps: steps(guests),
        timeout: TIMEOUT,
        judge: Box::new(judge),
    })
}

/// Of the console: the next keys are for this guest.
pub(super) fn focus(number: usize) -> String {
    let key = if number < 10 { b'0' + number as u8 } else { b'a' + (number - 10) as u8 };
    format!("\u{1c}{}", char::from(key))
}

/// All shells are there; the sweeper has ended; the first guest is asked twice; all are sent home.
fn steps(guests: usize) -> Vec<Step> {
    let prompts = (1..=guests).map(|number| Step::new(format!("[idle-{number}] herald:/# "), ""));
    let first = format!("{}{ASKS}", focus(1));
    let asked = [("[sweeper] sweep: ok", first.as_str()), (ANSWERS, ""), (RESTS, ASKS), (ANSWERS, "")];
    let asked = asked.map(|(wait, keys)| Step::new(wait, keys));
    let home = (1..=guests).map(|number| format!("{}poweroff -f\n", focus(number))).collect::<String>();
    prompts.chain(asked).chain([Step::new(RESTS, home)]).collect()
}

fn judge(run: &Finished, guests: usize) -> Judgement {
    let mut judgement = Judgement::expecting(0, run);
    judgement.check("the sweeper has read no wrong word", run.console.contains("[sweeper] sweep: ok"));
    judgement.at_least("answers", run.console.matches(ANSWERS).count() as u64, 2);
    let Some([squeezed, cold, rested, warm]) = run.marks.get(guests..guests + 4) else {
        judgement.check("the guest was woken twice", false);
        return judgement;
    };
    let resident: Vec<u64> = (0..guests)
        .map(|guest| run.history.value(guest, *squeezed, |record| record.resident_frames))
        .collect();
    let (least, most) =
        (resident.iter().min().copied().unwrap_or(0), resident.iter().max().copied().unwrap_or(0));
    let mean = resident.iter().sum::<u64>() / guests as u64;
    judgement.at_most("pages that idle guests have kept, on average", mean, MOST);
    judgement.figure("resident, on average", mean as f64 * 4.0, "KiB");
    judgement.figure("resident, of the smallest", least as f64 * 4.0, "KiB");
    judgement.figure("resident, of the largest", most as f64 * 4.0, "KiB");
    for (name, mark, before) in [("squeezed", cold, squeezed), ("warm", warm, rested)] {
        let answer = run.history.value(0, mark + ASLEEP, |record| record.answer_ticks);
        judgement.figure(format!("ticks from input to the answer, {name}"), answer as f64, "");
        let back = |at| run.history.value(0, at, |record| record.swap.back);
        let pages = back(mark + ASLEEP).saturating_sub(back(*before));
        judgement.figure(format!("pages swapped in for it, {name}"), pages as f64, "");
    }
    judgement
}
